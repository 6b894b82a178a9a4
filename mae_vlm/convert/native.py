"""Our own runs and checkpoints: read back, rebuilt, and used."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from mae_vlm import pieces, storage
from mae_vlm.convert import foreign, hub_run
from mae_vlm.convert.averaged import chosen
from mae_vlm.convert.embedder import Embedder
from mae_vlm.convert.found import Found, encoder_class
from mae_vlm.data import captions
from mae_vlm.encoders.image import ImageTower
from mae_vlm.encoders.lora import Lora, merged
from mae_vlm.hub.names import is_name
from mae_vlm.types import CHECKPOINT_FORMAT, CHECKPOINT_KEY


def find_checkpoint(path: str | Path) -> Path:
    """The newest whole checkpoint of a run folder, or the file itself; damaged newer ones are passed over with a warning each.

    One that cannot be held against a checksum is taken, with a warning.

    Raises:
        ValueError: there is none, or the file named is damaged; or it is of another format, or a name on the hub.
    """
    if is_name(path):
        raise ValueError(f"{path} is a name on the hub, no checkpoint; start from its weights by --model.weights, or download it first")
    if (other := elsewhere(path)) is not None:
        raise ValueError(
            f"{path} holds weights of {other.kind}, no checkpoint of a run: start from them by --model.weights {path}, or make a run of "
            f"them by python -m mae_vlm convert {path} --to native --out DIR"
        )
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


def read(path: str | Path, weights: str = "raw", words: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The resolved config and the state dict of a run folder or a checkpoint of ours; loads tensors only, runs no code.

    Its vocabulary goes to the user's cache, where the config names it; without ``words``, for who looks at pictures alone, it does not.

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
    if words and isinstance(mark.get("text"), dict):
        _restate_text(config, dict(mark["text"]))
    return config, state


def _restate_text(config: dict[str, Any], stated: dict[str, Any]) -> None:
    """Let the config name the vocabulary and sizes that the checkpoint brings: the files it was trained from may be gone."""
    options = (config["model"]["init_args"].get("text") or {}).setdefault("init_args", {})
    options["vocabulary"] = str(captions.kept(str(stated.pop("vocabulary"))))
    if options.get("name") is not None:
        options["name"] = None
    options |= stated


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
    """What a run's config says of its image tower (``class_path``, ``init_args``), and that tower's weights, adapters merged into them.

    ``hf://org/name`` is what a push has put on the hub, where ``weights`` was chosen then. Files of another format are read, too.

    Raises:
        ValueError: see :func:`read` and :func:`elsewhere`; or the config names none; or the hub does not give it.
    """
    if (other := elsewhere(path)) is not None:
        return other.encoder, other.weights
    if is_name(path):
        return hub_run.stated_encoder(str(path))
    config, state = read(path, weights, words=False)
    try:
        stated = config["model"]["init_args"]["encoder"]
        found = {"class_path": stated["class_path"], "init_args": dict(stated.get("init_args") or {})}
    except (KeyError, TypeError) as problem:
        raise ValueError(f"{path}: its config names no model.init_args.encoder with a class_path") from problem
    prefix, lora = "towers.image.", config["model"]["init_args"].get("lora")
    tower = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    try:
        return found, merged(tower, Lora(**lora)) if lora else tower
    except (TypeError, ValueError) as problem:
        raise ValueError(f"{path} is damaged: its adapters are not as its config says ({problem})") from problem


def elsewhere(path: str | Path) -> Found | None:
    """What ``path`` holds where it is of another format than ours (timm, transformers, the MAE paper's code), else None.

    Raises:
        ValueError: see :func:`mae_vlm.convert.foreign.read`.
    """
    return foreign.read(path)


def stated_words(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a run's config says of its ``text``, ``fusion`` and ``regions``, where it has them, and the weights of all its towers.

    ``joint`` is the ``width``, ``pool`` and ``image_queries`` of the space that pictures and texts share, where it has one.

    Raises:
        ValueError: see :func:`read`.
    """
    if (found := elsewhere(path)) is not None:
        return ({}, {}) if found.text is None else (found.text.all_stated(), found.text.weights)
    if is_name(path):
        text = hub_run.text(str(path))
        return ({}, {}) if text is None else (text.all_stated(), text.weights)
    return words_of(*read(path))


def words_of(config: dict[str, Any], state: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The same of what :func:`read` gives."""
    options = config["model"]["init_args"]
    towers = {name.removeprefix("towers."): value for name, value in state.items() if name.startswith("towers.")}
    told = {name: options[name] for name in ("text", "fusion", "regions") if options.get(name) is not None}
    if (space := towers.get("joint.image.weight")) is not None:
        parts = [part.get("init_args") or {} for room in ("objectives", "heads") for part in (options.get(room) or {}).values()]
        pools = [str(part["pool"]) for part in parts if part.get("pool") is not None]
        queries = len(towers.get("joint.look.score.weight", ()))
        told["joint"] = {"width": len(space), "pool": pools[0] if pools else "mean"} | ({"image_queries": queries} if queries else {})
    return told, towers


def read_encoder(path: str | Path, weights: str = "raw") -> ImageTower:
    """The image tower of a run, rebuilt from its config and filled with its weights, on the CPU in evaluation mode.

    Raises:
        ValueError: see :func:`stated_encoder`; or the weights don't fit the config, with the names.
    """
    if (found := elsewhere(path)) is not None:
        for line in found.told():
            warnings.warn(f"{path}: {line}", RuntimeWarning, stacklevel=2)
        return found.build()
    stated, state = stated_encoder(path, weights)
    encoder: ImageTower = encoder_class(stated["class_path"])(**stated["init_args"])
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


def load(path: str | Path, weights: str = "raw") -> Embedder:
    """A trained encoder from a run folder, a checkpoint or the hub (``hf://org/name``): ``load(path).encode(images)``, ``[B, D]``.

    Also out of folders as timm and transformers write them and files of the MAE paper's code; what of them has no place here is warned of.

    Images are paths, PIL pictures or tensors; size and normalisation are taken care of, see :meth:`Embedder.encode`.
    ``weights`` are the run's own, raw, or their moving average, ema, where it kept one (``--ema.decay``).

    Raises:
        ValueError: no checkpoint there, or not one of ours; or it holds no average.
    """
    return Embedder(read_encoder(path, weights))
