"""Two views of one picture: SimCLR's contrast, with MoCo's queue as an option.

Letters: B pictures of one process, A pictures of all of them, E numbers of an embedding, Q embeddings in the queue.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.objectives.base import Objective
from mae_vlm.pairing.gather import first_row, gather
from mae_vlm.pairing.pairs import pictures
from mae_vlm.pairing.queue import push
from mae_vlm.tokens.colours import Distortion
from mae_vlm.types import Batch, Encoded, Loss


class Views(Objective):
    """Each view of a picture finds the other among both views of all pictures: NT-Xent (SimCLR, arXiv 2002.05709, equation 1).

    The first view is the one that the other objectives see, so that its pass is shared; the second is another crop of the picture with
    its colours distorted. Logs ``contrast`` and ``accuracy``, how often the other view is the nearest of all.

    With a ``queue`` (MoCo, arXiv 1911.05722) the second view is seen by the towers' moving average (``model.teacher``), and its
    embeddings of the last steps are further negatives: many of them without a large batch.

    Args:
        towers, weight: see :class:`Objective`.
        width, hidden: of the projector's result (E) and of its hidden layer.
        temperature: similarities are divided by it.
        view: ``full``, or ``masked``, the visible patches of both alone.
        strength, hue, grey, blur: of the second view's distortion, see :class:`Distortion`; hue and grey None are off where there is a
            text tower: captions name colours.
        queue: embeddings kept of earlier steps (Q); 0 is none.

    Raises:
        ValueError: an option out of its range.
    """

    contrasts: ClassVar[bool] = True
    kept_QE: Tensor
    place: Tensor

    def __init__(
        self,
        towers: Towers,
        weight: float = 1.0,
        width: int = 128,
        hidden: int = 512,
        temperature: float = 0.1,
        view: str = "full",
        strength: float = 0.5,
        hue: bool | None = None,
        grey: float | None = None,
        blur: float = 0.0,
        queue: int = 0,
    ) -> None:
        super().__init__(towers, weight)
        if view not in ("full", "masked") or temperature <= 0 or queue < 0:
            raise ValueError(f"view {view!r}, temperature {temperature}, queue {queue} given: full or masked, above 0, and 0 or more")
        words = towers.text is not None
        hue, grey = (not words if hue is None else hue), ((0.0 if words else 0.2) if grey is None else grey)
        self.view, self.temperature, self.queue = view, temperature, queue
        self.how = Distortion(strength, hue, grey, blur)
        self.views = (view, "second", "teacher") if queue else (view, "second")
        self.project = _projector(towers.image.width, hidden, width)
        self.register_buffer("kept_QE", functional.normalize(torch.randn(queue, width), dim=-1))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))
        self.slow = _projector(towers.image.width, hidden, width) if queue else None
        self._fresh: Tensor | None = None
        if self.slow is not None:
            self.slow.load_state_dict(self.project.state_dict())
            self.slow.requires_grad_(False)

    def forward(self, features: Features, batch: Batch) -> Loss:
        one_BE = self._embedded(self.project, features)
        second = features.second(self.how)
        picture_B = pictures(features)
        with torch.autocast(one_BE.device.type, enabled=False):
            if self.slow is not None:
                return self._against_queue(one_BE, features, picture_B)
            scores, right = self._among_all(one_BE, self._embedded(self.project, second), picture_B)
        return _loss(scores, right, batch.real_B.repeat(2))

    def _embedded(self, project: nn.Module, features: Features) -> Tensor:
        encoded: Encoded = features.full if self.view == "full" else features.masked
        embedding_BE: Tensor = project(encoded.patches_BND.mean(1))
        return functional.normalize(embedding_BE.to(torch.promote_types(embedding_BE.dtype, torch.float32)), dim=-1)

    def _among_all(self, one_BE: Tensor, other_BE: Tensor, picture_B: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of both views of this process's pictures with both of all pictures ``[2B, 2A]``, and which is right."""
        count, start = len(one_BE), first_row(len(one_BE))
        all_PE = torch.cat([gather(one_BE), gather(other_BE)])
        same_BA = picture_B[:, None] == gather(picture_B)[None]
        own = torch.arange(count, device=one_BE.device) + start
        right = torch.cat([own + same_BA.shape[1], own])
        scores = torch.cat([one_BE, other_BE]) @ all_PE.T / self.temperature
        never = same_BA.repeat(2, 2).scatter(1, right[:, None], False)  # itself, and what shows the same picture but for the other view
        return scores.masked_fill(never, -torch.inf), right

    def _against_queue(self, one_BE: Tensor, features: Features, picture_B: Tensor) -> Loss:
        """The view's own other one against the queue, as it was before this step."""
        assert self.slow is not None
        with torch.no_grad():
            teacher = features.teacher().second(self.how)
            other_BE = self._embedded(self.slow, teacher)
        if self.training:
            self._fresh = gather(other_BE)
        scores = torch.cat([(one_BE * other_BE).sum(1, keepdim=True), one_BE @ self.kept_QE.to(one_BE.dtype).T], 1) / self.temperature
        right = torch.zeros(len(one_BE), dtype=torch.int64, device=one_BE.device)
        return _loss(scores, right, features.batch.real_B)

    @property
    def averages(self) -> tuple[tuple[nn.Module, nn.Module], ...]:
        """The slow projector and the one that it follows, at the teacher's pace."""
        return () if self.slow is None else ((self.slow, self.project),)

    def after_step(self) -> None:
        """Let the newest embeddings take the oldest ones' places."""
        if self._fresh is not None:
            push([self.kept_QE], self.place, [self._fresh], self._fresh.isfinite().all(1))
            self._fresh = None


def _projector(width: int, hidden: int, out: int) -> nn.Module:
    """Two layers; LayerNorm where SimCLR has BatchNorm, so that a picture's embedding is its own whatever the batch."""
    layers = nn.Sequential(nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, out))
    return layers


def _loss(scores: Tensor, right: Tensor, real: Tensor) -> Loss:
    share = real.to(scores.dtype) / real.sum().clamp(min=1)
    loss = (functional.cross_entropy(scores, right, reduction="none") * share).sum()
    hits = ((scores.detach().argmax(1) == right) * share).sum()
    return Loss(loss, {"contrast": loss.detach(), "accuracy": hits})
