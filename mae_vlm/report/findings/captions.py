"""Do the words go with the pictures?"""

from __future__ import annotations

import math

from mae_vlm.report.findings.base import FAULT, Check, Finding, Untold, needed, tail
from mae_vlm.report.recorded import Recorded

_RETRIEVAL = "text_to_image_r1"
_LOSSES = ("contrast", "loss")
_PASSES = 300  # steps: below them a contrast that starts at chance may still be there


def shuffled_captions(run: Recorded) -> Finding | None:
    """Image-text retrieval that stays at chance, on pictures that were trained on too, while the pictures themselves are learned."""
    name, found = _retrieving(run)
    told = next((f"train/{name}/{term}" for term in _LOSSES if run.curve(f"train/{name}/{term}")), f"train/{name}/{_LOSSES[0]}")
    recalls, loss = needed(run, found, 2), needed(run, told, 5)
    if run.steps < _PASSES:
        raise Untold(f"too short to tell: {run.steps:,} steps")
    pictures, batch = int(run.fact("data.val") or 0), run.batch_size
    if pictures < 2 or batch < 2:
        raise Untold("the number of validation pictures, or the batch size, was not recorded")
    chance, recall = 1 / pictures, tail(recalls, 0.3)
    bound = chance + 3 * math.sqrt(chance * (1 - chance) / pictures)  # three deviations above guessing
    floor = math.log(batch)
    softmax = "Sigmoid" not in str(run.setting(f"model.objectives.{name}.class_path"))
    if recall > bound or (softmax and tail(loss) < 0.95 * floor):
        return None
    unlearned = f"; ln({batch}) = {floor:.3f} is the loss of not knowing" if softmax else ""
    return Finding(
        "shuffled-captions",
        FAULT,
        "Captions do not go with their pictures: nothing that joins the two can be learned, on training pictures either.",
        (
            f"retrieval of a picture by its caption is right in {recall:.1%} of {pictures:,}; guessing gives {chance:.1%}",
            f"{told} is {tail(loss):.3f} after {run.steps:,} steps{unlearned}",
        ),
        (
            "look at pictures with their captions (python -m data_prep check): is the list in another order than the pictures?",
            "captions that say the same of every picture cannot tell them apart",
            f"weight: the gradient share of {name} among the objectives stands above; raise its weight if it is near 0",
        ),
    )


def _retrieving(run: Recorded) -> tuple[str, str]:
    """The part that joins pictures and words, an objective or a head, and the tag of its recall."""
    for name in run.objectives:
        for tag in (f"val/{name}/{_RETRIEVAL}", f"val/{_RETRIEVAL}"):  # a head that is alone leaves its name out
            if run.curve(tag) and any(run.curve(f"train/{name}/{term}") for term in _LOSSES):
                return name, tag
    raise Untold("no image-text objective was trained")


CHECKS = (Check("shuffled-captions", "do captions go with their pictures?", shuffled_captions),)
