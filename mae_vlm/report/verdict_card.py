"""The page's first card: what was found, the numbers it is told from, what to change, and what could not be told."""

from __future__ import annotations

from html import escape

from mae_vlm.report.charts import number
from mae_vlm.report.findings.base import FAULT, Finding
from mae_vlm.report.findings.verdict import Verdict
from mae_vlm.report.recorded import Recorded


def verdict_card(verdict: Verdict, remarks: list[str]) -> str:
    """Findings with evidence and advice, then what was checked and what could not be."""
    worst = "" if not verdict.findings else FAULT if any(one.severity == FAULT for one in verdict.findings) else "warning"
    number_found = len(verdict.findings)
    title = "Nothing found" if not number_found else f"{number_found} finding{'s' * (number_found > 1)}"
    lead = (
        f"{len(verdict.clear)} checks found nothing to change." if not number_found else "The most serious first, each with what to change."
    )
    told = "".join(f"<p>{escape(remark)}</p>" for remark in remarks)
    body = "".join(_finding(one, verdict.follows.get(one.name, [])) for one in verdict.findings)
    return (
        f'<section class="verdict {worst}" id="verdict" aria-labelledby="verdict-title"><h2 id="verdict-title">{title}</h2>'
        f'<p class="soft">{lead}</p>{told}{body}{_checks(verdict)}</section>'
    )


def _finding(finding: Finding, follows: list[Finding]) -> str:
    after = ", ".join(f"<code>{one.name}</code>" for one in follows)
    return (
        f'<article class="finding" id="{finding.name}"><h3><span class="tag {finding.severity}">{finding.severity}</span>'
        f'{escape(finding.title)}</h3><code class="soft">{finding.name}</code><h4>Evidence</h4>{_list(finding.evidence)}'
        f"<h4>What to change</h4>{_list(finding.advice)}"
        + (f'<p class="soft">Follows from it: {after}.</p>' if after else "")
        + "</article>"
    )


def _list(rows: tuple[str, ...]) -> str:
    return f"<ul>{''.join(f'<li>{escape(row)}</li>' for row in rows)}</ul>"


def _checks(verdict: Verdict) -> str:
    clear = "".join(f"<li>{escape(check.question)}</li>" for check in verdict.clear)
    untold = "".join(
        f'<li class="untold">{escape(check.question)} <span class="soft">{escape(why)}</span></li>' for check, why in verdict.untold
    )
    text = f"{len(verdict.clear)} checks found nothing" + (f", {len(verdict.untold)} could not tell" if untold else "")
    opened = "" if verdict.findings else " open"
    return f'<details{opened}><summary>{text}</summary><ul class="checks">{clear}{untold}</ul></details>'


def ending(run: Recorded) -> list[str]:
    """Remarks that are no findings: how the loss stood at the end."""
    loss = run.curve("val/loss")
    if len(loss) < 4 or loss[0][1] <= 0:
        return []
    (_, first), (_, last) = loss[0], loss[-1]
    before = [value for step, value in loss if step <= 0.75 * loss[-1][0]][-1]
    told = f"In {run.steps:,} steps the validation loss went from {number(first)} to {number(last)}"
    change = last / before - 1 if before > 0 else 0.0
    if change < -0.02:
        return [f"{told}; it still fell by {-change:.1%} in the last quarter, so a longer run would go on learning."]
    return [f"{told}; in the last quarter it {'rose' if change > 0 else 'fell'} by {abs(change):.1%}."]
