"""Loss terms on their way into the logs and the step: what every learner does with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from lightning import LightningModule, Trainer
from torch import Tensor

from mae_vlm.learners.mean import WeightedMean
from mae_vlm.learners.optim import Rule
from mae_vlm.learners.sharding import full
from mae_vlm.types import Loss


def keep(terms: dict[str, list[Tensor]], values: dict[str, Tensor]) -> None:
    """Add a micro-batch's values to those of the current step, under ``train/``."""
    for name, value in values.items():
        terms.setdefault(f"train/{name}", []).append(value.detach())


def log_step(module: LightningModule, terms: dict[str, list[Tensor]], optimizer: torch.optim.Optimizer) -> None:
    """Log a whole optimizer step before it is taken; costs a reduction for each term, so only where the trainer logs."""
    if not module.trainer._logger_connector.should_update_logs:
        return
    for name, values in terms.items():  # the mean over micro-batches and processes is the loss of the whole step
        module.log(name, torch.stack(values).mean(), prog_bar=name == "train/loss", sync_dist=True)
    norm = torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
    module.log("optimizer/grad_norm", full(norm))
    module.log("optimizer/lr", max(float(group["lr"]) for group in optimizer.param_groups))


def configured(module: LightningModule, build: Rule) -> dict[str, Any]:
    """The optimizer and its schedule, which steps with it, as Lightning wants to be told; the rate counts the images of the whole step."""
    steps = module.trainer.estimated_stepping_batches
    images_per_step: int = module.trainer.datamodule.batch_size  # type: ignore[attr-defined]
    optimizer, schedule = build.build(module, images_per_step, int(steps) if steps != float("inf") else 0)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Means(dict[str, WeightedMean]):
    """Running means over a validation set and all processes, by name. A plain dict: they are no part of the weights."""

    def add(self, values: dict[str, Tensor], count: Tensor) -> None:
        """Means over ``count`` items of this batch, which count zero where there is none."""
        for name, value in values.items():
            if name not in self:
                self[name] = WeightedMean().to(value.device)
            self[name].update(value.detach(), count)

    def take(self) -> dict[str, Tensor]:
        """The means over all processes; begins anew."""
        found = {name: mean.compute() for name, mean in self.items()}
        for mean in self.values():
            mean.reset()
        return found


def log_means(module: LightningModule, stage: str, means: dict[str, Tensor]) -> None:
    """Log what is the same on all processes already, on each: a callback that watches it decides alike everywhere."""
    for name, mean in means.items():
        module.log(f"{stage}/{name}", mean, prog_bar=name == "loss")


class Shares:
    """What each term of a step is divided by: its count over all processes and micro-batches, per process and micro-batch.

    Gradients are averaged over processes and micro-batches afterwards; a sum over its share, so averaged, is the sum of all
    over the count of all, however unevenly boxes or labels are dealt.
    """

    def __init__(self) -> None:
        self.counts: dict[str, Tensor] = {}
        self.correction = 1.0

    def begin(self, counts: list[dict[str, Tensor]], accumulation: int, device: torch.device) -> None:
        """Add up what this process's micro-batches of the step hold, and what the other processes' do; all must come here.

        The trainer divides by ``accumulation`` also where an epoch's last step has fewer micro-batches: ``correction`` undoes it.
        """
        names = list(counts[0])
        each = [torch.stack([one[name].float() for name in names]).to(device, non_blocking=True) for one in counts]
        total_T = torch.stack(each).sum(0)
        processes = 1
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(total_T)
            processes = dist.get_world_size()
        self.counts = dict(zip(names, total_T / (processes * len(counts)), strict=True))
        self.correction = accumulation / len(counts)

    def means(self, name: str, loss: Loss) -> tuple[Tensor, dict[str, Tensor]]:
        """A head's weighted loss and its terms; their means over processes and micro-batches are those of the whole step."""
        found = {term: one.mean(self.counts[f"{name}/{term}"]) for term, one in loss.terms.items()}
        value = torch.stack([loss.terms[term].weight * mean for term, mean in found.items()]).sum()
        return value, {f"{name}/{term}": mean.detach() for term, mean in found.items()}


def ahead(trainer: Trainer) -> None:
    """Where a step accumulates batches, let the trainer's data module deliver loaders whose next batches can be looked at."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    make = data.train_dataloader
    if trainer.accumulate_grad_batches > 1 and not hasattr(make, "ahead"):
        data.train_dataloader = lambda: Ahead(make())
        data.train_dataloader.ahead = True


class Ahead:
    """A loader whose next batches can be looked at before their turn."""

    def __init__(self, loader: Iterable[object]) -> None:
        self.loader = loader
        self._waiting: list[object] = []
        self._source: Iterator[object] = iter(())

    def __iter__(self) -> Iterator[object]:
        self._source, self._waiting = iter(self.loader), []
        while self.peek(1):
            yield self._waiting.pop(0)

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> object:
        return getattr(self.loader, name)

    def peek(self, count: int) -> list[object]:
        """The next ``count`` batches, fewer at the end."""
        while len(self._waiting) < count and (batch := next(self._source, None)) is not None:
            self._waiting.append(batch)
        return self._waiting[:count]
