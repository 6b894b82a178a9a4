"""``python -m mae_vlm zeroshot RUN --data.path FOLDER``."""

from __future__ import annotations

import argparse
import csv
import io
import os
from pathlib import Path
from typing import Any

from mae_vlm.commands.arguments import Arguments, complain

_ROWS = 40  # of the table on the screen


def main(arguments: list[str]) -> int:
    """Print shares and a table, write both where asked; 0 when done, 1 for a mistake of the user's."""
    parser = Arguments(
        "zeroshot",
        "Classify pictures by the names of the classes alone: each class lies where sentences with its name lie, each picture belongs to "
        "the nearest. Without --data.path it classifies generated scenes by their largest shape.",
    )
    parser.add_argument("run", metavar="RUN", help="a run with words: a folder or a checkpoint")
    parser.add_argument("--data.path", dest="path", metavar="PATH", help="a folder for each class, or any collection with labels")
    parser.add_argument("--data.format", dest="format", default="auto", help="as in fit; default: told from the content")
    parser.add_argument("--data.annotations", dest="annotations", help="as in fit")
    parser.add_argument("--data.label_column", dest="label", help="as in fit")
    parser.add_argument("--part", choices=["train", "val", "test", "all"], help="default: the collection's own val part, else all of it")
    parser.add_argument("--templates", type=Path, metavar="FILE", help="a sentence a line with {} for the name; their mean counts")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="other names for the classes, in their order")
    parser.add_argument("--out", type=Path, metavar="DIR", help="also write classes.csv and predictions.csv there")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="pictures at a time; default 64")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that read pictures; default: half of the cores, at most 8")
    parser.add_argument("--device", help="cpu, cuda, ...; default: cuda where there is one")
    given = parser.parse_args(arguments)
    try:
        return _zeroshot(given)
    except (ValueError, OSError) as problem:
        complain(problem)
        return 1


def _zeroshot(given: argparse.Namespace) -> int:
    import numpy as np
    import torch

    from mae_vlm.index.model import of_run
    from mae_vlm.index.pictures import batches
    from mae_vlm.index.zeroshot import TEMPLATES, classify, read_templates

    if given.batch_size < 1 or (given.workers is not None and given.workers < 0):
        raise ValueError(f"--batch-size {given.batch_size}, --workers {given.workers} given, allowed are 1 and more, 0 and more")
    templates = TEMPLATES if given.templates is None else read_templates(given.templates)
    model = of_run(given.run)
    if not model.reads:
        raise ValueError(f"{given.run} was trained without words; train a run with captions, by image_text or the head Retrieve")
    source, part = _source(given, model.size)
    names = _names(given, source)
    model.to(given.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    workers = min(8, (os.cpu_count() or 2) // 2) if given.workers is None else given.workers
    reads = batches(source, np.arange(len(source)), given.batch_size, model.size, model.form, workers)
    tally = classify(model, reads, source.name, names, templates)
    _tell(tally, part, len(templates))
    if given.out is not None:
        _write(given.out / "classes.csv", tally.rows())
        most = min(5, len(names))
        titles = ["id", *(title for place in range(1, most + 1) for title in (f"class_{place}", f"score_{place}"))]
        rows = [[id, *(text for name, score in best for text in (name, f"{score:.6f}"))] for id, best in tally.answers]
        _write(given.out / "predictions.csv", [titles, *rows])
    return 0


def _source(given: argparse.Namespace, size: tuple[int, int]) -> tuple[Any, str]:
    """The pictures, and which part of what they are."""
    from mae_vlm.data.parts import Ingredient, open_files, open_scenes
    from mae_vlm.data.problems import Problems
    from mae_vlm.data.sources.base import Columns

    if given.path is None:
        parts, where = open_scenes(1, 1000, size, 0).sources, "generated scenes"
    else:
        what = Ingredient(given.path, 1.0, given.format, given.annotations, None, 0.0)
        parts, where = open_files(what, Columns(label=given.label), Problems("drop")).sources, given.path
    part = given.part or ("val" if "val" in parts else "all")
    if part not in parts:
        raise ValueError(f"--part {part}: {where} has no such part, it has {', '.join(sorted(parts))}")
    return parts[part], f"the {part} part of {where}"


def _names(given: argparse.Namespace, source: Any) -> list[str]:
    known, said = source.classes, given.classes
    if known is None and said is None:
        raise ValueError(f"{given.path} has no classes; name some with --classes, or put the pictures into a folder for each class")
    if known is not None and said is not None and len(known) != len(said):
        raise ValueError(
            f"--classes names {len(said)}, the collection has {len(known)} classes: {', '.join(known[:10])}; name each, in order"
        )
    return list(said or known)


def _tell(tally: Any, part: str, templates: int) -> None:
    if tally.labelled:
        rows = tally.rows()
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        for row in rows[: _ROWS + 1]:
            cells = [row[0].ljust(widths[0]), *(row[column].rjust(widths[column]) for column in (1, 2, 3)), row[4]]
            print("  ".join(cells).rstrip())
        if len(rows) > _ROWS + 1:
            print(f"... and {len(rows) - _ROWS - 1} more classes; --out DIR writes all")
        five = f", top5 {tally.top5:.4f}" if len(tally.names) > 5 else ""
        told = f"{tally.labelled:,} labelled pictures of {len(tally.names)} classes, {templates} templates"
        print(f"top1 {tally.top1:.4f}{five}   ({part}: {told}; guessing gives {1 / len(tally.names):.4f})")
    else:
        print(f"{part}: {len(tally.answers):,} pictures, none with a label: nothing to score; --out DIR writes the answers")
    for one in tally.broken[:5]:
        print(f"left out: {one.id}: {one.reason}")
    if len(tally.broken) > 5:
        print(f"... and {len(tally.broken) - 5} more that could not be read")


def _write(file: Path, rows: list[list[str]]) -> None:
    from mae_vlm import storage

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    storage.write_whole(file, lambda opened: opened.write(text.getvalue().encode("utf-8", "surrogateescape")))
    print(f"wrote {file}")
