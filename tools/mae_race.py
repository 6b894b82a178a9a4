"""One pretraining run of the CIFAR comparison: ours or the peer, the same pictures, crops, masks, optimizer and schedule."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.learners.optim import AdamW
from mae_vlm.objectives.pixels import Pixels
from mae_vlm.tokens.chance import key_of
from mae_vlm.tokens.masking import Mask, RandomMask
from mae_vlm.types import Batch
from tools.cifar_pictures import MEAN, SIDE, STD, Pictures, keys, order

_SAVE_EVERY = 300  # seconds between the checkpoints that a killed run goes on from
_NORMALISATION: dict[str, tuple[list[float] | None, list[float] | None]] = {
    "cifar": (MEAN, STD),
    "half": ([0.5] * 3, [0.5] * 3),
    "imagenet": (None, None),
}


@dataclass(frozen=True)
class Recipe:
    """What determines the weights. ``method`` is ours, transformers or random (no step is made)."""

    method: str = "ours"
    seed: int = 0
    steps: int = 560
    decoder: str = "2x64"  # depth x width
    base_lr: float = 1.5e-3
    mask_ratio: float = 0.75
    scale_min: float = 0.2
    batch: int = 256
    normalise: str = "cifar"
    beta2: float = 0.95
    weight_decay: float = 0.05
    warmup: float = 0.1
    width: int = 128
    depth: int = 6
    heads: int = 4
    patch: int = 4

    @property
    def slug(self) -> str:
        """A file name: method, seed, steps, decoder, then what differs from the defaults."""
        if self.method == "random":
            return f"random-seed{self.seed}"
        usual = Recipe()
        head = f"{self.method}-seed{self.seed}-{self.steps}steps-d{self.decoder}"
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        shown = [
            f"{name}{value}"
            for name, value in named.items()
            if name not in ("method", "seed", "steps", "decoder") and value != getattr(usual, name)
        ]
        return "-".join([head, *shown])

    def encoder(self) -> Vit:
        """A new encoder of these sizes, drawn from torch's generator."""
        mean, std = _NORMALISATION[self.normalise]
        return Vit(width=self.width, depth=self.depth, heads=self.heads, patch=self.patch, image_size=SIDE, mean=mean, std=std)

    def decoder_sizes(self) -> tuple[int, int]:
        """Depth and width of the decoder."""
        depth, width = self.decoder.split("x")
        return int(depth), int(width)


class OurMae(nn.Module):
    """Loss of a batch through Towers, Features and Pixels, as ``learners/pretrain.py`` composes them."""

    def __init__(self, encoder: Vit, mask: Mask, decoder_depth: int, decoder_width: int) -> None:
        super().__init__()
        self.mask = mask
        self.towers = Towers(encoder)
        self.pixels = Pixels(self.towers, width=decoder_width, depth=decoder_depth)

    def forward(self, batch: Batch) -> Tensor:
        value: Tensor = self.pixels(Features(self.towers, batch, self.mask), batch).value
        return value

    def encoder_state(self) -> dict[str, Tensor]:
        """The encoder's weights under the names of ``Vit``."""
        return self.towers.image.state_dict()


def build(recipe: Recipe) -> nn.Module:
    """The model of a recipe, drawn from its seed: a module from batch to loss with ``encoder_state()``.

    Raises:
        ValueError: an unknown method.
    """
    torch.manual_seed(recipe.seed)
    encoder, mask, (depth, width) = recipe.encoder(), RandomMask(recipe.mask_ratio), recipe.decoder_sizes()
    if recipe.method == "ours":
        return OurMae(encoder, mask, depth, width)
    if recipe.method == "transformers":
        from tools.peer_vitmae import PeerMae  # slow to import

        return PeerMae(encoder, mask, depth, width)
    raise ValueError(f"method {recipe.method!r} given, allowed are ours and transformers")


def pretrain(recipe: Recipe, train: Pictures, val: Pictures, scratch: Path, say: Callable[[str], None]) -> tuple[dict[str, Any], Any]:
    """Run a recipe to its end, from the checkpoint ``scratch`` where there is one.

    Returns:
        What was measured (seconds of the loop alone), and the encoder's weights.
    """
    model = build(recipe)
    rule = AdamW(recipe.base_lr, (0.9, recipe.beta2), recipe.weight_decay, recipe.warmup)
    optimizer, schedule = rule.build(model, recipe.batch, recipe.steps)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "schedule": schedule}
    clock = {"step": 0, "seconds": 0.0, "cpu_seconds": 0.0, "loss": 0.0}
    if scratch.exists():
        stored = torch.load(scratch, weights_only=True)
        clock = stored.pop("clock")
        for name, part in parts.items():
            part.load_state_dict(stored[name])
        say(f"goes on from step {clock['step']}")
    _loop(recipe, parts, train, clock, scratch, say)
    seconds, images = clock["seconds"], recipe.steps * recipe.batch
    measured = {key: clock[key] for key in ("seconds", "cpu_seconds")} | {
        "images_per_second": images / seconds,
        "train_loss": clock["loss"],  # running mean over some 50 steps
        "val_loss": fixed_mask_loss(model, val),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    scratch.unlink(missing_ok=True)
    return measured, model.encoder_state()  # type: ignore[operator]


def _loop(recipe: Recipe, parts: dict[str, Any], train: Pictures, clock: dict[str, Any], scratch: Path, say: Callable[[str], None]) -> None:
    model, optimizer, schedule = parts["model"], parts["optimizer"], parts["schedule"]
    model.train()
    per_epoch = len(train) // recipe.batch
    saved = time.perf_counter()
    while clock["step"] < recipe.steps:
        began, began_cpu = time.perf_counter(), time.process_time()
        epoch, place = divmod(clock["step"], per_epoch)
        index_B = order(len(train), recipe.seed, epoch)[place * recipe.batch : (place + 1) * recipe.batch]
        loss = model(train.batch(index_B, keys(recipe.seed, epoch, index_B), recipe.scale_min))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        clock["step"] += 1
        clock["loss"] += (loss.item() - clock["loss"]) * max(0.02, 1 / clock["step"])
        clock["seconds"] += time.perf_counter() - began
        clock["cpu_seconds"] += time.process_time() - began_cpu
        if clock["step"] % 50 == 0:
            say(f"step {clock['step']}/{recipe.steps} loss {clock['loss']:.4f} {clock['seconds']:.0f} s")
        if time.perf_counter() - saved > _SAVE_EVERY:
            _save(scratch, {name: part.state_dict() for name, part in parts.items()} | {"clock": clock})
            saved = time.perf_counter()


def _save(path: Path, content: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    torch.save(content, part)
    part.replace(path)


@torch.no_grad()
def fixed_mask_loss(model: nn.Module, val: Pictures, batch: int = 500) -> float:
    """Mean loss over the whole validation set under masks that are the same for every run and method."""
    model.eval()
    total = 0.0
    for start in range(0, len(val), batch):
        index_B = torch.arange(start, min(start + batch, len(val)))
        total += model(val.batch(index_B, keys(key_of(-1), 0, index_B))).item() * len(index_B)
    return total / len(val)


def settings(recipe: Recipe) -> dict[str, Any]:
    """The recipe as it is written into a result."""
    return asdict(recipe)
