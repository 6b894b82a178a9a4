"""The losses of a run, and the metric that tells most, as one PNG for its card."""

from __future__ import annotations

import io

from PIL import Image, ImageDraw, ImageFont

from mae_vlm.report.charts import number, thinned
from mae_vlm.report.recorded import Curve, Recorded

_WIDTH, _HEIGHT = 560, 300  # of a panel
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 16, 40, 34
_FINER = 2  # drawn at so many times the size, then made smaller: smooth lines
_COLOURS = ("#2458c5", "#c2560c", "#14804f")
_TELLING = ("val/top1", "val/miou", "val/box_map", "val/mask_map", "val/pq", "probe/linear", "probe/knn")


def curves_png(run: Recorded) -> bytes | None:
    """Losses, and beside them the first metric there is; None where no curve has two points."""
    losses = {tag: run.curve(tag) for tag in ("train/loss", "val/loss")}
    metric = next((tag for tag in telling(run) if len(run.curve(tag)) > 1), None)
    panels = [("loss", losses)] + ([(metric, {metric: run.curve(metric)})] if metric else [])
    drawn = [_panel(title, shown) for title, curves in panels if (shown := {tag: one for tag, one in curves.items() if len(one) > 1})]
    if not drawn:
        return None
    sheet = Image.new("RGB", (_WIDTH * len(drawn), _HEIGHT), "white")
    for place, panel in enumerate(drawn):
        sheet.paste(panel, (place * _WIDTH, 0))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def telling(run: Recorded) -> list[str]:
    """The tags of metrics that say most, those of heads first; of several heads each."""
    ends = [tag.removeprefix("val") for tag in _TELLING if tag.startswith("val/")]
    of_heads = [tag for end in ends for tag in sorted(run.curves) if tag.startswith("val/") and tag.endswith(end)]
    return list(dict.fromkeys([*of_heads, *(tag for tag in _TELLING if tag in run.curves)]))


def _panel(title: str, curves: dict[str, Curve]) -> Image.Image:
    picture = Image.new("RGB", (_WIDTH * _FINER, _HEIGHT * _FINER), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(12.0 * _FINER)
    values = [value for curve in curves.values() for _, value in curve]
    last, low, high = max(curve[-1][0] for curve in curves.values()) or 1, min(values), max(values)
    room = (high - low) or abs(high) or 1.0

    def place(step: float, value: float) -> tuple[float, float]:
        across = _LEFT + step / last * (_WIDTH - _LEFT - _RIGHT)
        return across * _FINER, (_HEIGHT - _BOTTOM - (value - low) / room * (_HEIGHT - _TOP - _BOTTOM)) * _FINER

    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        value = low + share * room
        draw.line([place(0, value), place(last, value)], fill="#dde3ea", width=_FINER)
        draw.text((place(0, value)[0] - 8 * _FINER, place(0, value)[1]), number(value), fill="#566475", font=font, anchor="rm")
        draw.text(place(share * last, low - 0.09 * room), f"{share * last:,.0f}", fill="#566475", font=font, anchor="mm")
    words = _LEFT * _FINER
    for colour, (tag, curve) in zip(_COLOURS, curves.items(), strict=False):
        draw.line([place(step, value) for step, value in thinned(curve)], fill=colour, width=2 * _FINER, joint="curve")
        told = f"{tag} {number(curve[-1][1])}    "
        draw.text((words, 18 * _FINER), told, fill=colour, font=font, anchor="lm")
        words += int(font.getlength(told))
    draw.text(((_WIDTH - _RIGHT) * _FINER, 18 * _FINER), f"{title} over the step", fill="#566475", font=font, anchor="rm")
    return picture.resize((_WIDTH, _HEIGHT), Image.Resampling.LANCZOS)
