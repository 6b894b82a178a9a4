"""Whether towers, objectives and parts of a batch go together, told before a run."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from mae_vlm.encoders.towers import Towers
from mae_vlm.objectives.base import Objective


def check(towers: Towers, objectives: Mapping[str, Objective], chunks: int) -> None:
    """Tell what would not work, or would be built for nothing.

    Raises:
        ValueError: an objective lacks a tower or what it must be able to, a tower has no objective, or ``chunks`` would change a norm.
    """
    if chunks < 1:
        raise ValueError(f"chunks {chunks} given, allowed is 1 or more")
    norms = [name for name, module in towers.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if chunks > 1 and norms:
        raise ValueError(f"chunks {chunks} given, but {norms[0]} normalises over a batch, which parts would change; set chunks to 1")
    masked = [name for name, part in objectives.items() if "masked" in part.views]
    if masked and not towers.image.masks:
        raise ValueError(
            f"objective {masked[0]} looks at the visible patches alone, which {type(towers.image).__name__} cannot; leave it out, "
            "give it view full where it has one, or set model.encoder to mae_vlm.encoders.vit.Vit"
        )
    views = {view for part in objectives.values() for view in part.views}
    if not views & {"masked", "full", "fused"}:
        raise ValueError(f"no objective looks at pictures: {', '.join(objectives)} read words alone; add one that does, as pixels")
    for view, tower, told in (("text", towers.text, "text"), ("fused", towers.fusion, "fusion")):
        if tower is not None and view not in views:  # DDP would wait for its gradients
            raise ValueError(f"model.{told} is given, but no objective looks at it; leave it out, or add an objective that does")
