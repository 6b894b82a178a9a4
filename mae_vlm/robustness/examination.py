"""Every head measured on the same pictures, clean and spoilt in every way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from mae_vlm.heads.base import Head
from mae_vlm.learners.finetune import Finetuner
from mae_vlm.robustness.attack import ATTACK, CONTROL, STEPS, at_rest, attacked
from mae_vlm.robustness.calibration import Calibration, classifies
from mae_vlm.robustness.corruptions import COMMON
from mae_vlm.robustness.family import Family, unit
from mae_vlm.robustness.findings import CLEAN, Findings, Measured, Place
from mae_vlm.robustness.occlusion import hiding
from mae_vlm.tokens.chance import key_of
from mae_vlm.types import Batch

_ATTACK_COST = 3 * STEPS + 1  # forward passes that one attacked picture takes: a backward pass is about two
_NUMBERS = 2**23  # that are spoilt at a time: their keys' 64-bit words take 64 MiB


@dataclass
class _Tally:
    """What is added up for one head at one place."""

    metrics: MetricCollection
    calibration: Calibration | None


class Examination:
    """Give it batches with :meth:`add`; then :meth:`findings` tells what each head is worth on pictures spoilt in each way.

    Only the contract of heads is used: their own metric, loss and predictions. The model is left as it was, and so is torch's chance.

    Args:
        learner: on its device.
        seed: all that is by chance depends on it and on each picture's own key.
        autocast: in which the heads are measured; attacks are made in the weights' precision.
        done: told after each part of a batch what it cost, in forward passes of one picture; see :meth:`cost`.
    """

    def __init__(
        self,
        learner: Finetuner,
        seed: int = 0,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
        done: Callable[[float], None] = lambda cost: None,
    ) -> None:
        self.learner, self.seed, self.autocast, self.done = learner, seed, autocast, done
        self.heads = {name: head for name, head in learner.heads.items() if isinstance(head, Head)}
        space = learner.towers.image.space
        families = [*COMMON, *hiding(space.patch, space.height, space.width), CONTROL]
        self.families = [one for one in families if self._heads_for(one) and (space.channels > 1 or not one.coloured)]
        self.pictures = 0
        self._tallies: dict[tuple[str, Place], _Tally] = {}
        self._known = dict.fromkeys(self.heads, 0.0)

    @property
    def cost(self) -> float:
        """Forward passes that one picture takes in all."""
        places = 1 + sum(len(family.levels) for family in self.families)
        return places + len(ATTACK.levels) * len(self.heads) * _ATTACK_COST

    def add(self, batch: Batch) -> None:
        """Measure every head on a batch in every way."""
        most = max(2, _NUMBERS // batch.images_BCHW[0].numel() // 2 * 2)  # even: some metrics compare neighbours
        for start in range(0, len(batch), most):
            self._add(batch[start : start + most].to(self.learner.device))

    def findings(self) -> list[Findings]:
        """What was found, a head at a time.

        Raises:
            ValueError: no picture had a label or target for a head.
        """
        return [self._of(name, head) for name, head in self.heads.items()]

    def sample(self, batch: Batch, count: int) -> list[tuple[str, list[Tensor]]]:
        """The first pictures of a batch as they are seen: for each family its name and float ``[count, C, H, W]``, clean first."""
        few = batch[:count].to(self.learner.device)
        first = next(iter(self.heads.values()))
        rows = []
        for family in [*self.families, ATTACK]:
            seen = [self._spoilt(family, level, few, first) for level in family.levels]
            rows.append((family.name, [unit(images) for images in (few.images_BCHW, *seen)]))
        return rows

    def _add(self, batch: Batch) -> None:
        real = int(batch.real_B.sum())
        self.pictures += real
        for name, head in self.heads.items():
            self._known[name] += float(torch.stack(list(head.counts(batch).values())).sum())
        with at_rest(self.learner):
            for place, heads, images_BCHW in self._views(batch):
                self._measure(place, heads, replace(batch, images_BCHW=images_BCHW))
                self.done(real * (_ATTACK_COST if place.family == ATTACK.name else 1))

    def _views(self, batch: Batch) -> Iterator[tuple[Place, list[str], Tensor]]:
        """Clean, then every family at every level, with the heads that are asked about it; the attack is against each head alone."""
        yield CLEAN, list(self.heads), batch.images_BCHW
        for family in self.families:
            for level in family.levels:
                yield Place(family.name, level), self._heads_for(family), self._spoilt(family, level, batch)
        for name, head in self.heads.items():
            for level in ATTACK.levels:
                yield Place(ATTACK.name, level), [name], self._spoilt(ATTACK, level, batch, head)

    def _heads_for(self, family: Family) -> list[str]:
        return [name for name, head in self.heads.items() if classifies(head) or not family.moves]

    def _spoilt(self, family: Family, level: int, batch: Batch, head: Head | None = None) -> Tensor:
        keys_B = batch.keys_B ^ key_of(self.seed)
        if family is ATTACK:
            assert head is not None
            found = attacked(self.learner, head, batch, keys_B, family.strengths[level - 1])
            return _same_padding(found, unit(batch.images_BCHW), batch)
        return _same_padding(family(batch.images_BCHW, keys_B, level), batch.images_BCHW, batch)

    @torch.no_grad()
    def _measure(self, place: Place, heads: list[str], batch: Batch) -> None:
        with self.autocast():
            features = self.learner.features(batch)
            for name in heads:
                head, answer = self.heads[name], self.heads[name](features)
                tally = self._tallies.get((name, place)) or self._begin(name, place)
                head.measure(tally.metrics, answer, batch)
                if tally.calibration is not None:
                    tally.calibration.add_answers(head.predictions(answer, batch), batch.labels_B[batch.real_B])

    def _begin(self, name: str, place: Place) -> _Tally:
        head = self.heads[name]
        tally = _Tally(head.metrics().to(self.learner.device), Calibration() if classifies(head) else None)
        return self._tallies.setdefault((name, place), tally)

    def _of(self, name: str, head: Head) -> Findings:
        if not self._known[name]:
            raise ValueError(
                f"none of the {self.pictures} pictures has a label or target for the head {name}; give others with --data.path"
            )
        measured = {}
        for (owner, place), tally in self._tallies.items():
            if owner == name:
                results = tally.metrics.compute().items()
                values = {key: float(value) for key, value in results if isinstance(value, Tensor) and value.ndim == 0}
                measured[place] = Measured(values, tally.calibration)
        families = [family for family in [*self.families, ATTACK] if Place(family.name, 1) in measured]
        return Findings(name, head.best[0], head.best[1], self.pictures, families, measured)


def _same_padding(images_BCHW: Tensor, before_BCHW: Tensor, batch: Batch) -> Tensor:
    """With everything right of and below a picture as it was: where it lies on a canvas, only the picture is spoilt."""
    for image_CHW, before_CHW, target in zip(images_BCHW, before_BCHW, batch.targets, strict=False):
        image_CHW[:, target.frame.rows :] = before_CHW[:, target.frame.rows :]
        image_CHW[:, :, target.frame.columns :] = before_CHW[:, :, target.frame.columns :]
    return images_BCHW
