"""Is the task of the right difficulty?"""

from __future__ import annotations

from mae_vlm.report.findings.base import FAULT, WARNING, Check, Finding, Untold
from mae_vlm.report.recorded import Recorded

_MOST, _LEAST = 0.95, 0.2  # He et al. 2021, figure 5: 40 to 80 % work about as well, beyond 90 % accuracy falls


def mask_ratio_extreme(run: Recorded) -> Finding | None:
    ratio, grid = run.setting("model.masking.ratio"), run.grid
    if ratio is None:
        raise Untold("config.yaml tells no model.masking.ratio")
    if _LEAST <= ratio <= _MOST:
        return None
    visible = f", {int(grid[0] * grid[1] * (1 - ratio))} of {grid[0] * grid[1]} patches visible" if grid else ""
    return Finding(
        "mask-ratio-extreme",
        FAULT if ratio > 0.98 else WARNING,
        "Hardly anything of a picture is visible."
        if ratio > _MOST
        else "Hardly anything is hidden: what is can be copied from next to it.",
        (f"model.masking.ratio {ratio:g}{visible}", *_control(run)),
        ("model.masking.ratio 0.75, the paper's; 0.6 to 0.85 is the usual range",),
        explains=("not-using-visible-patches", "not-learning") if ratio > _MOST else (),
    )


def _control(run: Recorded) -> list[str]:
    told = []
    for name in run.objectives:
        own, other = run.curve(f"val/{name}/masked_mse"), run.curve(f"val/{name}/other_picture")
        if own and other and other[-1][1] > 0:
            told.append(
                f"validation loss {own[-1][1]:.4f} is {own[-1][1] / other[-1][1]:.0%} of that against another picture, {other[-1][1]:.4f}"
            )
    return told


CHECKS = (Check("mask-ratio-extreme", "is a fair part of each picture hidden?", mask_ratio_extreme),)
