"""The learning rate over a run, as a pure function of the step."""

from __future__ import annotations

import math


def warmup_cosine(step: int, steps: int, warmup: int, floor: float = 0.0) -> float:
    """Factor of the peak rate at ``step`` (0 is the first): linear up over ``warmup`` steps, then half a cosine to ``floor``.

    Set per optimizer step, as in the MAE paper's code; the first step already moves (factor ``1 / warmup``), so that no
    step is lost. With ``steps`` of 0 or less the end is unknown and the rate stays at its peak after the warm-up.
    """
    if step < warmup:
        return (step + 1) / warmup
    if steps <= 0:
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))
