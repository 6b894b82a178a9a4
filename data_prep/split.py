"""``python -m data_prep split SRC --out DIR``: train and val (and test) lists that respect groups."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.arguments import Parser, add_engine, add_source, open_parts
from data_prep.console import say
from data_prep.lists import PARTS, refuse_others, write_lists

if TYPE_CHECKING:
    from mae_vlm.data.problems import Problems
    from mae_vlm.data.sources.base import Source

_HUGE = 0.25  # share of all pictures above which one group is told about
_CLASSES = 10  # shown of each part


def main(arguments: list[str]) -> int:
    """Write train.csv, val.csv and test.csv and say what they hold."""
    parser = Parser(
        "split",
        "Writes lists of pictures (image, label, group, split) that mae_vlm reads by --data.path DIR, or shards. Pictures of one group are "
        "never in two parts. "
        "Parts are told by a hash of the group's name (or the picture's, without groups), so they stay as pictures are added.",
    )
    add_source(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the lists; lists of an earlier split are replaced")
    parser.add_argument(
        "--fraction", type=_share, default=0.1, metavar="F", help="share of the groups that validates (default: %(default)s)"
    )
    parser.add_argument("--test-fraction", type=_share, metavar="F", help="share that is kept for a test (default: no test part)")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--group-column", metavar="NAME", help="column of the table (list or parquet) that names each picture's group")
    group.add_argument(
        "--group-pattern", type=_pattern, metavar="REGEX", help="searched in each picture's name; its one (...) is the group"
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed, another split (default: %(default)s)")
    parser.add_argument("--shards", action="store_true", help="write shards with all that SRC knows: for tables, shards and annotated sets")
    add_engine(parser)
    options = parser.parse_args(arguments)
    if options.fraction + (options.test_fraction or 0) >= 1:
        parser.error("--fraction and --test-fraction leave nothing to train on; together they must be less than 1")
    return _run(options)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} given, allowed is a share between 0 and 1, as 0.1")
    return value


def _pattern(text: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a regular expression ({error})") from None
    if pattern.groups != 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} has {pattern.groups} groups; put (...) around the part of the name that tells the group"
        )
    return pattern


def _run(options: argparse.Namespace) -> int:
    from data_prep.groups import choose

    out = Path(options.out)
    if not options.shards:
        refuse_others(out, Path(options.source).expanduser())
    parts, form, problems = open_parts(options)
    sources = list(parts.values())
    if len(parts) > 1:
        say(f"{options.source} has its own parts ({', '.join(parts)}); all are split anew")
    names = [_name(name) for source in sources for name in source.names().to_pylist()]
    files = [] if options.shards else [file for source in sources for file in _files(source)]
    groups = _groups(options, sources, names)
    labels = _labels(sources)
    chosen = choose(groups, [options.fraction, *([options.test_fraction] if options.test_fraction else [])], options.seed)
    rows = {part: [i for i, number in enumerate(chosen.tolist()) if number == place] for place, part in enumerate(PARTS) if place in chosen}
    for part, held in rows.items():
        _tell(part, [groups[i] for i in held], [labels[i] for i in held], len(names))
    _warn(groups)
    if options.shards:
        return _write_shards(sources, rows, form, problems, options)
    write_lists(out, {part: [(str(files[i]), labels[i], groups[i].partition(" ")[2], part) for i in held] for part, held in rows.items()})
    say(f"wrote the lists into {out}; train with --data.path {out}")
    return 0


def _write_shards(sources: Sequence[Source], rows: dict[str, list[int]], form: str, problems: Problems, options: argparse.Namespace) -> int:
    import numpy as np

    from data_prep import shards
    from mae_vlm.data.sources.base import Joined, Part

    whole = Joined(sources) if len(sources) > 1 else sources[0]
    parts: dict[str, Source] = {part: Part(whole, np.array(held, dtype=np.int64)) for part, held in rows.items()}
    others = {"short_side": None, "quality": None, "samples_per_shard": None, "shard_mb": None, "shuffle": None}
    return shards.write(parts, form, problems, argparse.Namespace(**vars(options), destination=options.out, **others))


def _name(name: Any) -> str:
    return name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else str(name)


def _files(source: Source) -> list[Path]:
    """Where the pictures lie; those that are gone since the source was opened are named all the same.

    Raises:
        ValueError: the source's pictures are no files.
    """
    base = getattr(source, "root", None) or getattr(source, "base", None)
    names = [_name(name) for name in source.names().to_pylist()]
    files = [Path(base).resolve() / name for name in names] if base is not None else []
    gone = sum(not file.is_file() for file in files)
    if gone == len(files):
        raise ValueError(f"picture {names[0]} is not a file of its own, so a list cannot name it; write shards instead: --shards")
    if gone:
        say(f"warning: {gone:,} of {len(files):,} pictures are gone since {base} was listed")
    return files


def _groups(options: argparse.Namespace, sources: Sequence[Source], names: Sequence[str]) -> list[str]:
    from data_prep.groups import by_column, by_pattern

    if options.group_column:
        return by_column(options.group_column, sources, names, Path(options.source).expanduser(), options.annotations)
    if options.group_pattern is None:
        return [f"name {name}" for name in names]
    groups, alone = by_pattern(names, options.group_pattern)
    if alone:
        say(f"warning: {alone:,} of {len(names):,} names do not match {options.group_pattern.pattern}; each is a group of its own")
    return groups


def _labels(sources: Sequence[Source]) -> list[str]:
    """The class name of each picture, "" for none and for pictures that would have to be read for it and cannot be."""
    from data_prep.groups import labels_of

    labels = [label for source in sources for label in labels_of(source)]
    unread = sum(label is None for label in labels)
    if unread:
        say(f"warning: {unread:,} of {len(labels):,} pictures cannot be read, so their labels are unknown; check tells why")
    return [label or "" for label in labels]


def _tell(part: str, groups: list[str], labels: list[str], total: int) -> None:
    say(f"{part:<5} {len(groups):>9,} pictures ({len(groups) / total:.1%}) in {len(set(groups)):,} groups")
    counts = Counter(label for label in labels if label)
    if counts:
        shown = ", ".join(f"{label} {count / len(labels):.1%}" for label, count in sorted(counts.items())[:_CLASSES])
        say(f"      {shown}" + (f" and {len(counts) - _CLASSES} more classes" if len(counts) > _CLASSES else ""))


def _warn(groups: Sequence[str]) -> None:
    group, count = Counter(groups).most_common(1)[0]
    if count > _HUGE * len(groups) and len(groups) > 1:
        say(f"warning: {group} holds {count:,} of {len(groups):,} pictures; the parts cannot be of the sizes asked for")
