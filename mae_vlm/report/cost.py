"""What a run cost, as tiles: time, pictures, arithmetic, memory, each number with its unit."""

from __future__ import annotations

from html import escape
from statistics import median
from typing import Any

from mae_vlm.report.recorded import Recorded


def cost_tiles(run: Recorded) -> str:
    """What the run cost, each number with its unit; what was not recorded is left out."""
    seconds, images, gflop = run.fact("seconds"), run.fact("images_seen"), run.fact("gflop_per_image")
    peak = {"table": "data sheet", "measured": "measured at the start"}.get(str(run.fact("peak_source")), "")
    rows = [
        (duration(seconds), "of time" + (f" on {run.fact('world_size')} processes" if run.fact("world_size", 1) > 1 else "")),
        (f"{run.steps:,}" + (f" of {run.max_steps:,}" if run.max_steps > run.steps else ""), "optimizer steps"),
        (_whole(images or run.steps * run.batch_size), "pictures seen"),
        (_passes(run, images), "passes over the pictures"),
        (_middle(run, "throughput/images_per_second", "{:,.0f}"), "images/s (median)"),
        (_flops(gflop), "arithmetic per picture"),
        (_flops(gflop * images if gflop and images else None), "arithmetic in all"),
        (_middle(run, "throughput/peak_fraction", "{:.1%}"), "of the device's peak (MFU)" + (f", {peak}" if peak else "")),
        (_middle(run, "throughput/data_wait_fraction", "{:.1%}"), "of the time waiting for data"),
        (_last(run, "probe/time_fraction", "{:.1%}"), "of the time on probes"),
        (_most(run, "memory/device_gib"), "memory of the device, at most"),
        (_most(run, "memory/host_gib"), "memory of the host, at most"),
        (_whole(run.fact("parameters.encoder")), "weights in the encoder"),
    ]
    device = str(run.fact("device") or "")
    where = ", ".join(word for word in (device, str(run.fact("precision") or run.setting("trainer.precision") or "")) if word)
    tiles = "".join(f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for value, name in rows if value)
    return f'<p class="soft">{escape(where)}</p><div class="tiles">{tiles}</div>'


def duration(seconds: float | None) -> str:
    """Seconds, minutes or hours, whichever reads best; empty for None."""
    if not seconds:
        return ""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _flops(gflop: float | None) -> str:
    if not gflop:
        return ""
    power = next((power for power in (9, 6, 3, 0) if gflop >= 10**power), -3)
    return f"{gflop / 10.0**power:,.1f} { {9: 'EFLOP', 6: 'PFLOP', 3: 'TFLOP', 0: 'GFLOP', -3: 'MFLOP'}[power] }"


def _whole(value: Any) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) and value else ""


def _passes(run: Recorded, images: Any) -> str:
    pictures = run.fact("data.train")
    return f"{(images or run.steps * run.batch_size) / pictures:,.1f}" if pictures else ""


def _middle(run: Recorded, tag: str, form: str) -> str:
    curve = run.curve(tag)
    return form.format(median(value for _, value in curve)) if curve else ""


def _last(run: Recorded, tag: str, form: str) -> str:
    curve = run.curve(tag)
    return form.format(curve[-1][1]) if curve else ""


def _most(run: Recorded, tag: str) -> str:
    curve = run.curve(tag)
    return f"{max(value for _, value in curve):.2f} GiB" if curve else ""
