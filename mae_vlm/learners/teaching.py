"""A trained model whose answers the heads of a fine-tuning learn from, beside their labels.

Letters: B pictures, L classes, R parts of a picture that are answered apart (one of a classifier's, the cells of a map of scores).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.image import ImageTower
from mae_vlm.encoders.towers import Towers
from mae_vlm.heads.base import Head
from mae_vlm.types import Answer, Batch, Loss, Term

TERM = "taught"


class Teaching(nn.Module):
    """The frozen teacher of one or more heads: their scores of classes are drawn to its own, softened by a temperature.

    The term ``taught`` that it adds to a head's loss is the divergence of the student's softened shares of the classes from the
    teacher's, times the squared temperature (Hinton et al. 2015, arXiv 1503.02531, section 2), a mean over all real pictures, labelled or
    not; of maps of scores over their cells too, those of padding included. The teacher sees the very pictures that the student sees,
    blended and cropped alike (Beyer et al. 2021, arXiv 2106.05237), in its own size and with its own mean and deviation.

    Its weights are in every checkpoint of the run, so that a resumed one needs nothing else; nothing trains them, and neither
    ``mae_vlm.load`` nor a conversion takes them along.

    Args:
        weights: a fine-tuned run, or a classifier of another format. The command line reads it.
        temperature: scores are divided by it; above 1 it tells more of which wrong classes are near.
        weight: factor of the term, beside the head's own loss.
        encoder, heads: the teacher's, by the names of the heads that learn from it; the command line builds them as ``weights`` says. In a
            program give them with their weights, and leave ``weights`` out.

    Raises:
        ValueError: no teacher, or an option out of its range.
    """

    def __init__(
        self,
        weights: str | None = None,
        temperature: float = 2.0,
        weight: float = 1.0,
        encoder: ImageTower | None = None,
        heads: dict[str, Callable[[Towers], Head]] | None = None,
    ) -> None:
        super().__init__()
        if temperature <= 0 or weight < 0:
            raise ValueError(f"teacher: temperature {temperature} and weight {weight} given, allowed are above 0, and 0 or more")
        if encoder is None or not heads:
            raise ValueError("a teacher needs a trained run: name one, as --model.teacher.weights RUN")
        self.weights, self.temperature, self.weight = weights, temperature, weight
        self.towers = Towers(encoder)
        self.heads = nn.ModuleDict({name: build(self.towers) for name, build in heads.items()})
        self.scale = (1.0, 1.0)  # from the student's pictures to the teacher's
        self.adopted = weights is None  # else they are still to be read, by the command line or from a checkpoint
        self.register_load_state_dict_post_hook(_loaded)  # type: ignore[no-untyped-call]
        self.requires_grad_(False).eval()

    def meet(self, heads: dict[str, Head], encoder: ImageTower) -> None:
        """See that it can teach the student's heads of the same names.

        Raises:
            ValueError: other channels, another kind of head, or other classes.
        """
        there, here = self.towers.image.space, encoder.space
        if there.channels != here.channels:
            raise ValueError(f"the teacher takes pictures of {there.channels} channels, the student of {here.channels}; take another")
        self.scale = (there.height / here.height, there.width / here.width)
        for name, own in self._parts().items():
            if name not in heads or type(own) is not type(heads[name]):
                raise ValueError(f"the teacher's head {name} is a {type(own).__name__}; give the student one of that name and class")
            _same_classes(name, own, heads[name])

    def train(self, mode: bool = True) -> Teaching:
        """As in torch; a teacher stays in evaluation mode."""
        return super().train(False)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """How many pictures each head learns from."""
        return {f"{name}/{TERM}": batch.real_B.sum().float() for name in self.heads}

    def add(self, losses: dict[str, Loss], answers: dict[str, Answer], batch: Batch) -> dict[str, Loss]:
        """The heads' losses of a batch, each with what the teacher makes of the head's answer."""
        if not self.adopted:
            raise ValueError(
                f"the weights of teacher {self.weights} are not read; the command line does it, in a program leave weights out and give "
                "encoder and heads with theirs"
            )
        with torch.no_grad():
            features = Features(self.towers, self._seen(batch))
            told = {name: head(features)["logits"] for name, head in self._parts().items()}
        more = {name: self._term(answers[name]["logits"], logits, batch) for name, logits in told.items()}
        return {name: Loss.of(loss.terms | {TERM: more[name]}) if name in more else loss for name, loss in losses.items()}

    def flops(self) -> int:
        """Operations per picture: it runs forward alone."""
        return self.towers.image.flops(self.towers.image.space.patches)

    def _term(self, logits: Tensor, taught: Tensor, batch: Batch) -> Term:
        with torch.autocast(logits.device.type, enabled=False):
            error_B = divergence(logits, taught, self.temperature) * batch.real_B
        return Term(error_B.sum(), batch.real_B.sum().float(), self.weight)

    def _seen(self, batch: Batch) -> Batch:
        """The pictures in the teacher's size; those that are larger than the student's as much larger than the teacher's."""
        images_BCHW = batch.images_BCHW
        size = (round(images_BCHW.shape[-2] * self.scale[0]), round(images_BCHW.shape[-1] * self.scale[1]))
        if images_BCHW.shape[-2:] == size:
            return batch
        scale = {torch.uint8: 255.0, torch.uint16: 65535.0}.get(images_BCHW.dtype, 1.0)
        images_BCHW = images_BCHW.to(torch.promote_types(self.towers.image.mean.dtype, torch.float32)) / scale
        resized = functional.interpolate(images_BCHW, size=size, mode="bicubic", antialias=True, align_corners=False)
        return replace(batch, images_BCHW=resized.clamp(0, 1))

    def _parts(self) -> dict[str, Head]:
        return {name: head for name, head in self.heads.items() if isinstance(head, Head)}


