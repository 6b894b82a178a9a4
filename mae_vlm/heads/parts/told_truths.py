"""Cross-entropy over questions of which the right answer is told.

Letters: R rows, one for each question, or a single one where there is no question; C possible answers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mae_vlm.types import Loss, Term

TERM = "cross_entropy"


def told_count(truths: list[int], device: torch.device) -> dict[str, Tensor]:
    """How many truths are told: those that are not -1."""
    return {TERM: torch.tensor(float(sum(truth >= 0 for truth in truths)), device=device)}


def told_loss(logits_RC: Tensor, truths: list[int]) -> Loss:
    """The loss over the rows of which the truth is told; 0, with a gradient, where none is."""
    truth_R = torch.tensor(truths or [-1], device=logits_RC.device)  # a row stands there also where there is no question
    error = functional.cross_entropy(logits_RC, truth_R, ignore_index=-1, reduction="sum")
    return Loss.of({TERM: Term(error, told_count(truths, logits_RC.device)[TERM])})
