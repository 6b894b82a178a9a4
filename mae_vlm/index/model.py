"""A run's towers, as far as they place pictures and words: read from the run, carried in an index, told apart by a checksum.

Letters: B pictures or texts, C channels, H, W pixels, E numbers of an embedding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from mae_vlm import storage
from mae_vlm.convert import native
from mae_vlm.data.decode import Form, Picture
from mae_vlm.data.transforms import Resize
from mae_vlm.encoders.image import ImageTower
from mae_vlm.encoders.joint import Joint
from mae_vlm.encoders.text.base import TextTower
from mae_vlm.hub.names import is_name

WEIGHTS, STATED, VOCABULARY = "model.safetensors", "model.json", "vocabulary.json"


class Model(nn.Module):
    """Pictures and texts to places in one space; of a run without words, pictures alone.

    Args:
        image, text, joint: the towers; without ``joint`` pictures are the mean of their normed patch tokens.
        form: of the pictures, as the run took them.
        stated: all of this as plain data, to build it anew.
    """

    def __init__(self, image: ImageTower, text: TextTower | None, joint: Joint | None, form: Form, stated: dict[str, Any]) -> None:
        super().__init__()
        self.image, self.text, self.joint = image, text, joint
        self.form, self.stated = form, stated
        self.width = image.width if joint is None else joint.width
        self.eval().requires_grad_(False)

    @property
    def reads(self) -> bool:
        """Whether it knows words."""
        return self.joint is not None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of its pictures."""
        return self.image.space.height, self.image.space.width

    @property
    def device(self) -> torch.device:
        return self.image.mean.device

    @torch.no_grad()
    def of_images(self, images_BCHW: Tensor) -> Tensor:
        """Float32 ``[B, E]`` of pictures in its form and size; of unit length where words are known."""
        device = self.device
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            encoded = self.image.full(self.image.normalise(images_BCHW.to(device)))
            found_BE = encoded.patches_BND.mean(1) if self.joint is None else self.joint.of_image(encoded)
        return found_BE.float().cpu()

    @torch.no_grad()
    def of_texts(self, texts: Sequence[str]) -> Tensor:
        """Float32 ``[B, E]`` of texts, of unit length.

        Raises:
            ValueError: it knows no words.
        """
        if self.text is None or self.joint is None:
            raise ValueError("this run was trained without words; look for a picture with --picture FILE")
        return self.joint.of_text(self.text(self.text.words(texts))).float().cpu()

    def seen(self, data: bytes | Path | Tensor, name: str) -> Tensor:
        """A picture as it takes them: uint8 or uint16 ``[C, H, W]``, its short side fitted and the middle cut out.

        Raises:
            ValueError: it cannot be read; the message names it.
        """
        picture = Picture(data, self.form, name)
        return picture.crop(Resize(self.size).plan(picture.height, picture.width))

    def checksum(self) -> str:
        """The same for the same weights and vocabulary, wherever they lie."""
        told = hashlib.sha256((self.text.vocabulary.json if self.text is not None else "").encode())
        for name, value in sorted(self.state_dict().items()):
            told.update(f"{name} {value.dtype} {[*value.shape]} ".encode())
            told.update(value.cpu().contiguous().view(torch.uint8).numpy().data if value.ndim else str(value.item()).encode())
        return told.hexdigest()

    def write(self, folder: Path) -> None:
        """All that :func:`carried` needs."""
        weights = save({name: value.cpu().contiguous().clone() for name, value in self.state_dict().items()})
        storage.write_whole(folder / WEIGHTS, lambda file: file.write(weights))
        if self.text is not None:
            words = self.text.vocabulary.json.encode()
            storage.write_whole(folder / VOCABULARY, lambda file: file.write(words))
        stated = json.dumps(self.stated, indent=1).encode()
        storage.write_whole(folder / STATED, lambda file: file.write(stated))


def of_run(weights: str | Path) -> Model:
    """The towers of a run folder or a checkpoint.

    Raises:
        ValueError: no checkpoint of ours there, or one that cannot be built.
    """
    image, (words, state) = native.read_encoder(weights), native.stated_words(weights)
    encoder = native.stated_encoder(weights)[0]
    data = native.read(weights)[0].get("data") or {} if is_run(weights) else {}
    bounds = data.get("value_range")
    form = Form(image.space.channels, int(data.get("bits") or 8), None if bounds is None else (float(bounds[0]), float(bounds[1])))
    known = words if "text" in words and "joint" in words else {}
    model = _built({"encoder": encoder, "form": list(form), **{name: known.get(name) for name in ("text", "joint")}}, image)
    if known:
        own = {name: value for name, value in state.items() if name.startswith(("text.", "joint."))}
        _fill(model, own | {f"image.{name}": value for name, value in image.state_dict().items()}, str(weights))
    return model


def is_run(weights: str | Path) -> bool:
    """Whether these are a run's own, no files of another format and no name on the hub."""
    return not is_name(weights) and native.elsewhere(weights) is None


def carried(folder: Path) -> Model:
    """What :meth:`Model.write` has left in ``folder``.

    Raises:
        ValueError: nothing, or it is damaged.
    """
    try:
        stated = json.loads((folder / STATED).read_text())
        if stated.get("text"):
            stated["text"]["init_args"]["vocabulary"] = str(folder / VOCABULARY)
        model = _built(stated)
        _fill(model, load_file(folder / WEIGHTS), str(folder))
    except (OSError, KeyError, TypeError, json.JSONDecodeError, SafetensorError) as problem:
        raise ValueError(f"{folder} holds no model that can be read ({problem}); give the run with --weights RUN") from None
    return model


def _built(stated: dict[str, Any], image: ImageTower | None = None) -> Model:
    if image is None:
        image = _class(stated["encoder"]["class_path"], ImageTower, "mae_vlm.encoders.")(**stated["encoder"]["init_args"])
    text = joint = None
    if stated.get("text") and stated.get("joint"):
        text = _class(stated["text"]["class_path"], TextTower, "mae_vlm.encoders.text.")(**(stated["text"].get("init_args") or {}))
        space = stated["joint"]
        joint = Joint(image.width, text.width, int(space["width"]), "full", space["pool"], int(space.get("image_queries", 0)))
    bounds = stated["form"][2]
    form = Form(stated["form"][0], stated["form"][1], None if bounds is None else (bounds[0], bounds[1]))
    return Model(image, text, joint, form, stated)


def _fill(model: Model, weights: dict[str, Tensor], where: str) -> None:
    own = model.state_dict()
    wrong = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
    if wrong:
        raise ValueError(f"{where}: its weights don't fit its config; {len(wrong)} are missing or of another size, such as {wrong[0]}")
    model.load_state_dict({name: weights[name] for name in own})


def _class(path: str, kind: Any, room: str) -> Any:
    """The class of that ``kind`` that a config names; only one of ours may be built from a file somebody hands over.

    Raises:
        ValueError: it is not.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name, None) if path.startswith(room) else None
    except ImportError:
        found = None
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise ValueError(f"{path} is not a {kind.__name__} of mae_vlm; an index takes no others")
    return found
