"""``python -m data_prep shards SRC DST``: any collection as WebDataset tar shards."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.arguments import Parser, add_engine, add_source, at_least, open_parts
from data_prep.console import complain, say, with_bar

if TYPE_CHECKING:
    from data_prep.manifest import Journal
    from data_prep.shard_plan import Shard
    from data_prep.shard_writer import Record, ShardWriter
    from mae_vlm.data.problems import Problems
    from mae_vlm.data.sources.base import Source

_SAMPLES = 1000
_QUALITY = 90
_TRIED = 64  # pictures that tell how large a sample is


def main(arguments: list[str]) -> int:
    """Write, go on with, or verify a folder of shards."""
    parser = Parser(
        "shards",
        "Writes tar shards with all that SRC knows (labels, captions, questions, boxes, masks), train and val apart. The same options give "
        "the same bytes for any number of workers; after a kill the same command goes on. Shards are written to DST by every worker.",
    )
    add_source(parser)
    parser.add_argument("destination", metavar="DST", nargs="?", help="folder to write: empty, new, or begun by the same command")
    parser.add_argument("--short-side", type=at_least(8), metavar="PIXELS", help="shrink larger pictures to this short side, as JPEG")
    parser.add_argument("--quality", type=at_least(1), metavar="Q", help=f"of those JPEGs, up to 100 (default: {_QUALITY})")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--samples-per-shard", type=at_least(1), metavar="N", help=f"pictures in one shard (default: {_SAMPLES})")
    size.add_argument("--shard-mb", type=at_least(1), metavar="MB", help=f"about so many MiB in one shard, judged by {_TRIED} pictures")
    parser.add_argument("--shuffle", type=int, metavar="SEED", help="write in the order of a permutation: for sources sorted by class")
    parser.add_argument("--verify", action="store_true", help="write nothing: compare the shards in SRC with their checksums")
    add_engine(parser)
    options = parser.parse_args(arguments)
    if options.verify:
        return _verify(Path(options.destination or options.source), options)
    if options.destination is None:
        parser.error("DST is missing")
    if options.quality is not None and (options.short_side is None or options.quality > 100):
        parser.error("--quality is from 1 to 100, and is of pictures that --short-side shrinks")
    return write(*open_parts(options), options)


def write(parts: dict[str, Source], form: str, problems: Problems, options: argparse.Namespace) -> int:
    """Write the parts, read as ``form``, into ``options.destination``."""
    from data_prep.engine import run
    from data_prep.manifest import Journal
    from data_prep.shard_plan import plan

    folder = Path(options.destination)
    writer, settings = _settings(parts, form, folder, options)
    journal = Journal(folder, settings)
    writer.known.update(journal.known)
    shards = plan(parts, settings["samples_per_shard"])
    done = run(writer, shards, options.engine, options.workers)
    total = sum(map(len, parts.values()))
    records, kept = _collect(journal, shards, done, total)
    first = next(iter(parts.values()))
    journal.finish(records, {"classes": first.classes, "object_classes": first.object_classes})
    if len(problems):
        problems.write(folder / "bad_annotations.jsonl")
    _tell(records, kept, len(problems), folder)
    return 0


def _settings(parts: dict[str, Source], form: str, folder: Path, options: argparse.Namespace) -> tuple[ShardWriter, dict[str, Any]]:
    """The writer, and everything that the bytes depend on."""
    from data_prep.shard_plan import fingerprints
    from data_prep.shard_writer import ShardWriter

    quality = options.quality or _QUALITY
    writer = ShardWriter(parts, folder.resolve(), options.short_side, quality, options.shuffle, options.value_range)
    samples = options.samples_per_shard or (_samples_of(writer, options.shard_mb << 20) if options.shard_mb else _SAMPLES)
    settings = {
        "source": str(options.source),
        "format": form,
        "parts": fingerprints(parts),
        "short_side": options.short_side,
        "quality": quality if options.short_side else None,
        "samples_per_shard": samples,
        "shuffle": options.shuffle,
        "value_range": options.value_range,
    }
    return writer, settings


def _samples_of(writer: ShardWriter, size: int) -> int:
    """Pictures that make about ``size`` bytes, judged by some of the largest part, spread by a permutation."""
    from dataclasses import replace

    from data_prep.shard_plan import Shard

    part = max(writer.parts, key=lambda name: len(writer.parts[name]))
    few = Shard("", part, 0, min(_TRIED, len(writer.parts[part])))
    found = [one for one in replace(writer, shuffle=0).members(few) if isinstance(one, list)]
    if not found:
        raise ValueError(f"none of {few.stop} pictures looked at can be read; python -m data_prep check tells why")
    padded = sum(512 + -(-len(data) // 512) * 512 for members in found for _, data in members)
    return max(1, round(size * len(found) / padded))


def _collect(journal: Journal, shards: list[Shard], done: Any, total: int) -> tuple[list[Record], int]:
    """All records, and how many shards were there already."""
    records, kept = [], 0
    counted = ((shard.stop - shard.start, result) for shard, result in zip(shards, done, strict=True))
    for record, before in with_bar(counted, total, "pictures"):
        journal.add(record)
        records.append(record)
        kept += before
    return records, kept


def _tell(records: list[Record], kept: int, problems: int, folder: Path) -> None:
    samples, size = sum(record.samples for record in records), sum(record.bytes for record in records)
    shards = sum(record.samples > 0 for record in records)
    before = f", {kept:,} of them from before" if kept else ""
    say(f"{samples:,} pictures in {shards:,} shards ({size / 2**20:,.1f} MiB){before}")
    unreadable = sum(len(record.unreadable) for record in records)
    if unreadable:
        say(f"{unreadable:,} pictures could not be read and were left out: {folder / 'unreadable.jsonl'}")
    if problems:
        say(f"{problems:,} bad annotations were left out: {folder / 'bad_annotations.jsonl'}")
    say(f"wrote {folder / 'dataset.json'}; train with --data.path {folder}")


def _verify(folder: Path, options: argparse.Namespace) -> int:
    from data_prep.engine import run
    from data_prep.manifest import read_manifest
    from data_prep.shard_writer import Checksum

    shards = read_manifest(folder)["shards"]
    done = run(Checksum(folder.resolve()), list(shards), options.engine, options.workers)
    counted = ((one["samples"], (name, found)) for (name, one), found in zip(shards.items(), done, strict=True))
    bad = 0
    for name, found in with_bar(counted, sum(one["samples"] for one in shards.values()), "pictures"):
        if found != shards[name]["sha256"]:
            complain(
                f"{folder / name} "
                + ("was changed or cut short" if found else "is missing")
                + "; write it again by the same shards command"
            )
            bad += 1
    say(f"{len(shards) - bad:,} of {len(shards):,} shards are as they were written")
    return 1 if bad else 0
