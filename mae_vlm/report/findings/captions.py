"""Do the words go with the pictures?"""

from __future__ import annotations

import math

from mae_vlm.report.findings.base import FAULT, Check, Finding, Untold, needed, tail
from mae_vlm.report.recorded import Recorded

_RETRIEVAL = "text_to_image_r1"
_PASSES = 300  # steps: below them a contrast that starts at chance may still be there


def shuffled_captions(run: Recorded) -> Finding | None:
    """Image-text retrieval that stays at chance, on pictures that were trained on too, while the pictures themselves are learned."""
    names = [name for name in run.objectives if run.curve(f"val/{name}/{_RETRIEVAL}")]
    if not names:
        raise Untold("no image-text objective was trained")
    name = names[0]
    recalls, loss = needed(run, f"val/{name}/{_RETRIEVAL}", 2), needed(run, f"train/{name}/loss", 5)
    if run.steps < _PASSES:
        raise Untold(f"too short to tell: {run.steps:,} steps")
    pictures, batch = int(run.fact("data.val") or 0), run.batch_size
    if pictures < 2 or batch < 2:
        raise Untold("the number of validation pictures, or the batch size, was not recorded")
    chance, recall = 1 / pictures, tail(recalls, 0.3)
    bound = chance + 3 * math.sqrt(chance * (1 - chance) / pictures)  # three deviations above guessing
    floor = math.log(batch)
    if recall > bound or tail(loss) < 0.95 * floor:
        return None
    return Finding(
        "shuffled-captions",
        FAULT,
        "Captions do not go with their pictures: nothing that joins the two can be learned, on training pictures either.",
        (
            f"retrieval of a picture by its caption is right in {recall:.1%} of {pictures:,}; guessing gives {chance:.1%}",
            f"train/{name}/loss is {tail(loss):.3f} after {run.steps:,} steps; ln({batch}) = {floor:.3f} is the loss of not knowing",
        ),
        (
            "look at pictures with their captions (python -m data_prep check): is the list in another order than the pictures?",
            "captions that say the same of every picture cannot tell them apart",
            f"weight: the gradient share of {name} among the objectives stands above; raise model.objectives.{name}.weight if it is near 0",
        ),
    )


CHECKS = (Check("shuffled-captions", "do captions go with their pictures?", shuffled_captions),)
