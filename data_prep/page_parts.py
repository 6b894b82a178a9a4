"""Pieces of the report's page: tiles, bars, tables, pictures."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import Any

import numpy as np
import torch
from PIL import Image

from data_prep.pixels import picture, shrunk
from mae_vlm.data.sources.base import Source

_SIDE = 220  # pixels of a thumbnail's long side
_BARS = 24
_HARM = {
    "unreadable": "bad",
    "duplicate_leaks": "bad",
    "duplicate_other_label": "bad",
    "bad_annotations": "bad",
    "duplicate_pairs": "warn",
    "blank": "warn",
    "tiny": "warn",
    "huge": "warn",
    "elongated": "warn",
}
_WORDS = {
    "duplicate_leaks": "duplicates across parts",
    "duplicate_other_label": "duplicates, other label",
    "duplicate_pairs": "pairs of duplicates",
}


def tiles(summary: dict[str, int]) -> str:
    """The figures that matter, green where there is nothing to do."""
    held = f'<div class="tile"><b>{summary["pictures"]:,}</b><span>pictures</span></div>'
    for name, harm in _HARM.items():
        count = summary[name]
        held += (
            f'<div class="tile {harm if count else "good"}"><b>{count:,}</b><span>{_WORDS.get(name, name.replace("_", " "))}</span></div>'
        )
    return f'<div class="tiles">{held}</div>'


def columns(cards: list[str]) -> str:
    """Cards side by side."""
    return f'<div class="columns">{"".join(f"""<div class="card">{card}</div>""" for card in cards)}</div>'


def bars(title: str, counts: dict[str, int]) -> str:
    """A bar for each name, the first 24."""
    most = max(counts.values(), default=1) or 1
    rows = [
        f'<div class="bar"><span title="{escape(name)}">{escape(name)}</span>'
        f'<i style="width:{100 * count / most:.1f}%"></i><span>{count:,}</span></div>'
        for name, count in list(counts.items())[:_BARS]
    ]
    more = f"<p>and {len(counts) - _BARS:,} more, in report.json</p>" if len(counts) > _BARS else ""
    return f"<h3>{escape(title)}</h3>{''.join(rows)}{more}"


def table(heads: list[str], rows: list[list[Any]]) -> str:
    """Whole numbers stand right."""
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    lines = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table>{f'<tr>{head}</tr>' if heads else ''}{lines}</table>"


def _cell(value: Any) -> str:
    return f'<td class="number">{value:,}</td>' if isinstance(value, int) else f"<td>{escape(str(value))}</td>"


def image(source: Source, index: int, value_range: tuple[float, float] | None) -> str:
    """An ``img`` with the picture in it, at most 220 pixels on a side."""
    try:
        found = picture(source[index], value_range)
        height, width = found.height, found.width
        scale = min(1.0, _SIDE / max(height, width))
        small_CHW = shrunk(found, max(1, round(height * scale)), max(1, round(width * scale)))
    except (ValueError, OSError) as error:
        return f"<p>{escape(str(error))}</p>"
    small_CHW = small_CHW if small_CHW.dtype == torch.uint8 else (small_CHW.int() >> 8).to(torch.uint8)
    values = np.ascontiguousarray(small_CHW[[0, 0, 0] if len(small_CHW) < 3 else [0, 1, 2]].permute(1, 2, 0).numpy())
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG" if max(height, width) <= 64 else "JPEG", quality=85)
    kind = "png" if max(height, width) <= 64 else "jpeg"
    pixelated = ' class="small"' if max(height, width) <= 96 else ""
    return f'<img{pixelated} alt="" src="data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}">'
