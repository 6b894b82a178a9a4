"""Our own runs and checkpoints: read back, rebuilt, and used."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from mae_vlm import pieces, storage
from mae_vlm.convert.averaged import chosen
from mae_vlm.data.decode import decode, from_pil
from mae_vlm.data.transforms import Resize
from mae_vlm.encoders.vit import Vit
from mae_vlm.types import CHECKPOINT_FORMAT, CHECKPOINT_KEY


def find_checkpoint(path: str | Path) -> Path:
    """The newest whole checkpoint of a run folder, or the file itself; damaged newer ones are passed over with a warning each.

    One that cannot be held against a checksum is taken, with a warning.

    Raises:
        ValueError: there is none, or the file named is damaged.
    """
    place = Path(path)
    if place.is_dir() and not pieces.in_pieces(place):
        return newest_whole(place)
    storage.recover(place.parent)
    if not place.exists():
        raise ValueError(f"{path}: no checkpoint there; give a .ckpt file or a run folder that holds checkpoints")
    reason = storage.damage(place)
    if reason is not None:
        raise ValueError(f"{place} is damaged: {reason}; give another, or the run's folder for its newest whole one")
    return _told(place.resolve())


def newest_whole(run: Path) -> Path:
    """The newest checkpoint of a run folder that is as it was written.

    Raises:
        ValueError: none is there, or all are damaged.
    """
    files = storage.checkpoints(run / "checkpoints")
    for file in files:
        reason = _why_not(file)
        if reason is None:
            return _told(file)
        warnings.warn(f"damaged checkpoint {file}: {reason}; looking for an older one", RuntimeWarning, stacklevel=2)
    held = "no checkpoint there" if not files else f"all of its {len(files)} checkpoints are damaged"
    raise ValueError(f"{run}: {held}; give a .ckpt file or a run folder that holds checkpoints")


def _told(file: Path) -> Path:
    """The same file, and a warning where nobody can say whether it is what was written."""
    reason = storage.unchecked(file)
    if reason is not None:
        warnings.warn(f"{file}: {reason}", RuntimeWarning, stacklevel=1)
    return file


def _why_not(file: Path) -> str | None:
    """Why a checkpoint cannot be used, or None; one without a checksum must at least open."""
    reason = storage.damage(file)
    if reason is None and file.name not in storage.entries(file.parent):
        try:
            _content(file)
        except ValueError as problem:
            return str(problem)
    return reason


def read(path: str | Path, weights: str = "raw") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The resolved config and the state dict of a run folder or a checkpoint of ours; loads tensors only, runs no code.

    Raises:
        ValueError: no checkpoint there, damaged, not one of ours, or of a newer format.
    """
    place = find_checkpoint(path)
    content = _content(place, "state_dict")
    mark = content.get(CHECKPOINT_KEY)
    if not isinstance(mark, dict) or not isinstance(mark.get("format"), int):
        raise ValueError(f"{place} is not a checkpoint of mae_vlm: it has no {CHECKPOINT_KEY!r} entry with a format number")
    if mark["format"] > CHECKPOINT_FORMAT:
        raise ValueError(f"{place} has format {mark['format']}, this version reads up to {CHECKPOINT_FORMAT}; update mae_vlm")
    try:
        config, state = yaml.safe_load(str(mark["config"])), chosen(content, weights, place)
    except (KeyError, yaml.YAMLError) as problem:
        raise ValueError(f"{place} is damaged: its config or its weights are missing or unreadable ({problem!r})") from problem
    if not isinstance(config, dict):
        raise ValueError(f"{place} is damaged: its config is {type(config).__name__}, not a mapping")
    return config, state


def _content(place: Path, *parts: str) -> dict[str, Any]:
    """What a checkpoint holds; of the sharded tensors of one in pieces only those under ``parts``."""
    if pieces.in_pieces(place):
        return pieces.read(place, lambda where, size, dtype: torch.empty(size, dtype=dtype) if where[0] in parts else None)
    try:
        content = torch.load(place, map_location="cpu", weights_only=True, mmap=True)
    except Exception as problem:
        # torch's own words advise to load it with pickle, which runs whatever code the file holds
        raise ValueError(
            f"{place} is not a checkpoint of mae_vlm, or is damaged: it cannot be read as plain tensors ({type(problem).__name__})"
        ) from problem
    if not isinstance(content, dict):
        raise ValueError(f"{place} is not a checkpoint of mae_vlm: it holds a {type(content).__name__}")
    return content


def step_of(path: str | Path) -> int:
    """The optimizer step that a checkpoint was saved at."""
    return int(_content(find_checkpoint(path))["global_step"])


def data_state(path: str | Path) -> dict[str, Any]:
    """What a checkpoint says of its data: pictures seen, and the fingerprint of the collection; empty where it says nothing."""
    return dict(_content(find_checkpoint(path)).get("Data") or {})