def divergence(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of softened ``logits`` ``[B, L, ...]`` from ``taught`` ones, times the squared temperature, ``[B]``.

    In float32 or better. Maps of scores of another size than the student's are resampled to it, bilinear; the mean over a map's cells.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    logits, taught = logits.to(dtype), taught.to(dtype)
    if taught.shape[2:] != logits.shape[2:]:
        taught = functional.interpolate(taught, size=logits.shape[2:], mode="bilinear", antialias=True, align_corners=False)
    own_BLR, told_BLR = (functional.log_softmax(one.reshape(*one.shape[:2], -1) / temperature, dim=1) for one in (logits, taught))
    away_BLR = functional.kl_div(own_BLR, told_BLR, reduction="none", log_target=True)
    return away_BLR.sum(1).flatten(1).mean(1) * temperature**2


def _same_classes(name: str, teacher: Head, student: Head) -> None:
    """See that scores stand for the same classes, of which a picture has one."""
    if getattr(student, "term", "cross_entropy") != "cross_entropy" or getattr(teacher, "term", "cross_entropy") != "cross_entropy":
        raise ValueError(f"head {name} learns no classes that exclude each other, as a teacher tells of; set its loss cross_entropy")
    there, here = getattr(teacher, "names", None), getattr(student, "names", None)
    counts = (getattr(teacher, "classes", None), getattr(student, "classes", None))
    if counts[0] is None or counts[0] != counts[1] or (there and here and list(there) != list(here)):
        raise ValueError(f"head {name} has the classes {_few(here, counts[1])}, its teacher {_few(there, counts[0])}; take one of the same")


def _few(names: Any, count: Any) -> str:
    shown = ", ".join(list(names)[:5]) if names else f"{count}"
    return f"{shown} ... ({count})" if names and len(names) > 5 else shown


def _loaded(teaching: nn.Module, keys: Any) -> None:
    """A checkpoint of the run has brought the weights, unless it lacks them."""
    if not any("teacher." in name for name in keys.missing_keys):
        cast(Teaching, teaching).adopted = True
