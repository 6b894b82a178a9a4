"""The one learner of fine-tuning: a trained encoder, any set of heads, one optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from lightning import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torchmetrics import MetricCollection

from mae_vlm.data.summary import Summary
from mae_vlm.encoders.arithmetic import encoder_step
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.fusion.base import Fusion
from mae_vlm.encoders.image import ImageTower
from mae_vlm.encoders.lora import Lora, adapt
from mae_vlm.encoders.regions import Regions
from mae_vlm.encoders.text.base import TextTower
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.weights import Filled, fill, fill_words
from mae_vlm.heads.base import Head
from mae_vlm.learners.blocks import compile_blocks
from mae_vlm.learners.optim import Rule, groups_in_words
from mae_vlm.learners.sharding import shard, whole
from mae_vlm.learners.teaching import Teaching
from mae_vlm.learners.terms import Ahead, Means, Shares, ahead, configured, keep, log_means, log_step
from mae_vlm.types import Answer, Batch, Loss, Prediction


class Finetuner(LightningModule):
    """Trains heads, and the encoder below them as far as it is not frozen, by the weighted sum of the heads' losses.

    Logs ``train/loss``, ``train/<head>/<term>`` and, over the validation set, ``val/loss``, ``val/<head>/<term>`` and each head's
    metrics: ``val/top1`` with one head, ``val/<head>/top1`` with several. Losses are means over what a head counts, over all
    processes and accumulated batches, however unevenly labels are dealt.

    Args:
        encoder: the image tower; the CLI takes whatever is left open here from ``weights``.
        heads: name to class (and options); each is built once with the towers' sizes.
        optimizer: how weights move.
        text, fusion, regions: the towers of words and the regions beside them, where a head looks at them; the CLI takes them, too, from
            ``weights``.
        weights: a run folder or checkpoint whose encoder training starts from; None starts from scratch. The CLI reads it; in a
            program of your own call :meth:`adopt`.
        freeze: how much of the encoder stays as it is: none, all, or its embedding and so many of its first blocks.
        lora: train low-rank adapters in the encoder instead of its weights, which all stay as they are; None trains these.
        teacher: a trained model whose answers heads learn from beside their labels.
        compile: compile each transformer block with torch.compile (minutes at the start; pays on long GPU runs).

    Raises:
        ValueError: no head, an unknown ``freeze``, one beside ``lora``, or several heads of which one mixes pictures.
    """

    def __init__(
        self,
        encoder: ImageTower,
        heads: dict[str, Callable[[Towers], Head]],
        optimizer: Rule,
        text: TextTower | None = None,
        fusion: Callable[[Towers], Fusion] | None = None,
        weights: str | None = None,
        freeze: str | int = "none",
        compile: bool = False,
        lora: Lora | None = None,
        teacher: Teaching | None = None,
        regions: Callable[[Towers], Regions] | None = None,
    ) -> None:
        super().__init__()
        if not heads:
            raise ValueError("no head given; to classify take mae_vlm.heads.classify.Classify")
        self.towers = Towers(encoder, text, fusion, regions)
        self.heads = nn.ModuleDict({name: build(self.towers) for name, build in heads.items()})
        mixing = [name for name, head in self._parts().items() if head.mixes]
        if mixing and len(heads) > 1:
            raise ValueError(f"head {mixing[0]} mixes pictures, of which no other head could learn; set its mixup and cutmix to 0")
        self.optimizer, self.weights, self.compile_blocks, self.teacher = optimizer, weights, compile, teacher
        if teacher is not None:
            teacher.meet(self._parts(), encoder)
        self.frozen = _freeze(encoder, freeze)
        if lora is not None:
            if self.frozen:
                raise ValueError(f"freeze {freeze} given beside lora, which leaves all of the encoder's own weights as they are; drop one")
            adapt(encoder, lora)
        if encoder.last_norm is not None and not any(head.normed for head in self._parts().values()):
            encoder.last_norm.requires_grad_(False)  # no head looks at it: DDP would wait for its gradient
        self.adopted = False
        self.shares, self.means = Shares(), Means()
        self._term_weights: dict[str, float] = {}
        self.metrics: dict[str, MetricCollection] = {}  # plain dicts: they are no part of the weights
        self.results: dict[str, dict[str, Tensor]] = {}  # of the newest validation, by head
        self.terms: dict[str, list[Tensor]] = {}  # of the micro-batches of the current step
        self.steps = float("inf")  # optimizer steps of the whole run, where its length is known
        self.answered: set[str] = set()  # pictures that an earlier, unfinished predict has told of

    def adopt(self, weights: dict[str, Tensor], grid: tuple[int, int]) -> Filled:
        """Start from an encoder's ``weights``, trained on ``grid`` (rows, columns of patches); see ``mae_vlm.encoders.weights``."""
        self.adopted = True
        return fill(self.towers.image, weights, grid)

    def adopt_words(self, weights: dict[str, Tensor]) -> Filled:
        """Start from the ``weights`` of a run's towers of words; see ``mae_vlm.encoders.weights``."""
        return fill_words(self.towers, weights)

    def check(self, summary: Summary) -> None:
        """Tell before a run what the collection lacks for a head.

        Raises:
            ValueError: labels, or the classes that the head knows.
        """
        for head in self._parts().values():
            head.check(summary)

    @property
    def wants(self) -> frozenset[str]:
        """What ``Batch.targets`` must hold for the heads and the regions."""
        return self.towers.wants.union(*(head.wants for head in self._parts().values()))

    @property
    def watched(self) -> dict[str, tuple[str, bool]]:
        """The tag by which each head's best checkpoint is kept, and whether higher is better."""
        return {name: (self._tag(name, head.best[0]), head.best[1]) for name, head in self._parts().items()}

    def flops_per_image(self) -> int:
        """Operations of one training step on one picture, forward and backward, in the encoder (the heads' are small beside it)."""
        own = encoder_step(self.towers.image, self.towers.image.space.patches)
        return own + (0 if self.teacher is None else self.teacher.flops())

    def train(self, mode: bool = True) -> Finetuner:
        """As in torch; what is frozen stays in evaluation mode, so that it does not drop paths."""
        super().train(mode)
        for part in self.frozen:
            part.eval()
        return self

    def check_accumulation(self, accumulation: int) -> None:
        """Tell before a run that a step of so many batches is not what a head needs.

        Raises:
            ValueError: one contrasts the pictures of a batch.
        """
        contrasting = [name for name, head in self._parts().items() if head.contrasts]
        if contrasting and accumulation > 1:
            raise ValueError(
                f"trainer.accumulate_grad_batches {accumulation} given, but head {contrasting[0]} contrasts the pictures of a batch, "
                "which that makes smaller; leave it at 1"
            )

    # -- a step

    def setup(self, stage: str) -> None:
        self.check_accumulation(self.trainer.accumulate_grad_batches)
        if stage == "fit":
            ahead(self.trainer)  # the labels of all its batches are counted before the first

    def configure_model(self) -> None:
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            shard(self, self.trainer.strategy.root_device)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.adopted = True

    def on_fit_start(self) -> None:
        if self.weights is not None and not self.adopted:
            raise ValueError(f"weights {self.weights} are not read; the command line does it, in a program call Finetuner.adopt")
        if self.compile_blocks:
            compile_blocks(self)
        if self.optimizer.layer_decay is not None:
            self.trainer.print("\n".join(["parameter groups:", *groups_in_words(self.trainer.optimizers[0].param_groups)]))

    def on_train_start(self) -> None:
        self.steps = float(self.trainer.estimated_stepping_batches)

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        for head in self._parts().values():
            head.progress = self.trainer.global_step / self.steps
        accumulation = self.trainer.accumulate_grad_batches
        if batch_index % accumulation:
            return
        more = int(min(accumulation, self.trainer.num_training_batches - batch_index)) - 1
        following = cast(Ahead, self.trainer.train_dataloader).peek(more) if more else []
        self.shares.begin([self._counts(one) for one in [batch, *cast(list[Batch], following)]], accumulation, self.device)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        for head in self._parts().values():
            batch = head.prepare(batch)
        total = torch.zeros((), device=self.device)
        logs: dict[str, Tensor] = {}
        for name, loss in self._losses(self._answers(batch), batch).items():
            value, terms = self.shares.means(name, loss)
            total, logs = total + self._parts()[name].weight * value, logs | terms
        keep(self.terms, {"loss": total} | logs)
        return total * self.shares.correction

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        super().optimizer_step(*arguments, **named)
        for head in self._parts().values():
            head.after_step()

    def configure_optimizers(self) -> Any:
        return configured(self, self.optimizer)

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        terms, self.terms = self.terms, {}
        log_step(self, terms, optimizer)
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    # -- validation and use

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        self._evaluate(batch)

    def test_step(self, batch: Batch, batch_index: int) -> None:
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        self._conclude("val")

    def on_test_epoch_end(self) -> None:
        self._conclude("test")

    def predict_step(self, batch: Batch, batch_index: int) -> dict[str, list[Prediction]]:
        """What each head says of the real pictures of a batch; nothing where all of them are answered already."""
        if self.answered.issuperset(batch.ids) and not isinstance(self.trainer.strategy, ModelParallelStrategy):
            return {name: [] for name in self.heads}
        features = self.features(batch)
        return {name: head.predictions(head(features), batch) for name, head in self._parts().items()}

    def features(self, batch: Batch) -> Features:
        """One batch, seen lazily through the towers."""
        return Features(self.towers, batch)

    def _answers(self, batch: Batch) -> dict[str, Answer]:
        features = self.features(batch)
        return {name: head(features) for name, head in self._parts().items()}

    def _losses(self, answers: dict[str, Answer], batch: Batch) -> dict[str, Loss]:
        losses = {name: head.loss(answers[name], batch) for name, head in self._parts().items()}
        return losses if self.teacher is None else self.teacher.add(losses, answers, batch)

    def _counts(self, batch: Batch) -> dict[str, Tensor]:
        counts = {f"{name}/{term}": count for name, head in self._parts().items() for term, count in head.counts(batch).items()}
        return counts if self.teacher is None else counts | self.teacher.counts(batch)

    def _evaluate(self, batch: Batch) -> None:
        """Add a batch to the running means and metrics; padding counts zero on every process."""
        answers = self._answers(batch)
        losses = self._losses(answers, batch)
        for name, head in self._parts().items():
            for term, one in losses[name].terms.items():
                self.means.add({f"{name}/{term}": one.mean()}, one.count)
                self._term_weights[f"{name}/{term}"] = head.weight * one.weight
            if name not in self.metrics:
                self.metrics[name] = head.metrics().to(self.device)
            head.measure(self.metrics[name], answers[name], batch)

    def _conclude(self, stage: str) -> None:
        if not self.means:
            return
        means = self.means.take()
        loss = torch.stack([self._term_weights[name] * mean for name, mean in means.items()]).sum()
        log_means(self, stage, means | {"loss": loss})
        for name, metrics in self.metrics.items():
            with whole(self):  # one may look at pairs again, each process at its own
                self.results[name] = metrics.compute()
            metrics.reset()
            scalars = {key: value for key, value in self.results[name].items() if isinstance(value, Tensor) and value.ndim == 0}
            for metric, value in scalars.items():
                self.log(f"{stage}/{self._tag(name, metric).removeprefix('val/')}", value)

    def _tag(self, head: str, metric: str) -> str:
        return f"val/{metric}" if len(self.heads) == 1 else f"val/{head}/{metric}"

    def _parts(self) -> dict[str, Head]:
        return {name: head for name, head in self.heads.items() if isinstance(head, Head)}


def _freeze(encoder: ImageTower, freeze: str | int) -> list[nn.Module]:
    """Switch off the gradients of what is frozen, and return it."""
    blocks = list(encoder.vit.blocks) if freeze not in ("none", "all") else []
    told = freeze if freeze in ("none", "all") else int(freeze) if str(freeze).isdigit() else None
    if told is None or (isinstance(told, int) and told > len(blocks)):
        raise ValueError(f"freeze {freeze} given, allowed are none, all, or how many of the encoder's {len(blocks)} blocks, from the first")
    if told in ("none", 0):
        return []
    frozen: list[nn.Module] = [encoder] if told == "all" else blocks[: int(told)]
    for part in frozen:
        part.requires_grad_(False)
    if told != "all":
        for name, weight in encoder.vit.named_parameters():
            if not name.startswith(("blocks.", "norm.")):
                weight.requires_grad_(False)
    return frozen
