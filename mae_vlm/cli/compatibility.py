"""Whether model, pictures and checkpoint fit together: told before a run begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from mae_vlm.convert import native
from mae_vlm.data.module import Data
from mae_vlm.heads.parts.windows import check_canvas
from mae_vlm.types import sides


def check_pictures(model: Any, data: Data) -> None:
    """The encoder's size against the pictures', where the model is one of ours.

    Raises:
        ValueError: they are not the same, captions would no longer be true, or a head cannot take those of ``data.val_size``.
    """
    towers = getattr(model, "towers", None)
    if towers is None:
        return
    if data.rand_augment and getattr(towers, "text", None) is not None:
        raise ValueError(
            f"data.rand_augment {data.rand_augment} would belie what captions tell of place and colour; leave it out where words count"
        )
    space, (height, width) = towers.image.space, data.size
    channels = data.channels or data.inspect().channels
    if (space.channels, space.height, space.width) != (channels, height, width):
        raise ValueError(
            f"the encoder takes {space.channels} x {space.height} x {space.width} (channels, height, width), the data gives "
            f"{channels} x {height} x {width}; set data.image_size and data.channels, or leave the encoder's open"
        )
    if data.val_size is None or sides(data.val_size) == (height, width):
        return
    heads = getattr(model, "heads", {}).items()
    plain = [f"head {name}" for name, head in heads if not head.windowed] or ([] if heads else ["pretraining"])
    if plain:
        raise ValueError(
            f"data.val_size {data.val_size} is larger than the encoder's pictures, which {plain[0]} does not take; leave it out"
        )
    try:
        check_canvas(sides(data.val_size), space)
    except ValueError as problem:
        raise ValueError(f"data.val_size {data.val_size}: {problem}") from None


def check_batchnorm(model: nn.Module, processes: int, device: str) -> None:
    """``trainer.sync_batchnorm`` against what torch can do.

    Raises:
        ValueError: several processes would normalise together on CPUs.
    """
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if norms and processes > 1 and device == "cpu":
        raise ValueError(
            f"trainer.sync_batchnorm given with {processes} processes on CPUs, where torch cannot normalise over all of them "
            f"({norms[0]}); leave it out, or train on GPUs"
        )


def check_weights(model: Any, checkpoint: Path) -> None:
    """Sizes said on the command line win over a checkpoint's, and then its weights may have no place.

    Raises:
        ValueError: one has none.
    """
    stored, own = native.read(checkpoint)[1], model.state_dict()
    for name in [*own, *stored]:
        there, here = (list(state[name].shape) if name in state else "none" for state in (stored, own))
        if there != here:
            raise ValueError(f"{checkpoint} does not fit the model: {name} is {there} there and {here} here; keep its sizes")
