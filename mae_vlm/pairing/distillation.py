"""Learning from a teacher's soft answers beside the hard truth: momentum distillation (ALBEF, arXiv 2107.07651, section 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Trust(nn.Module):
    """How far the teacher is believed, from 0 in a run's first steps, in which it knows nothing; kept in checkpoints.

    Args:
        alpha: its weight in the end, .4 in ALBEF; the truth's is one less that.
        ramp: steps over which it grows evenly, an epoch in ALBEF; 0 begins at ``alpha``.

    Raises:
        ValueError: out of range.
    """

    steps: Tensor

    def __init__(self, alpha: float, ramp: int) -> None:
        super().__init__()
        if not 0 <= alpha <= 1 or ramp < 0:
            raise ValueError(f"alpha {alpha}, ramp {ramp} given: alpha, the teacher's weight, is from 0 to 1, ramp 0 steps or more")
        self.alpha, self.ramp = alpha, ramp
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def now(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight of this step, a scalar."""
        steps = self.steps.to(dtype)
        return self.alpha * ((steps / self.ramp).clamp(max=1) if self.ramp else torch.ones_like(steps))

    def mixed(self, plain: Tensor, soft: Tensor) -> Tensor:
        """``(1 - alpha) plain + alpha soft``: equations 6 and 7."""
        alpha = self.now(plain.dtype)
        return (1 - alpha) * plain + alpha * soft

    def step(self) -> None:
        """To be called after each optimizer step."""
        self.steps += 1


def divergence(taught: Tensor, scores: Tensor) -> Tensor:
    """KL(q || p) of the softmax over the last dimension of the teacher's scores (q) and of one's own (p).

    What is -inf in both has no part in it.
    """
    log_q, log_p = taught.log_softmax(-1), scores.log_softmax(-1)
    return (log_q.exp() * (log_q - log_p).masked_fill(taught == -torch.inf, 0.0)).sum(-1)
