"""Distillation: an encoder learns what a trained one, often a larger one, makes of the same pictures.

Letters: B pictures, K patches that the student sees, D its width, E the teacher's width.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mae_vlm.encoders.arithmetic import linear
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.image import ImageTower
from mae_vlm.encoders.init import mae_init
from mae_vlm.encoders.towers import Towers
from mae_vlm.objectives.base import Objective
from mae_vlm.objectives.parts.teacher_tokens import teacher_tokens
from mae_vlm.tokens.patchify import take
from mae_vlm.types import Batch, Encoded, Loss

LOSSES = ("smooth_l1", "cosine")
_BETA = 2.0  # where smooth L1 turns from squares to distances, of targets with unit deviation (arXiv 2205.14141, section 3)


class Distil(Objective):
    """Each patch's token, through a small projector, predicts what a frozen teacher makes of that patch in the whole picture.

    Targets are the teacher's tokens, whitened (:func:`mae_vlm.objectives.parts.teacher_tokens.teacher_tokens`). From the ``full`` view
    this is feature distillation (Wei et al. 2022, arXiv 2205.14141, section 3); from the ``masked`` one the visible patches alone are held
    against the teacher, who sees all (DMAE, Bai et al. 2022, arXiv 2208.12256, section 3), in the pass that pixels take anyway. The
    teacher may have other sizes, another grid, and another mean and deviation of pixels.

    Logs its loss, ``smooth_l1`` or ``cosine_distance``, and ``cosine``, the mean similarity of predictions and targets; in validation
    beside it ``other_picture``, the same with another picture's targets, which a student that looks at pictures is clearly above.

    The teacher's weights are in every checkpoint of the run, so that a resumed one needs nothing else; nothing trains them, and neither
    ``mae_vlm.load`` nor a conversion takes them along.

    Args:
        towers, weight: see :class:`Objective`.
        teacher: a run, or a file, folder or hub name of another format, whose encoder teaches. The command line reads it.
        encoder: that encoder; the command line builds it as ``teacher`` says. In a program: ``mae_vlm.load(RUN).encoder``.
        view: what the student sees: ``full`` or ``masked``.
        loss: ``smooth_l1`` or ``cosine``, one minus it.
        blocks: of the teacher (a plain ViT), from 0, whose tokens' mean is the target; None is the last one alone.
        class_weight: factor of the same loss between the class tokens, beside the patches' 1; 0 is without.
        hidden: width of a hidden layer in the projector; 0 is one linear layer.

    Raises:
        ValueError: no teacher, one of other channels or without what is asked of it, or an option out of its range.
    """

    def __init__(
        self,
        towers: Towers,
        weight: float = 1.0,
        teacher: str | None = None,
        encoder: ImageTower | None = None,
        view: str = "full",
        loss: str = "smooth_l1",
        blocks: list[int] | None = None,
        class_weight: float = 0.0,
        hidden: int = 0,
    ) -> None:
        super().__init__(towers, weight)
        if view not in ("full", "masked") or loss not in LOSSES or class_weight < 0 or hidden < 0:
            raise ValueError(
                f"view {view!r}, loss {loss!r}, class_weight {class_weight}, hidden {hidden} given: allowed are full or masked, "
                f"{' or '.join(LOSSES)}, and 0 or more"
            )
        if encoder is None:
            raise ValueError("distil needs a teacher: name a trained run, as --model.objectives.distil.teacher RUN")
        _check(encoder, towers.image, blocks, class_weight)
        self.views = (view,)
        self.view, self.loss, self.class_weight, self.hidden = view, loss, class_weight, hidden
        self.blocks = None if blocks is None else tuple(blocks)
        self.space, self.source, self.class_tokens = towers.image.space, teacher, towers.image.class_tokens
        self.teacher = encoder.requires_grad_(False).eval()
        self.adopted = teacher is None  # else its weights are still to be read, by the command line or from a checkpoint
        self.register_load_state_dict_post_hook(_loaded)  # type: ignore[no-untyped-call]
        self.project = _projector(towers.image.width, hidden, encoder.width)
        self.project_class = _projector(towers.image.width, hidden, encoder.width) if class_weight else None

    def adopt(self, weights: dict[str, Tensor]) -> None:
        """Fill the teacher with trained weights, by the names of its state dict."""
        self.teacher.load_state_dict(weights, strict=False)
        self.adopted = True

    def train(self, mode: bool = True) -> Distil:
        """As in torch; the teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, features: Features, batch: Batch) -> Loss:
        if not self.adopted:
            raise ValueError(
                f"the weights of teacher {self.source} are not read; the command line does it, in a program leave teacher out and give "
                "encoder=mae_vlm.load(RUN).encoder"
            )
        seen = features.full if self.view == "full" else features.masked
        target_BNE, class_BE = teacher_tokens(self.teacher, batch.images_BCHW, self.space, self.blocks)
        target_BKE = target_BNE if self.view == "full" else take(target_BNE, features.masking.keep_BK)
        predicted_BKE = _precise(self.project(seen.patches_BND))
        with torch.autocast(predicted_BKE.device.type, enabled=False):
            return self._loss(predicted_BKE, target_BKE, self._class_error_B(seen, class_BE), batch)

    def _class_error_B(self, seen: Encoded, class_BE: Tensor | None) -> Tensor | None:
        """The loss between the class tokens, by picture; None without."""
        if self.project_class is None:
            return None
        assert class_BE is not None
        predicted_BE = _precise(self.project_class(seen.tokens_BTD[:, : self.class_tokens].mean(1)))
        with torch.autocast(predicted_BE.device.type, enabled=False):
            return self._error_B(predicted_BE[:, None], class_BE[:, None])

    def _loss(self, predicted_BKE: Tensor, target_BKE: Tensor, class_error_B: Tensor | None, batch: Batch) -> Loss:
        share_B = batch.real_B.to(predicted_BKE.dtype)
        share_B = share_B / share_B.sum().clamp(min=1)
        error_B = self._error_B(predicted_BKE, target_BKE)
        found = {"smooth_l1" if self.loss == "smooth_l1" else "cosine_distance": error_B, "cosine": _cosine_B(predicted_BKE, target_BKE)}
        value = (error_B * share_B).sum()
        if class_error_B is not None:
            value, found["class_token"] = value + self.class_weight * (class_error_B * share_B).sum(), class_error_B
        if not self.training:
            found["other_picture"] = _cosine_B(predicted_BKE, _of_neighbours(target_BKE))
        return Loss(value, {name: (value_B.detach() * share_B).sum() for name, value_B in found.items()})

    def _error_B(self, predicted_BKE: Tensor, target_BKE: Tensor) -> Tensor:
        if self.loss == "cosine":
            return 1 - _cosine_B(predicted_BKE, target_BKE)
        return functional.smooth_l1_loss(predicted_BKE, target_BKE, reduction="none", beta=_BETA).mean(dim=(1, 2))

    def flops_per_image(self, visible: int) -> int:
        patches = self.space.patches if self.view == "full" else visible
        layers = [layer for layer in self.project.modules() if isinstance(layer, nn.Linear)]
        whole = 0 if self.project_class is None else 1  # the class token goes through layers of the same sizes
        own = 3 * sum(linear(layer, patches + whole) for layer in layers)
        return own + self.teacher.flops(self.teacher.space.patches)  # it runs forward alone


