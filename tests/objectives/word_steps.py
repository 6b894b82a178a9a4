"""One step of pretraining with words, by hand and in float64: its loss and gradients on any number of processes, parts and batches."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.distributed as dist
from captioned import ANSWERS, a_batch, a_text, an_image, stirred
from torch.nn import functional

from mae_vlm.encoders.fusion.additive import Additive
from mae_vlm.encoders.fusion.coattention import CoAttention
from mae_vlm.encoders.fusion.cross import CrossAttention
from mae_vlm.encoders.fusion.early import Early
from mae_vlm.encoders.fusion.late import Late
from mae_vlm.encoders.joint import Embedded
from mae_vlm.encoders.regions import Regions
from mae_vlm.learners.optim import AdamW
from mae_vlm.learners.pretrain import Pretrainer
from mae_vlm.objectives.alignment import Alignment
from mae_vlm.objectives.answers import Answers
from mae_vlm.objectives.caption import Caption
from mae_vlm.objectives.image_text import SigmoidContrast, SoftmaxContrast
from mae_vlm.objectives.masked_language import MaskedLanguage
from mae_vlm.objectives.matching import Matching
from mae_vlm.objectives.pixels import Pixels
from mae_vlm.objectives.views import Views
from mae_vlm.pairing.pairs import named
from mae_vlm.pairing.queue import Queue
from mae_vlm.tokens.masking import RandomMask
from mae_vlm.types import Batch, Frame, Target

OBJECTIVES = {
    "pixels": partial(Pixels, width=16, depth=1, heads=2),
    "softmax": partial(SoftmaxContrast, width=8),
    "masked softmax": partial(SoftmaxContrast, width=8, view="masked", pool="end"),
    "sigmoid": partial(SigmoidContrast, width=8),
    "looking softmax": partial(SoftmaxContrast, width=8, image_queries=2),
    "matching": Matching,
    "masked_language": partial(MaskedLanguage, share=0.4),
    "alignment": partial(Alignment, iterations=8),
    "caption": Caption,
    "answers": partial(Answers, classes=ANSWERS, questions=2),
    "views": partial(Views, width=8, hidden=12),
    "language alone": partial(MaskedLanguage, share=0.4, picture=False),
    "distilled softmax": partial(SoftmaxContrast, width=8, alpha=0.4, ramp=0),
    "queued softmax": partial(SoftmaxContrast, width=8, alpha=0.4, ramp=0, queue=24),
    "distilled language": partial(MaskedLanguage, share=0.4, alpha=0.4, ramp=0),
}
TAUGHT = ("distilled softmax", "queued softmax", "distilled language")  # which learn from a teacher
FUSED = ("matching", "masked_language", "alignment", "caption", "answers", "distilled language")
FUSIONS = {
    "cross": partial(CrossAttention, depth=1, heads=2),
    "early": Early,
    "late": Late,
    "additive": Additive,
    "coattention": partial(CoAttention, depth=2, heads=2),
}
FUSIONS["cross, regions"] = FUSIONS["cross"]
ALL = ("pixels", "softmax", "matching", "masked_language")
EVERY = ("pixels", "softmax", "sigmoid", "views", "matching", "masked_language", "alignment", "caption", "answers")
READING = ("pixels", "language alone")  # which by itself would leave the image tower without anything to do
SETS = (*((name,) for name in OBJECTIVES if name != "language alone"), READING, ALL, EVERY)
ADDING = (
    ("pixels",),
    ("masked_language",),
    ("distilled language",),
    READING,
    ("pixels", "masked_language", "alignment", "caption", "answers"),
)  # which accumulated batches must not change


def learner(names: tuple[str, ...], chunks: int = 1, fusion: str = "cross") -> Pretrainer:
    """Objectives with the towers that they need, their weights random, of some size and the same every time."""
    torch.manual_seed(0)
    words = any(name not in ("pixels", "views") for name in names)
    fused = any(name in FUSED for name in names)
    pretrainer = Pretrainer(
        an_image(),
        RandomMask(0.75),
        {name: OBJECTIVES[name] for name in names},
        AdamW(base_lr=1e-3),
        a_text() if words else None,
        FUSIONS[fusion] if fused else None,
        chunks,
        0.9 if {*names} & {*TAUGHT} else None,
        regions=partial(Regions, most=3) if fusion.endswith("regions") else None,
    )
    filled(pretrainer.double())
    return stirred(pretrainer).train()  # not its teacher: it says something else


def boxed(batch: Batch) -> Batch:
    """The same pictures with none to four boxes each."""
    draw, frame = torch.Generator().manual_seed(4), Frame(32, 32, 0, 0, 32, 32, 32, 32)
    boxes = [torch.rand(number % 5, 2, 2, generator=draw).mul(32).sort(1).values.flatten(1) for number in range(len(batch))]
    return replace(batch, targets=[Target(frame, boxes_N4) for boxes_N4 in boxes])


def filled(learner: Pretrainer) -> None:
    """Let queues hold pairs of earlier steps, of which two show a picture or say words that come again; places are free."""
    draw = torch.Generator().manual_seed(3)
    who_A2 = torch.cat([named(["picture 0", "another"], ["other words", "a ring"]), torch.arange(20).view(10, 2)])
    for queue in (module for module in learner.modules() if isinstance(module, Queue)):
        found = torch.randn(2, len(who_A2), queue.image_QE.shape[1], generator=draw, dtype=torch.float64)
        queue.push(Embedded(*functional.normalize(found, dim=-1)), who_A2, torch.ones(len(who_A2), dtype=torch.bool))


def accumulated(model: Pretrainer, batches: list[Batch], accumulation: int) -> torch.Tensor:
    """The loss of one optimizer step over these batches, whose gradients it leaves in the weights."""
    if model._counting():
        model.shares.begin([model._counts(model.features(batch)) for batch in batches], accumulation, torch.device("cpu"))
    total = torch.zeros((), dtype=torch.float64)
    for number, batch in enumerate(batches):
        loss = model.training_step(batch, number) / accumulation
        loss.backward()
        total += loss.detach()
    return total


def step(names: tuple[str, ...], chunks: int = 1, accumulation: int = 1, fusion: str = "cross", captions=None) -> dict[str, np.ndarray]:
    """The loss and the gradients of a step on all pictures, of which each process has its share in ``accumulation`` batches."""
    processes, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    whole, model = boxed(a_batch(captions)), learner(names, chunks, fusion)
    size = len(whole) // (processes * accumulation)
    batches: list[Batch] = [
        whole[start : start + size] for start in range(rank * accumulation * size, (rank + 1) * accumulation * size, size)
    ]
    total = accumulated(model, batches, accumulation)
    found = {"loss": total} | {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    if processes > 1:
        whole_W = torch.cat([value.flatten() for value in found.values()])
        dist.all_reduce(whole_W)
        parts = (whole_W / processes).split([value.numel() for value in found.values()])
        found = {name: part.view_as(value) for (name, value), part in zip(found.items(), parts, strict=True)}
    return {name: value.numpy() for name, value in found.items()}


def steps(runs: list[tuple]) -> list[dict[str, np.ndarray]]:
    """Several of them, by objectives, parts, accumulated batches and the fusion; as arrays, which outlive the process."""
    return [step(*run) for run in runs]
