"""How far pictures are from each other in the eyes of a network that does not change.

Letters: B pictures, C channels, H, W pixels, D features, h, w places of a map down and across.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from mae_vlm.encoders.arithmetic import products
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers

_TAPS = 4  # blocks of a ViT that are looked at unless others are named


class Perceptual(nn.Module):
    """Distance of two pictures' features: LPIPS without learned weights (Zhang et al. 2018, arXiv 1801.03924, equation 1, all w = 1).

    Features of each place are divided by their length; squared differences are summed over features and layers, and averaged over places.

    Args:
        towers: of the pictures' size, channels, mean and std.
        weight: factor beside the squared error.
        name: a timm model by name (its pretrained weights are fetched, unless ``pretrained`` is off), or a folder as timm writes it; None
            takes the moving average of the encoder that is trained (``model.teacher``), which costs no download and no memory.
        layers: blocks of the encoder, counted from 0, or stages of a timm model; None takes four spread evenly, or timm's own choice.
        pretrained: whether a named model brings its weights; random ones see edges and colours, too.

    Raises:
        ValueError: a negative weight, a model or folder that timm cannot build or fetch, layers that it lacks, a size that it refuses.
    """

    own_mean: Tensor
    own_std: Tensor
    their_mean: Tensor
    their_std: Tensor

    def __init__(
        self, towers: Towers, weight: float = 0.1, name: str | None = None, layers: list[int] | None = None, pretrained: bool = True
    ) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f"perceptual weight {weight} given, allowed is 0 or more")
        self.weight = weight
        self.net: nn.Module | None = None
        if name is None:
            self.layers = _blocks(len(towers.image.vit.blocks), layers)
            self.flops = 3 * towers.image.flops(towers.image.space.patches)
        else:
            self._take(_built(name, layers, pretrained, towers), name, towers)

    @property
    def views(self) -> tuple[str, ...]:
        """The passes of ``Features`` that it needs."""
        return ("teacher",) if self.net is None else ()

    def _take(self, net: nn.Module, name: str, towers: Towers) -> None:
        """Look through a timm model, with pictures normalised as it was trained with, once it has seen a black one."""
        space, image = towers.image.space, towers.image
        try:
            counts, maps = products(net, net, (1, space.channels, space.height, space.width))
        except (AssertionError, RuntimeError, ValueError) as problem:
            told = f"perceptual model {name} does not take {space.height} x {space.width} pixels: {_line(problem)}"
            raise ValueError(f"{told}; choose a CNN, or larger pictures") from None
        if [one.shape[1] for one in maps if one.ndim == 4] != list(net.feature_info.channels()):  # type: ignore[operator, union-attr]
            raise ValueError(f"perceptual model {name} gives no maps with channels first; choose a CNN or a plain ViT, as resnet18")
        self.flops = 3 * sum(counts)  # the original's pass, and the decoded picture's forward and back to its pixels
        known = getattr(net, "pretrained_cfg", None) or {}
        for kind, own in (("mean", image.mean), ("std", image.std)):
            values = [float(one) for one in known.get(kind) or ()]
            theirs = torch.tensor(values).view(1, -1, 1, 1) if len(values) == space.channels else own
            self.register_buffer(f"own_{kind}", own.clone(), persistent=False)
            self.register_buffer(f"their_{kind}", theirs.clone(), persistent=False)
        self.net = net.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Perceptual:
        """As in torch; the network stays in evaluation mode."""
        super().train(mode)
        if self.net is not None:
            self.net.eval()
        return self

    def forward(self, features: Features, decoded_BCHW: Tensor) -> Tensor:
        """Distance of each decoded picture from the batch's own ``[B]``, pixels normalised as the encoder takes them.

        Gradients reach the decoded ones alone.
        """
        with torch.no_grad():
            original = features.teacher().maps(self.layers) if self.net is None else self._maps(features.images_BCHW)
        found = self._taught(features, decoded_BCHW) if self.net is None else self._maps(decoded_BCHW)
        with torch.autocast(decoded_BCHW.device.type, enabled=False):
            return torch.stack([_distance(*pair) for pair in zip(found, original, strict=True)]).sum(0)

    def _taught(self, features: Features, decoded_BCHW: Tensor) -> list[Tensor]:
        seeing = features.teacher().apart()  # the same weights, before they have seen any picture
        seeing.__dict__["images_BCHW"] = decoded_BCHW
        return seeing.maps(self.layers)

    def _maps(self, images_BCHW: Tensor) -> list[Tensor]:
        assert self.net is not None
        pixels_BCHW = images_BCHW * self.own_std + self.own_mean
        found: list[Tensor] = self.net(((pixels_BCHW - self.their_mean) / self.their_std).to(next(self.net.parameters()).dtype))
        return found


def _distance(found_BDhw: Tensor, original_BDhw: Tensor) -> Tensor:
    """Mean over places of the squared distance of two features of length 1: ``[B]``, from 0 to 4, in float32 or better."""
    dtype = torch.promote_types(found_BDhw.dtype, torch.float32)
    unit = [functional.normalize(one.to(dtype), dim=1, eps=1e-6) for one in (found_BDhw, original_BDhw)]
    return (unit[0] - unit[1]).square().sum(1).mean(dim=(1, 2))


def _blocks(depth: int, layers: list[int] | None) -> tuple[int, ...]:
    chosen = layers if layers is not None else sorted({(depth * share) // _TAPS - 1 for share in range(1, _TAPS + 1)} - {-1})
    if not chosen or min(chosen) < 0 or max(chosen) >= depth:
        raise ValueError(f"perceptual layers {layers} given, the encoder's blocks are numbered 0 to {depth - 1}")
    return tuple(chosen)


def _built(name: str, layers: list[int] | None, pretrained: bool, towers: Towers) -> nn.Module:
    """A timm model that gives maps, of a folder as timm writes it or by name.

    Raises:
        ValueError: there is none, timm cannot build it so, or its weights cannot be had.
    """
    folder = (Path(name) / "config.json").is_file()
    if not folder and not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "see timm.list_models()"
        raise ValueError(f"perceptual model {name!r} is neither a model of timm nor a folder with its config.json; {hint}")
    options: dict[str, Any] = {"in_chans": towers.image.space.channels, "pretrained": pretrained, "features_only": True}
    options |= {} if layers is None else {"out_indices": tuple(layers)}
    place, size = f"local-dir:{name}" if folder else name, (towers.image.space.height, towers.image.space.width)
    try:
        try:
            net: nn.Module = timm.create_model(place, img_size=size, **options)
        except TypeError:  # a CNN, which takes any size
            net = timm.create_model(place, **options)
        return net
    except Exception as problem:  # of timm, the hub's client, or a folder's file: each has errors of its own
        told = "set pretrained to false, or name a folder as timm writes it" if pretrained and not folder else "choose another, as resnet18"
        raise ValueError(f"perceptual model {name} cannot be had: {type(problem).__name__}: {_line(problem)}; {told}") from None


def _line(problem: Exception) -> str:
    return " ".join(str(problem).split())[:300]
