"""A comparison in words and columns: on the screen, as ablation.md, and every run as a row of ablation.csv."""

from __future__ import annotations

import csv
import io

from mae_vlm.ablation.comparison import SECONDS, SPEED, Comparison
from mae_vlm.ablation.outcomes import BLOCK, KNN, LINEAR, LOSS, Outcome
from mae_vlm.ablation.statistics import Difference, Spread

_DIGITS = {SECONDS: 0, SPEED: 0, BLOCK: 1}  # after the point; 4 elsewhere


def rows(comparison: Comparison) -> list[list[str]]:
    """Header and one row for each choice; numbers are ``mean ± standard deviation over the seeds``."""
    tags = list(dict.fromkeys([comparison.score or LINEAR, LINEAR, KNN, BLOCK, LOSS, SECONDS, SPEED]))
    tags = [tag for tag in tags if comparison.columns.get(tag) or tag == LOSS]
    lines = [["choice", "runs", *tags]]
    for choice in comparison.choices:
        done = f"{len(comparison.finished(choice))}/{comparison.asked(choice)}"
        lines.append([choice, done, *(number(comparison.columns.get(tag, {}).get(choice), _DIGITS.get(tag, 4)) for tag in tags)])
    return lines


def number(spread: Spread | None, digits: int) -> str:
    if spread is None:
        return "-"
    return f"{spread.mean:.{digits}f}" + ("" if spread.deviation is None else f" ± {spread.deviation:.{digits}f}")


def screen(comparison: Comparison) -> str:
    """The table in columns, and below it what it says."""
    lines = rows(comparison)
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    drawn = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*drawn, "", *notes(comparison), "", *verdict(comparison)])


def markdown(comparison: Comparison, command: str) -> str:
    """ablation.md: the command, the table, the notes, the verdict."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in rows(comparison)]
    lines.insert(1, ["---"] * len(lines[0]))
    drawn = ["| " + " | ".join(line) + " |" for line in lines]
    first, *others = verdict(comparison)
    said = [f"- {line.strip()}" for line in [*others, *notes(comparison)]]
    return "\n".join(["# Ablation", "", f"    {command}", "", *drawn, "", f"**{first}**", "", *said, ""])


def notes(comparison: Comparison) -> list[str]:
    """How to read the numbers, what was left out and why, and which runs are missing."""
    lines = ["± is the standard deviation over seeds; seconds are those of training with its validations and probes"]
    if comparison.no_loss:
        lines.append(f"{LOSS} is left out, because it means another thing in each row: {'; '.join(comparison.no_loss)}")
    elif len(comparison.columns.get(LOSS, {})) > 1:
        lines.append(f"{LOSS} means the same in every row; a lower loss is not yet a better feature")
    if comparison.columns.get(KNN):
        lines.append(f"{KNN} understates masked autoencoders; it does not rank")
    for one in comparison.outcomes:
        if one.state != "finished":
            reason = f": {one.reason}" if one.reason else ""
            lines.append(f"{one.state}: {one.job.label}{reason}" + ("" if one.state == "not run" else f" ({one.job.log})"))
    return lines


def verdict(comparison: Comparison) -> list[str]:
    """The winner with its margins and cost; or that there is none, why, and what is known all the same."""
    if comparison.winner is None:
        return [f"no winner: {comparison.no_winner}", *_margins(comparison), *_cheapest(comparison)]
    return [
        f"winner by {comparison.score}: {comparison.winner}, in {_seconds(comparison, comparison.winner)} a run",
        *_margins(comparison),
    ]


def _margins(comparison: Comparison) -> list[str]:
    best, score = comparison.best, comparison.score
    if best is None or score is None:
        return []
    lines = []
    for choice, difference in comparison.against.items():
        if difference is not None:
            cost = (
                f"a run of {best} takes {_seconds(comparison, best)}, of {choice} {_seconds(comparison, choice)}{_more(comparison, choice)}"
            )
            lines.append(f"  {score} of {best} minus {choice}: {margin(difference)}; {cost}")
    if any(difference is not None and difference.low is not None for difference in comparison.against.values()):
        lines.append("  (95 % intervals of Student's t on differences paired by seed, for these held-out pictures)")
    return lines


def margin(difference: Difference) -> str:
    """The mean difference, its interval, and what that says."""
    if difference.low is None or difference.high is None:
        why = "one seed" if difference.seeds == 1 else f"the same in all {difference.seeds} seeds: too coarse for an interval"
        return f"{difference.mean:+.4f} ({why})"
    said = "told apart" if difference.told_apart else "not told apart"
    return f"{difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}], {said} with {difference.seeds} seeds"


def _cheapest(comparison: Comparison) -> list[str]:
    """Among the best and what is not told apart from it, the one that costs least: there is no evidence that more pays."""
    if comparison.best is None or not comparison.against:
        return []
    alike = [choice for choice, difference in comparison.against.items() if difference is None or not difference.above]
    cost = {
        choice: comparison.columns[SECONDS][choice].mean for choice in [comparison.best, *alike] if choice in comparison.columns[SECONDS]
    }
    if len(cost) < 2:
        return []
    cheapest = min(cost, key=cost.__getitem__)
    return [f"the cheapest of those not told apart: {cheapest}, {_seconds(comparison, cheapest)} a run"]


def _seconds(comparison: Comparison, choice: str) -> str:
    seconds = comparison.columns[SECONDS].get(choice)
    return "an unknown time" if seconds is None else f"{seconds.mean:.0f} s"


def _more(comparison: Comparison, choice: str) -> str:
    ours, theirs = comparison.columns[SECONDS].get(str(comparison.best)), comparison.columns[SECONDS].get(choice)
    return "" if ours is None or theirs is None or not theirs.mean else f" ({ours.mean / theirs.mean - 1:+.0%})"


def table_csv(comparison: Comparison) -> str:
    """Every run as a row; ``val/loss`` stays empty where it must not be compared, with the reason beside it."""
    file = io.StringIO()
    tags = list(dict.fromkeys([comparison.score or LINEAR, LINEAR, KNN, BLOCK]))
    keys = [key for key, _ in comparison.outcomes[0].job.choice.options]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*keys, "seed", "state", *tags, LOSS, f"{LOSS} left out because", SECONDS, SPEED, "step", "folder", "reason"])
    for one in comparison.outcomes:
        loss = "" if comparison.no_loss else one.last.get(LOSS, "")
        values = [value for _, value in one.job.choice.options]
        writer.writerow(
            [*values, one.job.seed, one.state, *(one.last.get(tag, "") for tag in tags), loss, "; ".join(comparison.no_loss), *_cost(one)]
        )
    return file.getvalue()


def _cost(one: Outcome) -> list[object]:
    unknown = ["" if value is None else value for value in (one.seconds, one.speed)]
    return [*unknown, int(one.last.get("step", 0)), one.job.folder() or "", one.reason]
