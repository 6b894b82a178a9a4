"""A run as one HTML file that needs nothing else: no script, no network, pictures inside."""

from __future__ import annotations

from html import escape
from pathlib import Path

from mae_vlm.report.album import album
from mae_vlm.report.cost import cost_tiles, duration
from mae_vlm.report.curve_cards import curve_cards
from mae_vlm.report.findings.verdict import Verdict, judge
from mae_vlm.report.recorded import Recorded, read
from mae_vlm.report.style import STYLE
from mae_vlm.report.tables import config_card, data_card, probe_table
from mae_vlm.report.verdict_card import ending, verdict_card

REPORT = "report.html"


def report(folder: Path) -> tuple[bytes, Verdict]:
    """The page of a run folder, UTF-8, and its verdict.

    Raises:
        ValueError: no run lies there.
    """
    run = read(folder)
    verdict = judge(run)
    return page(run, verdict).encode(), verdict


def page(run: Recorded, verdict: Verdict) -> str:
    """The whole page."""
    sections = [
        ("curves", "Curves", curve_cards(run)),
        ("pictures", "Pictures", album(run)),
        ("probes", "Probes by block", probe_table(run)),
        ("cost", "What it cost", cost_tiles(run)),
        ("data", "Data", data_card(run)),
        ("config", "Configuration", config_card(run)),
    ]
    shown = [section for section in sections if section[2]]
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title, _ in [("verdict", "Verdict", ""), *shown])
    body = "".join(f'<section id="{key}"><h2>{title}</h2>{held}</section>' for key, title, held in shown)
    name = escape(f"{run.folder.absolute().parent.name}/{run.folder.absolute().name}")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{name}</title><link rel="icon" href="data:,"><style>{STYLE}</style></head><body><main>'
        f'<header><h1>{name}</h1><p class="soft">{_lead(run)}</p></header><nav aria-label="sections">{links}</nav>'
        f"{verdict_card(verdict, ending(run))}{body}<footer>Made from the files in the run's folder: python -m mae_vlm report RUN writes "
        f"it again at any time. tensorboard --logdir RUN shows the curves live.</footer></main></body></html>\n"
    )


def _lead(run: Recorded) -> str:
    """One line on what the run is and how it ended."""
    outcome = {"finished": "finished", "stopped": "stopped before its end", "failed": "ended with an error", "running": "still running"}
    started = str(run.fact("started") or "").replace("T", " ").split("+")[0]
    parts = [
        f"objectives: {', '.join(run.objectives)}" if run.objectives else "",
        f"started {started} UTC" if started else "",
        outcome.get(str(run.fact("outcome")), ""),
        f"{run.steps:,} steps" + (f" in {duration(run.fact('seconds'))}" if run.fact("seconds") else ""),
    ]
    return escape(" · ".join(part for part in parts if part))