def _check(teacher: ImageTower, student: ImageTower, blocks: list[int] | None, class_weight: float) -> None:
    """See that the teacher has what is asked of it."""
    if teacher.space.channels != student.space.channels:
        raise ValueError(
            f"the teacher takes pictures of {teacher.space.channels} channels, the student of {student.space.channels}; "
            "set data.channels, or take a teacher of the same"
        )
    if class_weight and not (teacher.class_tokens and student.class_tokens):
        raise ValueError(f"class_weight {class_weight} given, but teacher and student do not both have a class token; set it to 0")
    if blocks is not None:
        depth = len(cast(Any, teacher.vit).blocks)
        if not blocks or min(blocks) < 0 or max(blocks) >= depth:
            raise ValueError(f"blocks {blocks} of the teacher given, which has 0 to {depth - 1}; leave it open for the last one")


def _loaded(objective: nn.Module, keys: Any) -> None:
    """A checkpoint of the run has brought the teacher's weights, unless it lacks them."""
    if not any("teacher." in name for name in keys.missing_keys):
        cast(Distil, objective).adopted = True


def _projector(width: int, hidden: int, out: int) -> nn.Module:
    layers = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out)) if hidden else nn.Linear(width, out)
    mae_init(layers)
    return layers


def _precise(predicted: Tensor) -> Tensor:
    return predicted.to(torch.promote_types(predicted.dtype, torch.float32))


def _cosine_B(predicted_BKE: Tensor, target_BKE: Tensor) -> Tensor:
    return functional.cosine_similarity(predicted_BKE, target_BKE, dim=-1).mean(dim=1)


def _of_neighbours(target_BKE: Tensor) -> Tensor:
    """Targets of the neighbour in pairs (0 1)(2 3), which stay together however a batch is dealt; of an odd one out that before it."""
    count = len(target_BKE)
    partner_B = torch.arange(count, device=target_BKE.device) ^ 1
    return target_BKE[torch.where(partner_B < count, partner_B, count - 2)]
