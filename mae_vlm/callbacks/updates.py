"""Do the weights move: how far a step takes them, and how many of them it leaves as they were."""

from __future__ import annotations

from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

_TENSORS = 64
_ENTRIES = 4096  # of each


class _Taken(NamedTuple):
    """A weight, a sample of its entries before the step, and which of them had a gradient."""

    weight: Tensor
    before: Tensor
    pulled: Tensor


class Updates(Callback):
    """Logs at log steps how one step changes a sample of the weights, up to 64 tensors with up to 4,096 entries of each.

    ``optimizer/update_ratio`` is the norm of the change over the norm of the sample (about 1e-3 in a run that goes well; 0 is a rate of 0);
    ``optimizer/unchanged_fraction`` the share of entries with a gradient that the step left equal to the bit: 1 at a rate of 0 or in a step
    that the guard skipped, and high where the weights' own precision (bf16-true) rounds the updates to nothing. Of sharded weights the
    first process looks at its part.
    """

    def __init__(self) -> None:
        self._taken: list[_Taken] = []

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        self._taken = []
        if trainer.is_global_zero and trainer._logger_connector.should_update_logs:
            weights = [weight for weight in pl_module.parameters() if weight.grad is not None]
            self._taken = [_take(weight) for weight in spread(weights, _TENSORS)]

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        taken, self._taken = self._taken, []
        if taken:
            now = torch.cat([_sample(one.weight).float() for one in taken])
            before, pulled = torch.cat([one.before.float() for one in taken]), torch.cat([one.pulled for one in taken])
            ratio = (now - before).norm() / before.norm().clamp_min(1e-30)
            unchanged = ((now == before) & pulled).sum() / pulled.sum().clamp_min(1)
            pl_module.log("optimizer/update_ratio", ratio, rank_zero_only=True)
            pl_module.log("optimizer/unchanged_fraction", unchanged.float(), rank_zero_only=True)


def spread(items: list[Any], most: int) -> list[Any]:
    """``most`` of the items at even distances, the first and the last among them; all where there are no more."""
    if len(items) <= most:
        return items
    return [items[place * (len(items) - 1) // (most - 1)] for place in range(most)]


def _take(weight: Tensor) -> _Taken:
    assert weight.grad is not None
    return _Taken(weight, _sample(weight).clone(), _sample(weight.grad) != 0)


def _sample(tensor: Tensor) -> Tensor:
    """Entries at even distances of what this process holds of the tensor."""
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local.detach().flatten()[:: max(1, -(-local.numel() // _ENTRIES))]
