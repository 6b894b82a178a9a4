"""The lists that ``split`` writes: whose folder they may go to, and how they are replaced."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

PARTS = ("train", "val", "test")
_COLUMNS = ("image", "label", "group", "split")
_HEADERS = (",".join(_COLUMNS), ",".join(column for column in _COLUMNS if column != "label"))
_LONGEST = max(map(len, _HEADERS)) + 2


def refuse_others(out: Path, source: Path) -> None:
    """Nothing where ``out`` may take (or take again) the lists of a split of ``source``.

    Raises:
        ValueError: it is the source, the folder of the source's list, or holds a list of some part that ``split`` did not write.
    """
    from mae_vlm.data.sources.parts.split_names import split_in
    from mae_vlm.data.sources.parts.tables import SUFFIXES

    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; give a folder for the lists")
    if out.resolve() in (source.resolve(), source.resolve().parent if source.is_file() else None):
        raise ValueError(f"--out {out} is where SRC {source} lies, whose own lists stay as they are; give another folder, as {out}_split")
    for file in sorted(out.iterdir()) if out.is_dir() else ():
        if file.suffix.lower() in SUFFIXES and split_in(file.stem) and file.is_file() and not _is_ours(file):
            raise ValueError(f"--out {out} holds {file.name}, which split did not write; give another folder, or move {file.name} away")


def _is_ours(file: Path) -> bool:
    """Whether a file is a list that ``split`` wrote, told by name and header."""
    if file.name not in [f"{part}.csv" for part in PARTS]:
        return False
    with file.open("rb") as opened:
        return opened.readline(_LONGEST).rstrip(b"\r\n").decode("latin-1") in _HEADERS


def write_lists(out: Path, rows: Mapping[str, Sequence[tuple[str, str, str, str]]]) -> None:
    """``rows`` (image, label, group, split) of each part as its csv; then the lists of an earlier split's other parts are removed."""
    from data_prep.whole_file import write_whole

    out.mkdir(parents=True, exist_ok=True)
    for part, held in rows.items():
        text = io.StringIO()
        kept = (0, 1, 2, 3) if any(row[1] for row in held) else (0, 2, 3)
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([row[column] for column in kept] for row in [_COLUMNS, *held])
        write_whole(out / f"{part}.csv", text.getvalue().encode("utf-8", "surrogateescape"))
    for part in PARTS:
        stale = out / f"{part}.csv"
        if part not in rows and stale.is_file() and _is_ours(stale):
            stale.unlink()
