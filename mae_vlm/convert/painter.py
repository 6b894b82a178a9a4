"""A trained run that paints: pictures from words, and parts of pictures.

Letters: B pictures, C channels, H, W pixels, N patches.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mae_vlm.convert import native
from mae_vlm.data.decode import Form, Picture
from mae_vlm.data.transforms import Resize
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.text.base import TextTower
from mae_vlm.encoders.towers import Towers
from mae_vlm.objectives.completion import Completion
from mae_vlm.tokens.chance import key_of
from mae_vlm.types import Batch

_COMPLETION = "mae_vlm.objectives.completion.Completion"
Box = tuple[float, float, float, float]


class Painter(nn.Module):
    """Towers and a :class:`Completion` with their trained weights, to be looked with, not trained.

    Args:
        towers, completion: of a run.
        form: of its pictures.
    """

    def __init__(self, towers: Towers, completion: Completion, form: Form) -> None:
        super().__init__()
        self.towers, self.completion, self.form = towers, completion, form
        self.eval().requires_grad_(False)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of what it paints."""
        return self.towers.image.space.height, self.towers.image.space.width

    def paint(self, words: str, count: int = 1, seed: int = 0, **how: Any) -> Tensor:
        """Pictures from words alone: float32 ``[B, C, H, W]`` in [0, 1], ``count`` of them, the same for the same seed on one machine.

        ``how`` are ``guidance``, ``steps`` and ``temperature`` of :meth:`Completion.complete`.
        """
        blank_CHW = torch.zeros(self.towers.image.space.channels, *self.size, dtype=torch.uint8)
        return self._completed(blank_CHW, torch.ones(self.towers.image.space.patches, dtype=torch.bool), words, count, seed, how)

    def repaint(self, picture: Path, box: Box, words: str, count: int = 1, seed: int = 0, **how: Any) -> Tensor:
        """A picture, cut to the model's size as in validation, with the patches that ``box`` touches painted from words.

        The box is left, top, right, bottom in pixels of the picture as it is shown.

        Raises:
            ValueError: the picture cannot be read, or the box lies outside of the part that the model sees.
        """
        opened = Picture(picture, self.form, str(picture))
        crop = Resize(self.size).plan(opened.height, opened.width)
        inside = crop.frame(opened.height, opened.width).inward(torch.tensor(box, dtype=torch.float64))
        hidden_N = self._touched(inside)
        if not hidden_N.any():
            top, left, height, width = crop.window
            seen = f"the model sees {width} x {height} pixels of it from {left},{top}"
            raise ValueError(f"the region {box} (left, top, right, bottom) lies outside of {picture} as far as it is seen: {seen}")
        return self._completed(opened.crop(crop), hidden_N, words, count, seed, how)

    def _touched(self, box_4: Tensor) -> Tensor:
        """The patches that share some of a box (left, top, right, bottom): bool ``[N]``."""
        space = self.towers.image.space
        left, top, right, bottom = (box_4 / space.patch).tolist()
        row, column = torch.arange(space.rows)[:, None], torch.arange(space.columns)[None]
        edge = 1e-6  # a box that ends at a patch does not touch it, however it was scaled
        touched_hw = (row + 1 > top + edge) & (row < bottom - edge) & (column + 1 > left + edge) & (column < right - edge)
        touched_N: Tensor = touched_hw.flatten()
        return touched_N

    @torch.no_grad()
    def _completed(self, image_CHW: Tensor, hidden_N: Tensor, words: str, count: int, seed: int, how: dict[str, Any]) -> Tensor:
        device = self.towers.image.mean.device
        keys_B = torch.tensor([key_of(seed, number) for number in range(count)])
        nothing_B = torch.full((count,), -1)
        images_BCHW = image_CHW.expand(count, -1, -1, -1)
        names = [str(number) for number in range(count)]
        batch = Batch(images_BCHW, keys_B, nothing_B < 0, nothing_B, names, [(words,)] * count).to(device)
        features = Features(self.towers, batch)
        return self.completion.complete(features, hidden_N.to(device).expand(count, -1), **how).float().cpu()


def read(run: str | Path, weights: str = "raw") -> Painter:
    """The painter of a run folder or a checkpoint of ours, on the CPU.

    Raises:
        ValueError: no checkpoint there, or it was trained without :class:`Completion`.
    """
    config, state = native.read(run, weights)
    options = config["model"]["init_args"]
    named = {name: part for name, part in (options.get("objectives") or {}).items() if part.get("class_path") == _COMPLETION}
    if not named or not options.get("text"):
        raise ValueError(f"{run} was not trained to paint; train a run with {_COMPLETION}, as configs/pretrain/scenes_completion.yaml does")
    name, stated = next(iter(named.items()))
    towers = Towers(native.read_encoder(run, weights), _text(options["text"]))
    completion = Completion(towers, **(stated.get("init_args") or {}))
    for part, prefix in ((towers.told_text(), "towers.text."), (completion, f"objectives.{name}.")):
        _fill(part, {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}, str(run))
    data, space = config.get("data") or {}, towers.image.space
    bounds = data.get("value_range")
    form = Form(space.channels, int(data.get("bits") or 8), None if bounds is None else (float(bounds[0]), float(bounds[1])))
    return Painter(towers, completion, form)


def _text(stated: dict[str, Any]) -> TextTower:
    """The text tower that a config names; only one of ours may be built from a file somebody hands over."""
    path = str(stated["class_path"])
    module, _, name = path.rpartition(".")
    found: Any = getattr(import_module(module), name, None) if path.startswith("mae_vlm.encoders.text.") else None
    if not (isinstance(found, type) and issubclass(found, TextTower)):
        raise ValueError(f"text tower {path} is not part of mae_vlm; load such a checkpoint through its own config in a program")
    tower: TextTower = found(**(stated.get("init_args") or {}))
    return tower


def _fill(part: nn.Module, weights: dict[str, Tensor], where: str) -> None:
    own = part.state_dict()
    wrong = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
    if wrong:
        raise ValueError(f"{where}: its weights don't fit its config; {len(wrong)} are missing or of another size, such as {wrong[0]}")
    part.load_state_dict({name: weights[name] for name in own})
