"""Tables of the page: probes by block, what is known of the data, the configuration."""

from __future__ import annotations

import re
from html import escape

from mae_vlm.report.recorded import Recorded


def probe_table(run: Recorded) -> str:
    """Accuracy of both probes on every block, before training and at the end; empty where no probe was made."""
    blocks = sorted({int(match[1]) for tag in run.curves if (match := re.match(r"probe/block_(\d+)/", tag))})
    if not blocks:
        return ""
    best = run.curve("probe/best_block")
    chosen = int(best[-1][1]) if best else 0
    rows = []
    for block in blocks:
        cells = []
        for kind in ("linear", "knn"):
            curve = run.curve(f"probe/block_{block}/{kind}")
            cells += [f"{curve[0][1]:.1%}", f"{curve[-1][1]:.1%}"] if curve else ["", ""]
        marked = ' class="best"' if block == chosen else ""
        rows.append(f"<tr{marked}><th scope=row>{block}{' (best)' if marked else ''}</th>{_numbers(cells)}</tr>")
    head = _numbers(["linear, start", "linear, end", "kNN, start", "kNN, end"], "th")
    classes = run.fact("data.classes")
    guess = f" Guessing is right in about {1 / classes:.1%} ({classes} classes)." if classes else ""
    note = f"Share right on held-out pictures, mean patch token of each block; the best is chosen by pictures that are not scored.{guess}"
    return (
        f'<p class="soft">{note} kNN understates masked autoencoders.</p><div class="card scroll" tabindex="0" role="region" '
        f'aria-label="probes by block"><table><tr><th scope=col>block</th>{head}</tr>{"".join(rows)}</table></div>'
    )


def _numbers(cells: list[str], kind: str = "td") -> str:
    return "".join(f'<{kind} class="number">{escape(cell)}</{kind}>' for cell in cells)


def data_card(run: Recorded) -> str:
    """What is known of the pictures."""
    facts, seen = run.fact("data", {}), run.sampled
    rows: list[tuple[str, str]] = [
        ("path", str(facts.get("path") or run.setting("data.path") or "generated scenes")),
        ("format", str(facts.get("format") or run.setting("data.format") or "")),
        ("pictures", ", ".join(f"{facts[part]:,} {name}" for part, name in _PARTS.items() if facts.get(part))),
        ("size on disk, median", f"{facts['height']} x {facts['width']} pixels (height x width)" if facts.get("height") else ""),
        ("learned at", _size(run)),
        ("channels", str(facts.get("channels") or run.setting("data.channels") or "")),
        ("classes", str(facts.get("classes") or "none") if facts else ""),
        ("captions", ("yes" if facts.get("captions") else "none") if facts else ""),
        ("not readable, replaced", f"{len(run.quarantined):,} (quarantine.jsonl)" if run.quarantined else "none"),
    ]
    if seen.get("read"):
        rows.append(("different files", f"{seen['distinct']:,} of {seen['read']:,} compared"))
    if seen.get("looked_at"):
        rows += [
            ("of one colour", f"{seen['constant']:.0%} of {seen['looked_at']} looked at"),
            ("a patch deviates by", f"{255 * seen['patch_deviation']:.0f} of 255 levels (median)"),
            ("noise in a patch", f"{seen['patch_noise']:.0%} (white noise: 100 %, photographs: 2 to 45 %)"),
        ]
    return f'<div class="card scroll">{_table(rows)}</div>'


_PARTS = {"train": "to train on", "val": "to validate on", "test": "to test on"}


def _size(run: Recorded) -> str:
    size, grid = run.fact("image_size") or run.setting("data.image_size"), run.grid
    if not size:
        return ""
    height, width = (size, size) if isinstance(size, int) else size
    return f"{height} x {width} pixels" + (f", {grid[0]} x {grid[1]} patches" if grid else "")


def config_card(run: Recorded) -> str:
    """Automatic choices with their reasons, and the whole config, folded."""
    choices = "".join(
        f"<tr><td><code>{escape(str(one.get('key')))}</code></td><td>{escape(str(one.get('value')))}</td><td>{escape(str(one.get('reason')))}</td></tr>"
        for one in run.fact("choices", [])
    )
    head = "<tr><th scope=col>setting</th><th scope=col>value</th><th scope=col>why</th></tr>"
    chosen = f'<div class="card scroll"><h3>Chosen automatically</h3><table>{head}{choices}</table></div>' if choices else ""
    return f"{chosen}<details><summary>config.yaml, whole</summary><pre tabindex=0>{escape(run.config_text)}</pre></details>"


def _table(rows: list[tuple[str, str]]) -> str:
    lines = "".join(f"<tr><th scope=row>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows if value)
    return f"<table>{lines}</table>"
