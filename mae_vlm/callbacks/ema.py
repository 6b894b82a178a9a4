"""A moving average of the weights, kept beside them and validated beside them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from mae_vlm.types import Batch

_RUNNING = ("means", "metrics", "results")  # where a learner's validation adds up, and what it leaves


class Ema(Callback):
    """Averages the trained weights exponentially over optimizer steps, in float32 on their own device (Polyak and Juditsky, 1992).

    Logs ``ema/loss`` and ``ema/<objective>/<term>``: the validation batches once more with the averaged weights, which costs as much
    arithmetic as one more validation, but no more reading. The run itself, its ``val/`` curves and its pictures are those of the raw
    weights, bit by bit as without averaging. Every process holds the average, and every checkpoint; buffers are the run's own.

    Early the average must forget: the decay of step s is at most (1 + s) / (10 + s), so that about the last tenth of a short run counts.
    A step that the guard skips leaves the average as it is.

    Args:
        decay: of a step, such as 0.999 (the average looks back about 1,000 steps) or 0.9999; None is no averaging, but a
            resumed run goes on with the decay that its checkpoint has.
        every_n_steps: look at the weights every so many steps only; the decay is then that of so many steps.

    Raises:
        ValueError: a decay outside (0, 1), an interval below 1, or weights that are spread over processes.
    """

    def __init__(self, decay: float | None = None, every_n_steps: int = 1) -> None:
        if decay is not None and not 0 < decay < 1:
            raise ValueError(f"ema.decay {decay} given, allowed is more than 0 and less than 1, such as 0.999; leave it out for none")
        if every_n_steps < 1:
            raise ValueError(f"ema.every_n_steps {every_n_steps} given, allowed is 1 or more")
        self.decay, self.every_n_steps = decay, every_n_steps
        self.weights: dict[str, Tensor] = {}  # float32, by the names of the module's parameters; empty: no average yet
        self.steps = 0  # optimizer steps that the average has been through
        self._seen_step = 0
        self._running: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"decay": self.decay, "steps": self.steps, "weights": self.weights} if self.weights else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.decay = state_dict["decay"] if self.decay is None else self.decay
        self.steps = state_dict["steps"]
        self.weights = {name: value.clone() for name, value in state_dict["weights"].items()}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with the weights that the run begins with, or go on with the checkpoint's average."""
        self._seen_step = trainer.global_step
        if self.decay is None:
            return
        trained = _trained(pl_module)
        if any(hasattr(weight, "full_tensor") for weight in trained.values()):
            raise ValueError(
                "ema.decay needs the whole weights on every process, here each has a part; set trainer.strategy ddp, or no ema"
            )
        kept = self.weights or {name: weight.detach().clone() for name, weight in trained.items()}
        if kept.keys() != trained.keys():
            raise ValueError("ema: the checkpoint's average is of other weights than this run trains; start a new run, or keep its config")
        self.weights = {name: kept[name].to(weight.device, torch.float32) for name, weight in trained.items()}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self._seen_step:  # between the micro-steps of one step nothing has moved
            return
        self._seen_step = trainer.global_step
        if self.weights:
            self.steps += 1
            if self.steps % self.every_n_steps == 0:
                self.update(pl_module, getattr(trainer.optimizers[0], "found_inf", None))

    @torch.no_grad()
    def update(self, module: nn.Module, skipped: Tensor | None = None) -> None:
        """Move the average towards the weights of ``module``; ``skipped`` (scalar, on the device: 1 for a skipped step) leaves it."""
        assert self.decay is not None
        share = 1 - decay_at(self.steps, self.decay) ** self.every_n_steps
        device = next(iter(self.weights.values())).device
        move = torch.full((), share, device=device) if skipped is None else share * (1 - skipped.to(device))
        averages = list(self.weights.values())
        ways = torch._foreach_sub([weight.detach().float() for weight in _trained(module).values()], averages)
        torch._foreach_mul_(ways, move)  # a tensor, not a number: the host does not wait for the flag
        torch._foreach_add_(averages, ways)

    def go_back(self, state_dict: dict[str, Any]) -> None:
        """The average of an older checkpoint, on the device where the present one is."""
        self.steps = state_dict["steps"]
        self.weights = {name: state_dict["weights"][name].to(value.device, copy=True) for name, value in self.weights.items()}

    @contextmanager
    def swapped(self, module: nn.Module) -> Iterator[None]:
        """``module`` holds the averaged weights meanwhile, and afterwards, also after an error, its own again, bit by bit."""
        trained = _trained(module)
        own = {name: weight.detach().clone() for name, weight in trained.items()}
        try:
            _fill(trained, self.weights)
            yield
        finally:
            _fill(trained, own)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._running = {name: type(getattr(pl_module, name))() for name in _RUNNING if hasattr(pl_module, name)}

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.weights and trainer.state.fn == "fit":
            with self.swapped(pl_module), trainer.precision_plugin.val_step_context(), _set(pl_module, self._running):
                pl_module.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.weights and trainer.state.fn == "fit":
            log = pl_module.log
            renamed = {"log": lambda name, *values, **more: log(name.replace("val/", "ema/", 1), *values, **more)}
            with _set(pl_module, self._running | renamed), _kept(pl_module):
                pl_module.on_validation_epoch_end()


def decay_at(step: int, decay: float) -> float:
    """The decay of optimizer step ``step`` (1 is the first): ``decay``, but at most (1 + step) / (10 + step)."""
    return min(decay, (1 + step) / (10 + step))


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training moves, each once."""
    return {name: weight for name, weight in module.named_parameters() if weight.requires_grad and weight.is_floating_point()}


@torch.no_grad()
def _fill(weights: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
    for name, weight in weights.items():
        weight.copy_(values[name])  # in place: optimizer, DDP and compiled blocks hold the same tensors


@contextmanager
def _kept(module: nn.Module) -> Iterator[None]:
    """Buffers are afterwards what they were: a detector keeps the threshold that it measured there."""
    before = {name: buffer.detach().clone() for name, buffer in module.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in module.named_buffers():
            buffer.copy_(before[name])


@contextmanager
def _set(thing: Any, attributes: dict[str, Any]) -> Iterator[None]:
    """Other values for some attributes meanwhile."""
    before = {name: vars(thing)[name] for name in attributes if name in vars(thing)}
    try:
        vars(thing).update(attributes)
        yield
    finally:
        for name in attributes:
            vars(thing).pop(name)
        vars(thing).update(before)
