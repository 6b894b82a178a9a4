"""What the files of another format hold, under our own names."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mae_vlm.convert.timm_vit import PRE_NORMED
from mae_vlm.encoders.image import ImageTower
from mae_vlm.encoders.vit import SIZED, Vit

VIT, TIMM_VIT = "mae_vlm.encoders.vit.Vit", "mae_vlm.convert.timm_vit.TimmVit"
OTHERS = ("mae_vlm.encoders.cnn.Cnn", "mae_vlm.encoders.hybrid.Hybrid", "mae_vlm.encoders.stemmed.StemmedVit")  # no plain ViTs
EPS = 1e-6  # of the norms of our own encoder and decoder
_CORE = ("vit.blocks.", "vit.patch_embed.", "vit.pos_embed", "vit.cls_token", "vit.reg_token", "vit.norm.", "vit.norm_pre.")


@dataclass(frozen=True)
class Decoder:
    """A pixel decoder: options of ``objectives.pixels.Pixels``, weights by the names of its ``PixelDecoder``, its norms' epsilon."""

    options: dict[str, Any]
    weights: dict[str, Tensor]
    eps: float = EPS


@dataclass(frozen=True)
class Classifier:
    """A linear classifier on the normed mean of the patch tokens: weights by the names of ``heads.classify.Classify``."""

    classes: list[str] | int
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class Text:
    """Towers of words: class and options of the text's, and of a fusion where there is one; weights by the names of ``encoders.towers``.

    ``joint`` are the options of the space that pictures and texts share, where there is one.
    """

    stated: dict[str, Any]
    weights: dict[str, Tensor]
    fusion: dict[str, Any] | None = None
    joint: dict[str, Any] | None = None

    def all_stated(self) -> dict[str, Any]:
        """All of it by name: text, fusion, joint."""
        told = {"text": self.stated, "fusion": self.fusion, "joint": self.joint}
        return {name: one for name, one in told.items() if one is not None}


