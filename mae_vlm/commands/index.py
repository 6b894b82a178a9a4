"""``python -m mae_vlm index FOLDER --weights RUN --out INDEX``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mae_vlm.commands.arguments import Arguments, complain

_SHOWN = 5  # broken pictures told of


def main(arguments: list[str]) -> int:
    """Make an index, or bring one up to date; 0 when done, 1 for a mistake of the user's, 130 when interrupted."""
    parser = Arguments(
        "index",
        "Place every picture below FOLDER by a run's towers and keep that as an index for search. Call it again after a kill, or when "
        "pictures have come, gone or changed: only those are computed. Pictures that cannot be read are left out and told.",
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="pictures, in sub-folders too")
    parser.add_argument(
        "--weights", required=True, metavar="RUN", help="a run folder or checkpoint; with words or, for pictures alone, any"
    )
    parser.add_argument("--out", required=True, metavar="INDEX", type=Path, help="the folder of the index: new, or made by the same run")
    parser.add_argument(
        "--structure", default="auto", choices=["auto", "flat", "ivf", "hnsw"], help="auto: flat to 100,000 pictures, then ivf"
    )
    parser.add_argument("--store", default="float16", choices=["float32", "float16", "int8"], help="bits of a number; default float16")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="pictures at a time; default 64")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that read pictures; default: half of the cores, at most 8")
    parser.add_argument("--device", help="cpu, cuda, ...; default: cuda where there is one")
    parser.add_argument("--bare", action="store_true", help="leave the weights out of the index; search then needs --weights RUN")
    given = parser.parse_args(arguments)
    try:
        return _index(given)
    except (ValueError, OSError) as problem:
        complain(problem)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here")
        return 130


def _index(given: argparse.Namespace) -> int:
    from mae_vlm.index import structure

    structure.library()
    import torch

    from mae_vlm.data.sources.image_folder import ImageFolder
    from mae_vlm.index.build import Options, index, origin_of
    from mae_vlm.index.model import of_run

    if given.batch_size < 1 or (given.workers is not None and given.workers < 0):
        raise ValueError(f"--batch-size {given.batch_size}, --workers {given.workers} given, allowed are 1 and more, 0 and more")
    if not given.folder.exists():
        raise ValueError(f"{given.folder} is not there; name the folder of the pictures")
    workers = min(8, (os.cpu_count() or 2) // 2) if given.workers is None else given.workers
    source, model = ImageFolder(given.folder), of_run(given.weights)
    origin = origin_of(model, given.weights)
    model.to(given.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    options = Options(given.structure, given.store, given.batch_size, workers, not given.bare)
    done = index(source, model, origin, given.out, options, lambda line: print(line, flush=True))
    for one in done.broken[:_SHOWN]:
        print(f"left out: {one.id}: {one.reason}")
    if done.broken:
        print(f"{len(done.broken):,} pictures could not be read: {given.out / 'broken.csv'}")
    held = done.stored
    print(
        f"{held.pictures:,} pictures ({done.new:,} new, {done.gone:,} gone or changed), {held.width} numbers each, {held.kind} {held.bits}"
    )
    print(f"it finds {held.found:.0%} of the true nearest ten; {origin}")
    asked = '"a few words"' if model.reads else "--picture FILE"
    print(f"ask it:  python -m mae_vlm search {given.out} {asked}")
    return 0
