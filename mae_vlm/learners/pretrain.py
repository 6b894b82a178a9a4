"""The one learner of pretraining: towers, a mask, any set of objectives, one optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn

from mae_vlm.encoders.arithmetic import encoder_step
from mae_vlm.encoders.towers import Features, Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.learners.optim import AdamW
from mae_vlm.learners.sharding import blocks, shard
from mae_vlm.learners.terms import Means, configured, keep, log_means, log_step
from mae_vlm.objectives.base import Objective
from mae_vlm.tokens.masking import Mask
from mae_vlm.types import Batch


class Pretrainer(LightningModule):
    """Pretrains an encoder by the weighted sum of its objectives.

    Logs ``train/loss``, ``train/<objective>/<term>`` and, as means over the validation set with masks that are
    the same at every epoch, ``val/loss`` and ``val/<objective>/<term>``.

    Args:
        encoder: the image tower.
        masking: how patches are hidden from it.
        objectives: name to class (and options); each is built once with the towers' sizes.
        optimizer: how weights move.
        compile: compile each transformer block with torch.compile (minutes at the start; pays on long GPU runs).

    Raises:
        ValueError: no objective, a mask that does not fit the grid, or an objective's options.
    """

    def __init__(
        self,
        encoder: Vit,
        masking: Mask,
        objectives: dict[str, Callable[[Towers], Objective]],
        optimizer: AdamW,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if not objectives:
            raise ValueError("no objective given; the default is pixels: mae_vlm.objectives.pixels.Pixels")
        masking.visible(encoder.space)  # tells now what the first step would tell
        self.towers = Towers(encoder)
        self.masking = masking
        self.objectives = nn.ModuleDict({name: build(self.towers) for name, build in objectives.items()})
        self.optimizer = optimizer
        self.compile_blocks = compile
        self.means = Means()
        self.terms: dict[str, list[Tensor]] = {}  # of the micro-batches of the current step

    def configure_model(self) -> None:
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            shard(self, self.trainer.strategy.root_device)

    def on_fit_start(self) -> None:
        if self.compile_blocks:  # per block, in place: the learner's own logging would break the graph, and names stay
            for block in blocks(self):
                block.compile(dynamic=False)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        total, logs = self._losses(self.features(batch))
        keep(self.terms, {"loss": total} | logs)
        return total

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        self._evaluate(batch)

    def test_step(self, batch: Batch, batch_index: int) -> None:
        self._evaluate(batch)

    def predict_step(self, batch: Batch, batch_index: int) -> dict[str, Any]:
        """Features of the real pictures of a batch: mean of the normed patch tokens, float32 ``[B, D]``, beside their ids."""
        features_BD = self.features(batch).full.patches_BND.mean(dim=1).float()
        real = batch.real_B.cpu()
        return {"id": [name for name, keep in zip(batch.ids, real.tolist(), strict=True) if keep], "features": features_BD.cpu()[real]}

    def on_validation_epoch_end(self) -> None:
        log_means(self, "val", self.means.take())

    def on_test_epoch_end(self) -> None:
        log_means(self, "test", self.means.take())

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        super().optimizer_step(*arguments, **named)
        for objective in self._parts().values():
            objective.after_step()

    def configure_optimizers(self) -> Any:
        return configured(self, self.optimizer)

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        terms, self.terms = self.terms, {}
        log_step(self, terms, optimizer)
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def features(self, batch: Batch) -> Features:
        """One batch, seen lazily through the towers."""
        return Features(self.towers, batch, self.masking)

    def flops_per_image(self) -> int:
        """Operations of one training step on one picture, forward and backward: the passes that objectives share, and their own."""
        image, parts = self.towers.image, list(self._parts().values())
        visible = self.masking.visible(image.space)
        patches = {"masked": visible, "full": image.space.patches}
        passes = {view for part in parts for view in part.views}
        return sum(encoder_step(image, patches[view]) for view in passes) + sum(part.flops_per_image(visible) for part in parts)

    def _losses(self, features: Features) -> tuple[Tensor, dict[str, Tensor]]:
        total = torch.zeros((), device=self.device)
        logs: dict[str, Tensor] = {}
        for name, objective in self._parts().items():
            loss = objective(features, features.batch)
            total = total + objective.weight * loss.value
            logs |= {f"{name}/{term}": value for term, value in loss.logs.items()}
        return total, logs

    def _evaluate(self, batch: Batch) -> None:
        """Add a batch to the running means, each real picture counting once; padding counts zero on every process."""
        total, logs = self._losses(self.features(batch))
        self.means.add({"loss": total} | logs, batch.real_B.sum())

    def _parts(self) -> dict[str, Objective]:
        return {name: objective for name, objective in self.objectives.items() if isinstance(objective, Objective)}