@dataclass(frozen=True)
class Found:
    """A model out of files.

    Attributes:
        kind: of the files, in words.
        place: where they are, for messages.
        encoder: class_path and init_args; ``weights`` by the names of its state dict.
        decoder, classifier, text: what stands beside it.
        ratio: hidden share of patches it was pretrained with.
        unused: weights there that have no place in our parts.
        notes: what was assumed, or is not quite as there; a line each.
        may_lack: weights of the encoder that such a model need not have.
    """

    kind: str
    place: str
    encoder: dict[str, Any]
    weights: dict[str, Tensor]
    decoder: Decoder | None = None
    classifier: Classifier | None = None
    text: Text | None = None
    ratio: float = 0.75
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    may_lack: tuple[str, ...] = field(default=())

    def told(self) -> list[str]:
        """What a reader must know of it, a line each."""
        lines = list(self.notes)
        if self.unused:
            lines.append(f"{len(self.unused)} weights of no use here: {', '.join(self.unused)}")
        return lines

    def build(self) -> Vit:
        """The encoder, filled, on the CPU in evaluation mode.

        Raises:
            ValueError: weights that are missing, of another shape, or of another architecture, with their names; or no plain ViT.
        """
        if self.encoder["class_path"] in OTHERS:
            raise ValueError(
                f"{self.place}: its encoder is a {self.encoder['class_path']}, which no other format holds; convert takes ViTs"
            )
        encoder: Vit = encoder_class(self.encoder["class_path"])(**self.encoder["init_args"])
        self.check(encoder)
        encoder.load_state_dict(self.weights, strict=False)
        return encoder.eval()

    def check(self, encoder: Vit) -> None:
        """Hold the weights against an encoder that was built for them.

        Raises:
            ValueError: see :meth:`build`.
        """
        own, given = encoder.state_dict(), self.weights
        missing = [name for name in own if name not in given and name not in self.may_lack]
        strange = [name for name in given if name not in own]
        sizes = [
            f"{name} {[*given[name].shape]} for {[*own[name].shape]}"
            for name in own
            if name in given and given[name].shape != own[name].shape
        ]
        if missing or strange or sizes:
            told = [f"{len(missing)} missing, such as {_some(missing)}"] if missing else []
            told += [f"{len(strange)} unexpected, such as {_some(strange)}"] if strange else []
            told += [f"{len(sizes)} of another shape, such as {_some(sizes)}"] if sizes else []
            raise ValueError(f"{self.place}: its weights don't fit its own config: {'; '.join(told)}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3])


def encoder_class(class_path: str) -> type[Any]:
    """The class a config names; only a :class:`ImageTower` may be built from a file somebody hands over."""
    if not class_path.startswith(("mae_vlm.encoders.", "mae_vlm.convert.")):
        raise ValueError(
            f"encoder {class_path} is not part of mae_vlm; load such a checkpoint through its own config with the command line"
        )
    module, _, name = class_path.rpartition(".")
    try:
        found = getattr(import_module(module), name, None)
    except ImportError:
        found = None
    if not (isinstance(found, type) and issubclass(found, ImageTower)):
        raise ValueError(f"encoder {class_path} is not an encoder of mae_vlm")
    return found


def split(weights: dict[str, Tensor], unused: list[str]) -> dict[str, Tensor]:
    """The encoder's part of weights by timm's names, as ``vit.``; the names of all others go to ``unused``."""
    placed = {f"vit.{name}": value for name, value in weights.items()}
    unused += [name.removeprefix("vit.") for name in placed if not name.startswith(_CORE)]
    return {name: value for name, value in placed.items() if name.startswith(_CORE)}


def square(count: int, place: object) -> int:
    """The side of a square grid of so many patches.

    Raises:
        ValueError: there is none.
    """
    side = math.isqrt(count)
    if side * side != count:
        raise ValueError(f"{place}: a table of {count} positions is no square grid, and the file does not tell its sides")
    return side


def is_plain(encoder: Vit) -> bool:
    """Whether it is the ViT of the MAE paper, but for sizes and epsilons: square, one class token with a position, GELU, no more norms."""
    vit = encoder.vit
    if (
        not isinstance(vit, VisionTransformer)
        or encoder.prefix != 1
        or vit.cls_token is None
        or vit.no_embed_class
        or vit.pos_embed is None
    ):
        return False
    block = vit.blocks[0]
    parts = [vit.norm_pre, vit.patch_embed.norm, block.ls1, block.ls2, block.attn.q_norm, block.attn.norm, block.mlp.norm]
    gelu = isinstance(block.mlp.act, nn.GELU) and block.mlp.act.approximate == "none"
    return encoder.space.rows == encoder.space.columns and gelu and all(isinstance(part, nn.Identity) for part in parts)


def encoder_of(sizes: dict[str, Any], eps: float, **arguments: Any) -> dict[str, Any]:
    """Class and options of an encoder of the ``sizes`` that :class:`Vit` takes, with whatever ``arguments`` of timm it cannot say.

    A plain ``Vit`` where there are none and the norms add 1e-6, with the paper's fixed positions where ``sizes`` say so.
    """
    if eps == EPS and not arguments:
        return {"class_path": VIT, "init_args": sizes}
    own = {"embed_dim": "width", "depth": "depth", "num_heads": "heads", "patch_size": "patch", "mlp_ratio": "mlp_ratio"}
    built: dict[str, Any] = {theirs: sizes[ours] for theirs, ours in own.items()} | arguments
    if sizes.get("class_tokens") == 0:
        built["class_token"] = False
    name = PRE_NORMED if eps == 1e-5 else SIZED
    built |= {"pre_norm": False} if name == PRE_NORMED and "pre_norm" not in arguments else {}
    options = {"name": name, "arguments": built, "norm_eps": None if eps in (EPS, 1e-5) else eps}
    options["positions"] = "fixed" if sizes.get("positions") == "sincos" else "learned"
    seen = {name: sizes[name] for name in ("image_size", "channels", "mean", "std") if sizes.get(name) is not None}
    return {"class_path": TIMM_VIT, "init_args": options | seen}
