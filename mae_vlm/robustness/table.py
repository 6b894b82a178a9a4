"""The findings in words and columns: on the screen, as robustness.md, and every number as a row of robustness.csv."""

from __future__ import annotations

import csv
import io

from mae_vlm.robustness.attack import ATTACK, CONTROL, STEPS
from mae_vlm.robustness.calibration import BINS
from mae_vlm.robustness.family import Family
from mae_vlm.robustness.findings import CLEAN, Findings

_LEVELS = 5


def rows(found: Findings) -> list[list[str]]:
    """Header, clean, one row for each family, and the mean over the common ones; ``error`` is the calibration's, of classifiers."""
    calibrated = found.measured[CLEAN].calibration
    extra = ["error"] if calibrated else []
    lines = [["pictures", *map(str, range(1, _LEVELS + 1)), "mean", "drop", *extra]]
    lines.append(["clean", *[""] * _LEVELS, _digits(found.clean), "", *([_digits(calibrated.error)] if calibrated else [])])
    for family in found.families:
        values = [_digits(value) for value in found.values(family)]
        lines.append([family.name, *values, *[""] * (_LEVELS - len(values)), *_summary(found, [family])])
    if found.common:
        lines.append([_mean_of(found), *[""] * _LEVELS, *_summary(found, found.common)])
    return lines


def _summary(found: Findings, families: list[Family]) -> list[str]:
    mean, error = found.mean(*families), found.error(families)
    return [_digits(mean), f"{found.drop(mean):+.4f}", *([] if error is None else [_digits(error)])]


def _mean_of(found: Findings) -> str:
    return f"{len(found.common)} common corruptions"


def _digits(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.1f}"


def notes(found: Findings) -> list[str]:
    """How to read the numbers."""
    way = "higher is better" if found.higher else "lower is better"
    lines = [
        f"{found.metric} of {found.pictures:,} pictures ({way}) at strengths 1 to {_LEVELS}; drop is how much worse than clean the mean is"
    ]
    if found.measured[CLEAN].calibration:
        lines.append(f"error: expected calibration error ({BINS} stretches of the highest score), of a row the mean over its strengths")
    lines.append(
        f"{ATTACK.name}: {STEPS} gradient steps up this head's loss, a longer attack may find more; {CONTROL.name}: as large, by chance"
    )
    return lines


def verdict(found: Findings) -> str:
    """Clean against the common corruptions, and the worst of them, in a sentence."""
    mean, clean = found.mean(*found.common), found.clean
    worst = max(found.common, key=lambda family: found.drop(found.mean(family)))
    share = f" ({found.drop(mean) / abs(clean):.0%})" if clean else ""
    told = f"{found.metric} {clean:.4f} on clean pictures, {mean:.4f} over the common corruptions: a drop of {found.drop(mean):.4f}{share}"
    return told + (f"; most by {worst.name}, {found.mean(worst):.4f}" if found.drop(found.mean(worst)) > 0 else "")


def screen(found: Findings) -> str:
    """The table in columns, and below it how to read it."""
    lines = rows(found)
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    drawn = [_aligned(line, widths) for line in lines]
    return "\n".join([f"head {found.head}", *drawn, "", *notes(found), "", verdict(found)])


def _aligned(cells: list[str], widths: list[int]) -> str:
    return cells[0].ljust(widths[0]) + "".join(f"  {cell:>{width}}" for cell, width in zip(cells[1:], widths[1:], strict=True)).rstrip()


def markdown(several: list[Findings], command: str) -> str:
    """robustness.md: the command, a table for each head with its verdict and notes, and what the strengths are."""
    parts = ["# Robustness", "", f"    {command}", ""]
    for found in several:
        lines = rows(found)
        lines.insert(1, ["---", *["---:"] * (len(lines[0]) - 1)])
        parts += [f"## {found.head}", "", *map(_row, lines), "", f"**{verdict(found)}**", "", *(f"- {line}" for line in notes(found)), ""]
    known = {family.name: family for found in several for family in found.families}
    strengths = [[family.name, family.unit, ", ".join(f"{one:.3g}" for one in family.strengths)] for family in known.values()]
    return "\n".join([*parts, "## Strengths", "", *map(_row, [["pictures", "unit", "strengths"], ["---"] * 3, *strengths]), ""])


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def table_csv(several: list[Findings]) -> str:
    """Every number of every head at every place: head, pictures, strength (0 clean), its setting and unit, metric, value."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["head", "pictures", "strength", "setting", "unit", "metric", "value"])
    for found in several:
        known = {family.name: family for family in found.families}
        for place, measured in found.measured.items():
            family = known.get(place.family)
            setting = ["", ""] if family is None else [f"{family.strengths[place.level - 1]:.6g}", family.unit]
            for metric, value in measured.values.items():
                writer.writerow([found.head, place.family, place.level, *setting, metric, f"{value:.6g}"])
    return file.getvalue()
