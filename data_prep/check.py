"""``python -m data_prep check SRC [VAL]``: reads everything and reports what is wrong, as JSON and as a page with pictures."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.arguments import Parser, add_engine, add_source, open_parts
from data_prep.console import say

if TYPE_CHECKING:
    from mae_vlm.data.problems import Problems
    from mae_vlm.data.sources.base import Source


def main(arguments: list[str]) -> int:
    """Write report.json and report.html and print the summary; 0 also where something was found."""
    parser = Parser(
        "check",
        "Reads every picture and reports unreadable ones, near-duplicates (also between train and val, and under other labels), sizes, "
        "channels, statistics, classes, captions and bad annotations.",
    )
    add_source(parser)
    parser.add_argument("val", metavar="VAL", nargs="?", help="validation pictures that lie elsewhere; as SRC")
    parser.add_argument("--out", default="check_report", metavar="DIR", help="folder of report.json and report.html (default: %(default)s)")
    parser.add_argument("--mirrored", action="store_true", help="mirrored copies are duplicates too")
    add_engine(parser)
    return _run(parser.parse_args(arguments))


def _run(options: argparse.Namespace) -> int:
    from data_prep.duplicates import find_duplicates
    from data_prep.findings import findings
    from data_prep.gathering import gather
    from data_prep.page import page
    from data_prep.whole_file import write_whole

    parts, form, problems = _parts(options)
    seen = gather(parts, options.engine, options.workers, options.value_range)
    copies = find_duplicates(seen, options.mirrored)
    sources = list(parts.values())
    report = {"source": options.source, "val": options.val, "format": form, "mirrored": options.mirrored}
    report |= findings(seen, copies, sources, problems)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "report.json", json.dumps(report, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace"))
    write_whole(out / "report.html", page(report, parts, options.value_range).encode("utf-8", "backslashreplace"))
    _tell(report, out)
    return 0


def _parts(options: argparse.Namespace) -> tuple[dict[str, Source], str, Problems]:
    """The parts of SRC; those of VAL joined as the val part."""
    parts, form, problems = open_parts(options)
    if options.val is not None:
        from mae_vlm.data.sources.base import Joined

        parts = {("train" if name == "all" else name): source for name, source in parts.items() if name != "val"}
        other, _, more = open_parts(options, options.val, like=next(iter(parts.values())))
        parts["val"] = Joined(list(other.values()))
        problems.counts.update(more.counts)
        problems.first += more.first
    return parts, form, problems


def _tell(report: dict[str, Any], out: Path) -> None:
    summary = report["summary"]
    counts = ", ".join(f"{name} {part['pictures']:,}" for name, part in report["parts"].items())
    say(f"{summary['pictures']:,} pictures: {counts}")
    for name, count in summary.items():
        if count and name != "pictures":
            say(f"  {name.replace('_', ' '):<24} {count:,}")
    say(f"wrote {out / 'report.json'}\nwrote {out / 'report.html'}")
