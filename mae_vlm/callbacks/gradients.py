"""How hard each objective pulls at the shared encoder, and whether they pull the same way."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from mae_vlm.callbacks.random_state import own_state, restore
from mae_vlm.learners.pretrain import Pretrainer
from mae_vlm.types import Batch


class Gradients(Callback):
    """Logs, now and then, the gradient of each objective's weighted loss with respect to the encoders that all of them share.

    ``gradients/<objective>/norm`` is its norm, ``share`` that over the sum of all norms, and ``cosine`` the angle to the sum of the others'
    gradients: below 0 they work against each other. Each objective makes a forward and a backward pass of its own on the batch of the step
    that is just taken, with the weights before it; nothing of the run changes by it. With several processes it is the gradient of all
    their batches. With one objective there is nothing to compare and, unless an interval is given, nothing is done; nor with weights that
    are sharded over processes.

    Args:
        every_n_steps: measure at the first log step and then this often, at log steps. Automatic: so that it takes at most 1 % of the
            training arithmetic, every 200 steps for two objectives.
        pictures: how many of a process's (micro-)batch are looked at, at most; they need memory for a pass and, for each objective, one
            gradient of the encoders in float32.

    Raises:
        ValueError: a number below 1.
    """

    def __init__(self, every_n_steps: int | None = None, pictures: int = 256) -> None:
        if pictures < 1 or (every_n_steps is not None and every_n_steps < 1):
            raise ValueError(f"gradients.every_n_steps {every_n_steps} and pictures {pictures} given, allowed is 1 or more")
        self.every_n_steps, self.pictures = every_n_steps, pictures
        self._active = False
        self._batch: Batch | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        asked = isinstance(pl_module, Pretrainer) and (len(pl_module.objectives) > 1 or self.every_n_steps is not None)
        sharded = asked and any(hasattr(weight, "full_tensor") for weight in pl_module.parameters())
        self._active = asked and not sharded
        if sharded and trainer.is_global_zero:
            print("gradients: not measured, for the weights are sharded over processes", flush=True)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int) -> None:
        self._batch = batch

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._batch = None

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        if self._batch is None or not self._active or not isinstance(pl_module, Pretrainer) or not self._due(trainer, pl_module):
            return
        scaler = getattr(trainer.precision_plugin, "scaler", None)  # float16 gradients would round to nothing without it
        scale = 1.0 if scaler is None else float(scaler.get_scale())
        found = objective_gradients(pl_module, self._batch[: self.pictures], trainer.precision_plugin.forward_context, scale)
        for gradient in found.values() if trainer.world_size > 1 else ():
            dist.all_reduce(gradient)
            gradient /= trainer.world_size
        if trainer.is_global_zero:
            told = {f"gradients/{name}/{term}": value.item() for name, terms in compared(found).items() for term, value in terms.items()}
            for logger in trainer.loggers:  # self.log would tell them again at every log step until the epoch ends
                logger.log_metrics(told, step=trainer.global_step)

    def _due(self, trainer: pl.Trainer, pl_module: Pretrainer) -> bool:
        """Told from the step alone: all processes, and a resumed run, come to the same answer."""
        if not trainer._logger_connector.should_update_logs:
            return False
        log_every, step = int(trainer.log_every_n_steps), trainer.global_step + 1  # type: ignore[attr-defined]
        wanted = self.every_n_steps or 100 * len(pl_module.objectives)
        return bool(step == log_every or step % (-(-wanted // log_every) * log_every) == 0)


def objective_gradients(
    learner: Pretrainer, batch: Batch, precision: Callable[[], AbstractContextManager[Any]], scale: float = 1.0
) -> dict[str, Tensor]:
    """Each objective's gradient on the image tower's trainable weights, all in one float32 vector: of its mean loss times its weight.

    The learner stays as it is: its ``.grad``, its buffers, the random state; all objectives draw the same numbers. ``precision`` gives the
    context of a forward pass, ``scale`` is a factor of the loss on its way back, divided out again.
    """
    weights = [weight for weight in learner.towers.image.parameters() if weight.requires_grad]  # what all of them share
    before, buffers = own_state(), [buffer.clone() for buffer in learner.buffers()]
    found: dict[str, Tensor] = {}
    for name, objective in learner._parts().items():
        with torch.enable_grad():
            with precision():
                value = objective.weight * objective(learner.features(batch), batch).value
            # unlike backward(), this runs no hook that collects gradients: neither .grad nor DDP's buckets see it; a graph for each, as
            # compiled blocks do not let go through theirs twice
            parts = torch.autograd.grad(scale * value, weights, allow_unused=True)
        flat = [torch.zeros_like(weight) if part is None else part for weight, part in zip(weights, parts, strict=True)]
        found[name] = torch.cat([part.flatten().float() for part in flat]) / scale
        restore([before], 0)
        for buffer, value in zip(learner.buffers(), buffers, strict=True):
            buffer.copy_(value)
    return found


def compared(gradients: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Norm and share of each vector and, where there are others, the cosine with their sum (0 where one of the two is 0)."""
    norms = {name: gradient.norm() for name, gradient in gradients.items()}
    total, norm = sum(gradients.values(), torch.zeros(())), sum(norms.values(), torch.zeros(()))
    terms = {name: {"norm": norms[name], "share": norms[name] / norm.clamp_min(1e-30)} for name in gradients}
    for name, gradient in gradients.items() if len(gradients) > 1 else ():
        others = total - gradient
        terms[name]["cosine"] = gradient @ others / (norms[name] * others.norm()).clamp_min(1e-30)
    return terms
