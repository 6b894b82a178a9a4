"""The one learner of pretraining: towers, a mask, any set of objectives, one optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from lightning import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torchmetrics import MetricCollection

from mae_vlm.encoders.arithmetic import encoder_step
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.fusion.base import Fusion
from mae_vlm.encoders.image import ImageTower
from mae_vlm.encoders.regions import Regions
from mae_vlm.encoders.teacher import copied, follow_all
from mae_vlm.encoders.text.base import TextTower
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.weights import Filled, fill, fill_words
from mae_vlm.learners.blocks import compile_blocks
from mae_vlm.learners.checks import check
from mae_vlm.learners.optim import AdamW
from mae_vlm.learners.sharding import shard
from mae_vlm.learners.terms import Ahead, Means, Shares, ahead, configured, keep, log_means, log_step
from mae_vlm.objectives.base import Objective
from mae_vlm.pairing.queue import alike
from mae_vlm.tokens.masking import Mask
from mae_vlm.types import Batch, Loss


class Pretrainer(LightningModule):
    """Pretrains an encoder by the weighted sum of its objectives.

    Logs ``train/loss``, ``train/<objective>/<term>`` and, as means over the validation set with masks that are
    the same at every epoch, ``val/loss`` and ``val/<objective>/<term>``.

    Args:
        encoder: the image tower.
        masking: how patches are hidden from it.
        objectives: name to class (and options); each is built once with the towers' sizes.
        optimizer: how weights move.
        text: the text tower, where an objective looks at captions.
        fusion: what looks at pictures and captions together, where an objective does; built with the towers' sizes.
        chunks: gradient caching: towers see the batch in so many parts and compute each part's activations again in the backward pass.
            For objectives that contrast the pictures of a batch with each other, on devices that cannot hold a large one.
        regions: what shows the fusion tower the pictures' regions as further tokens, see :class:`mae_vlm.encoders.regions.Regions`.
        teacher: decay of a moving average of the towers, as .995, for objectives that learn from it; kept in checkpoints.
        compile: compile each transformer block with torch.compile (minutes at the start; pays on long GPU runs).
        weights: a run, or a file, folder or hub name of another format, whose encoder (and decoder) training starts from. The CLI reads
            it; in a program of your own call :meth:`adopt`.

    Raises:
        ValueError: no objective, a mask that does not fit the grid, an objective's options, or a tower that it needs and lacks.
    """

    def __init__(
        self,
        encoder: ImageTower,
        masking: Mask,
        objectives: dict[str, Callable[[Towers], Objective]],
        optimizer: AdamW,
        text: TextTower | None = None,
        fusion: Callable[[Towers], Fusion] | None = None,
        chunks: int = 1,
        teacher: float | None = None,
        compile: bool = False,
        weights: str | None = None,
        regions: Callable[[Towers], Regions] | None = None,
    ) -> None:
        super().__init__()
        if not objectives:
            raise ValueError("no objective given; the default is pixels: mae_vlm.objectives.pixels.Pixels")
        if encoder.masks:
            masking.visible(encoder.space)  # tells now what the first step would tell
        self.towers = Towers(encoder, text, fusion, regions)
        self.masking = masking
        self.objectives = nn.ModuleDict({name: build(self.towers) for name, build in objectives.items()})
        self.optimizer, self.chunks = optimizer, chunks
        self.compile_blocks, self.weights, self.adopted = compile, weights, False
        check(self.towers, self._parts(), chunks)
        self.decay, self.teacher = teacher, None if teacher is None else copied(self.towers)
        if (teacher is None) == ("teacher" in self.views):
            told = "no objective looks at it" if teacher is not None else "an objective learns from it; set it to .995 or the like"
            raise ValueError(f"model.teacher {teacher} given, but {told}")
        self._ddp_params_and_buffers_to_ignore = alike(self)  # where torch's DDP looks for them
        self.shares, self.means = Shares(), Means()
        self.metrics: dict[str, MetricCollection] = {}  # a plain dict: they are no part of the weights
        self.terms: dict[str, list[Tensor]] = {}  # of the micro-batches of the current step
        self._now: Features | None = None

    @property
    def views(self) -> frozenset[str]:
        """What the objectives look at: see :class:`Objective`."""
        return frozenset(view for objective in self._parts().values() for view in objective.views)

    @property
    def wants(self) -> frozenset[str]:
        """What ``Batch.targets`` must hold."""
        return self.towers.wants

    def adopt(self, weights: dict[str, Tensor], grid: tuple[int, int]) -> Filled:
        """Start from an encoder's ``weights``, trained on ``grid`` (rows, columns of patches); see ``mae_vlm.encoders.weights``."""
        self.adopted = True
        filled = fill(self.towers.image, weights, grid)
        self._teach_anew()
        return filled

    def adopt_words(self, weights: dict[str, Tensor]) -> Filled:
        """Start from the ``weights`` of a model's towers of words; see ``mae_vlm.encoders.weights``."""
        filled = fill_words(self.towers, weights)
        self._teach_anew()
        return filled

    def _teach_anew(self) -> None:
        """Let the teacher begin as the towers are now."""
        if self.teacher is not None:
            self.teacher.load_state_dict(self.towers.state_dict())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.adopted = True

    def configure_model(self) -> None:
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            shard(self, self.trainer.strategy.root_device)

    def on_fit_start(self) -> None:
        if self.weights is not None and not self.adopted:
            raise ValueError(f"weights {self.weights} are not read; the command line does it, in a program call Pretrainer.adopt")
        if self.compile_blocks:
            compile_blocks(self)

    def train(self, mode: bool = True) -> Pretrainer:
        """As in torch; the teacher stays in evaluation mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def check_accumulation(self, accumulation: int) -> None:
        """Tell before a run that a step of so many batches is not what an objective needs.

        Raises:
            ValueError: one contrasts the pictures of a batch.
        """
        contrasting = [name for name, objective in self._parts().items() if objective.contrasts]
        if contrasting and accumulation > 1:
            raise ValueError(
                f"trainer.accumulate_grad_batches {accumulation} given, but objective {contrasting[0]} contrasts the pictures of a batch, "
                f"which that makes smaller; set model.chunks to {accumulation} instead"
            )

    def setup(self, stage: str) -> None:
        self.check_accumulation(self.trainer.accumulate_grad_batches)
        if stage == "fit" and self._counting():
            ahead(self.trainer)  # the words of all its batches are counted before the first

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        if not self._counting():
            return
        self._now = self.features(batch)
        accumulation = self.trainer.accumulate_grad_batches
        if batch_index % accumulation:
            return
        more = int(min(accumulation, self.trainer.num_training_batches - batch_index)) - 1
        following = cast(Ahead, self.trainer.train_dataloader).peek(more) if more else []
        waiting = [replace(one, keys_B=one.keys_B.to(self.device)) for one in cast(list[Batch], following)]  # not on the device yet
        counts = [self._counts(one) for one in (self._now, *map(self.features, waiting))]
        self.shares.begin(counts, accumulation, self.device)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        features, self._now = self._now, None
        features = self.features(batch) if features is None or features.batch is not batch else features
        total = torch.zeros((), device=self.device)
        logs: dict[str, Tensor] = {}
        for name, loss in self._losses(features).items():
            value, terms = self.shares.means(name, loss) if loss.terms else (loss.value, {})
            correction = self.shares.correction if loss.terms else 1.0
            total, logs = total + correction * self._parts()[name].weight * value, logs | _named(name, loss.logs) | terms
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
        self._conclude("val")

    def on_test_epoch_end(self) -> None:
        self._conclude("test")

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        super().optimizer_step(*arguments, **named)
        for objective in self._parts().values():
            objective.after_step()
        if self.teacher is not None and self.decay is not None:
            follow_all(self.teacher, self.towers, self._parts().values(), self.decay)

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
        return Features(self.towers, batch, self.masking, self.chunks, self.teacher)

    def flops_per_image(self) -> int:
        """Operations of one training step on one picture, forward and backward: the passes that objectives share, and their own."""
        image, parts = self.towers.image, list(self._parts().values())
        visible = self.masking.visible(image.space) if image.masks else image.space.patches
        patches = {"masked": visible, "full": image.space.patches}
        seen = sum(encoder_step(image, patches[view]) for view in self.views if view in patches)
        return seen + self._text_step() + sum(part.flops_per_image(visible) for part in parts)

    def _text_step(self) -> int:
        """Operations of a training step on one caption in the text and fusion towers, once each."""
        text, fusion, image = self.towers.text, self.towers.fusion, self.towers.image
        count = 0 if text is None else text.flops()
        seen = image.space.patches + image.prefix + (0 if fusion is None else fusion.regions)
        count += 0 if fusion is None or text is None else fusion.flops(text.length, seen)
        return 3 * count

    def _losses(self, features: Features) -> dict[str, Loss]:
        return {name: objective(features, features.batch) for name, objective in self._parts().items()}

    def _counts(self, features: Features) -> dict[str, Tensor]:
        return {f"{name}/{term}": count for name, part in self._parts().items() for term, count in part.counts(features).items()}

    def _evaluate(self, batch: Batch) -> None:
        """Add a batch to the running means and metrics, each real picture, word or pair counting once; padding counts zero."""
        features = self.features(batch)
        for name, loss in self._losses(features).items():
            objective = self._parts()[name]
            for term, one in loss.terms.items():
                self.means.add({f"{name}/{term}": one.mean(), f"loss/{name}/{term}": objective.weight * one.weight * one.mean()}, one.count)
            plain = {key: value for key, value in loss.logs.items() if key not in loss.terms}
            whole = {} if loss.terms else {f"loss/{name}": objective.weight * loss.value}
            self.means.add(_named(name, plain) | whole, batch.real_B.sum())
            if name not in self.metrics and (metrics := objective.metrics()) is not None:
                self.metrics[name] = metrics.to(self.device)
            if name in self.metrics:
                objective.measure(self.metrics[name], features)

    def _conclude(self, stage: str) -> None:
        if not self.means:
            return
        means = self.means.take()
        weighted = [mean for name, mean in means.items() if name.startswith("loss/")]
        shown = {name: mean for name, mean in means.items() if not name.startswith("loss/")}
        for name, metrics in self.metrics.items():
            shown |= _named(name, metrics.compute())
            metrics.reset()
        log_means(self, stage, shown | {"loss": torch.stack(weighted).sum()})

    def _counting(self) -> bool:
        """Whether any objective counts other things than pictures."""
        return any(type(objective).counts is not Objective.counts for objective in self._parts().values())

    def _parts(self) -> dict[str, Objective]:
        return {name: objective for name, objective in self.objectives.items() if isinstance(objective, Objective)}


def _named(objective: str, values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{objective}/{name}": value for name, value in values.items()}