def stated_encoder(path: str | Path, weights: str = "raw") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a run's config says of its image tower (``class_path``, ``init_args``), and that tower's weights.

    Raises:
        ValueError: see :func:`read`; or the config names none.
    """
    config, state = read(path, weights)
    try:
        stated = config["model"]["init_args"]["encoder"]
        found = {"class_path": stated["class_path"], "init_args": dict(stated.get("init_args") or {})}
    except (KeyError, TypeError) as problem:
        raise ValueError(f"{path}: its config names no model.init_args.encoder with a class_path") from problem
    prefix = "towers.image."
    return found, {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def read_encoder(path: str | Path, weights: str = "raw") -> Vit:
    """The image tower of a run, rebuilt from its config and filled with its weights, on the CPU in evaluation mode.

    Raises:
        ValueError: see :func:`stated_encoder`; or the weights don't fit the config, with the names.
    """
    stated, state = stated_encoder(path, weights)
    encoder = _encoder_class(stated["class_path"])(**stated["init_args"])
    own = encoder.state_dict()
    sizes = [
        f"{name} {[*value.shape]} for {[*own[name].shape]}"
        for name, value in state.items()
        if name in own and value.shape != own[name].shape
    ]
    if sizes:
        raise ValueError(f"{path}: the weights don't fit their config; {len(sizes)} of another size, such as {sizes[0]}")
    missing, unexpected = encoder.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise ValueError(f"{path}: the weights don't fit their config; missing {missing}, unexpected {unexpected}")
    return encoder.eval()


def _encoder_class(class_path: str) -> type[Vit]:
    """The class a config names; only a :class:`Vit` may be built from a file somebody hands over."""
    if not class_path.startswith("mae_vlm.encoders."):
        raise ValueError(
            f"encoder {class_path} is not part of mae_vlm; load such a checkpoint through its own config with the command line"
        )
    module, _, name = class_path.rpartition(".")
    try:
        found = getattr(import_module(module), name, None)
    except ImportError:
        found = None
    if not (isinstance(found, type) and issubclass(found, Vit)):
        raise ValueError(f"encoder {class_path} is not an encoder of mae_vlm")
    return found


class Embedder:
    """A trained encoder, ready for pictures."""

    def __init__(self, encoder: Vit) -> None:
        self.encoder = encoder
        self._resize = Resize((encoder.space.height, encoder.space.width))

    @torch.no_grad()
    def encode(self, images: Any, pool: str = "patches", batch_size: int = 64) -> Tensor:
        """Features of pictures, float32.

        Args:
            images: one picture or an iterable of them: paths, PIL pictures, or tensors ``[C, H, W]`` (uint8 0 to 255, or
                float 0 to 1); a tensor ``[B, C, H, W]`` is a batch. Each is resized (short side, bicubic) and centre-cropped to the
                encoder's size, then normalised with the mean and deviation the encoder was trained with: don't normalise.
            pool: ``patches``, the mean of the normed patch tokens, ``[B, D]``; ``class``, the mean of the class tokens,
                ``[B, D]``; ``none``, all tokens, ``[B, T, D]``, class and register tokens first.
            batch_size: pictures per forward pass.

        Raises:
            ValueError: an unknown ``pool``, a picture that cannot be read, or one of another number of channels.
        """
        if pool not in ("patches", "class", "none"):
            raise ValueError(f"pool {pool!r} given, allowed are patches, class and none")
        if pool == "class" and not self.encoder.class_tokens:
            raise ValueError("pool 'class' given, but this encoder has no class token; use patches")
        waiting, parts = iter(_several(images)), []
        while some := [self._prepare(image) for image in islice(waiting, batch_size)]:
            parts.append(self._encode(torch.stack(some), pool))
        return torch.cat(parts) if parts else torch.zeros(0, self.encoder.width)

    def _encode(self, images_BCHW: Tensor, pool: str) -> Tensor:
        device = self.encoder.mean.device
        encoded = self.encoder.full(self.encoder.normalise(images_BCHW.to(device)))
        if pool == "none":
            return encoded.tokens_BTD.float()
        chosen = encoded.patches_BND if pool == "patches" else encoded.tokens_BTD[:, : self.encoder.class_tokens]
        return chosen.mean(dim=1).float()

    def _prepare(self, image: Any) -> Tensor:
        """One picture as uint8 ``[C, H, W]`` of the encoder's size."""
        channels = self.encoder.space.channels
        if isinstance(image, Tensor):
            pixels = image if image.dtype == torch.uint8 else (image.clamp(0, 1) * 255).round().to(torch.uint8)
            if pixels.ndim != 3 or len(pixels) != channels:
                raise ValueError(f"a picture of shape {tuple(image.shape)} given, this encoder takes [{channels}, height, width]")
            return self._resize(pixels)
        if channels not in (1, 3):
            raise ValueError(
                f"this encoder takes {channels} channels, which files and PIL pictures don't hold; give tensors [{channels}, height, width]"
            )
        if isinstance(image, str | Path):
            return self._resize(decode(Path(image).read_bytes(), channels, name=str(image)))
        return self._resize(from_pil(image, channels))


def load(path: str | Path, weights: str = "raw") -> Embedder:
    """A trained encoder from a run folder or a checkpoint: ``load(path).encode(images)`` gives features ``[B, D]``.

    Images are paths, PIL pictures or tensors; size and normalisation are taken care of, see :meth:`Embedder.encode`.
    ``weights`` are the run's own, raw, or their moving average, ema, where it kept one (``--ema.decay``).

    Raises:
        ValueError: no checkpoint there, or not one of ours; or it holds no average.
    """
    return Embedder(read_encoder(path, weights))


def _several(images: Any) -> Iterable[Any]:
    single = isinstance(images, str | Path) or (isinstance(images, Tensor) and images.ndim == 3) or not isinstance(images, Iterable)
    return [images] if single else images
