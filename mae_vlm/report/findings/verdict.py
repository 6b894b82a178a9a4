"""All checks of a run, put together: what is the matter, what was found in order, and what could not be told."""

from __future__ import annotations

from dataclasses import dataclass, field

from mae_vlm.report.findings import captions, data, features, learning, masks, rates
from mae_vlm.report.findings.base import FAULT, Check, Finding, Untold
from mae_vlm.report.recorded import Recorded

CHECKS: tuple[Check, ...] = (*rates.CHECKS, *data.CHECKS, *masks.CHECKS, *features.CHECKS, *learning.CHECKS, *captions.CHECKS)


@dataclass(frozen=True)
class Verdict:
    """Findings, the most serious first; checks that found nothing; checks that could not tell, each with its reason.

    ``follows`` are findings that another one explains, by name.
    """

    findings: list[Finding] = field(default_factory=list)
    follows: dict[str, list[Finding]] = field(default_factory=dict)
    clear: list[Check] = field(default_factory=list)
    untold: list[tuple[Check, str]] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return [finding.name for finding in self.findings]

    def describe(self) -> str:
        """One line for the end of a run."""
        if not self.findings:
            return f"nothing found in {len(self.clear)} checks" + (f"; {len(self.untold)} could not tell" if self.untold else "")
        return ", ".join(self._with_follows(name) for name in self.names)

    def _with_follows(self, name: str) -> str:
        follows = [finding.name for finding in self.follows.get(name, [])]
        return f"{name} (hence {' and '.join(follows)})" if follows else name


def judge(run: Recorded) -> Verdict:
    """The verdict of all checks."""
    verdict = Verdict()
    found: list[Finding] = []
    for check in CHECKS:
        try:
            finding = check.judge(run)
        except Untold as reason:
            verdict.untold.append((check, str(reason)))
            continue
        if finding is None:
            verdict.clear.append(check)
        else:
            found.append(finding)
    found.sort(key=lambda finding: finding.severity != FAULT)
    for finding in found:
        cause = next((other for other in found if finding.name in other.explains and finding.name not in _causes(other, found)), None)
        if cause is None:
            verdict.findings.append(finding)
        else:
            verdict.follows.setdefault(cause.name, []).append(finding)
    return verdict


def _causes(finding: Finding, found: list[Finding]) -> set[str]:
    """Names of the findings that explain this one."""
    return {other.name for other in found if finding.name in other.explains}
