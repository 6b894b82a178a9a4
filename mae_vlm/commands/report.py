"""``python -m mae_vlm report RUN``."""

from __future__ import annotations

from pathlib import Path

from mae_vlm.commands.arguments import Arguments, complain


def main(arguments: list[str]) -> int:
    """Write RUN/report.html and tell its verdict; 0 when written, 1 when there is no run, or no room."""
    parser = Arguments("report", "What a run learned, what it cost, and what to change: RUN/report.html.")
    parser.add_argument("run", metavar="RUN", type=Path, help="a run's folder, also while the run goes on")
    parser.add_argument("--out", type=Path, metavar="FILE", help="another file than RUN/report.html")
    options = parser.parse_args(arguments)

    from mae_vlm.report.page import REPORT, report
    from mae_vlm.storage import write_whole

    target = options.out or options.run / REPORT
    try:
        content, verdict = report(options.run)
        write_whole(target, lambda file: file.write(content))
    except (ValueError, OSError) as problem:
        complain(problem)
        return 1
    for finding in verdict.findings:
        print(f"{finding.severity}: {finding.name}: {finding.title}")
        print("".join(f"  {line}\n" for line in (*finding.evidence, f"change: {finding.advice[0]}")), end="")
    for check, why in verdict.untold:
        print(f"could not tell {check.name}: {why}")
    print(f"verdict: {verdict.describe()}")
    print(f"report:  {target}")
    return 0
