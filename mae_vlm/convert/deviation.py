"""What a target that cannot hold an epsilon of the norms changes, measured.

Letters: B pictures, N patches, D width, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mae_vlm.convert.found import EPS, Decoder, Found
from mae_vlm.convert.timm_vit import TimmVit, eps_of, set_eps
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.objectives.pixels import Pixels
from mae_vlm.types import Encoded, Masking


def pixels_of(found: Found, encoder: Vit) -> Pixels:
    """The pixel decoder of a model, filled, in evaluation mode.

    Raises:
        ValueError: weights that don't fit, with their names.
    """
    assert found.decoder is not None
    pixels, weights = Pixels(Towers(encoder), **found.decoder.options), found.decoder.weights
    own = pixels.decoder.state_dict()
    wrong = [
        name
        for name in sorted(own.keys() | weights.keys())
        if name not in own or name not in weights or own[name].shape != weights[name].shape
    ]
    if wrong:
        raise ValueError(
            f"{found.place}: its decoder does not fit its own sizes; {len(wrong)} weights differ, such as {', '.join(wrong[:3])}"
        )
    pixels.decoder.load_state_dict(weights)
    return pixels.eval()


def of_encoder(encoder: Vit, eps: float, target: str) -> list[str]:
    """A line where the norms of ``target`` would add ``eps`` and those of the encoder another number; none where it is the same."""
    there = eps_of(encoder)
    if there == [eps]:
        return []
    images_BCHW = torch.randn(
        2, encoder.space.channels, encoder.space.height, encoder.space.width, generator=torch.Generator().manual_seed(0)
    )
    return [_line(encoder, lambda: encoder.full(images_BCHW).tokens_BTD, eps, target, "features")]


def of_decoder(found: Found, encoder: Vit, eps: float, target: str) -> list[str]:
    """The same of a pixel decoder, whose norms add :attr:`Decoder.eps` there."""
    decoder: Decoder | None = found.decoder
    if decoder is None or decoder.eps == eps:
        return []
    pixels = pixels_of(found, encoder)
    set_eps(pixels.decoder, decoder.eps)
    space, draw = encoder.space, torch.Generator().manual_seed(0)
    kept = max(1, space.patches // 4)
    order_BN = torch.rand(2, space.patches, generator=draw).argsort(1)
    tokens_BTD = torch.randn(2, encoder.prefix + kept, encoder.width, generator=draw)
    see = Encoded(tokens_BTD, encoder.prefix), Masking(order_BN[:, :kept], order_BN[:, kept:])
    return [_line(pixels.decoder, lambda: pixels.decoder(*see), eps, target, "predicted pixels")]


def architectures_own(encoder: Vit) -> float:
    """What timm's own architecture adds in its norms, under whose name a folder is written."""
    if not isinstance(encoder, TimmVit) or encoder.norm_eps is None:
        return eps_of(encoder)[0] if eps_of(encoder) else EPS
    arguments = {
        name: value
        for name, value in encoder.model_args.items()
        if name not in ("img_size", "in_chans", "num_classes", "global_pool", "fc_norm", "use_fc_norm")
    }
    with torch.device("meta"):
        return eps_of(TimmVit(encoder.architecture, arguments, image_size=(encoder.space.height, encoder.space.width)))[0]


@torch.no_grad()
def _line(module: nn.Module, see: Callable[[], Tensor], eps: float, target: str, what: str) -> str:
    own = {part: part.eps for part in module.modules() if isinstance(part, nn.LayerNorm)}
    before = see()
    set_eps(module, eps)
    worst = float((see() - before).abs().max())
    for part, value in own.items():
        part.eps = value
    told = ", ".join(f"{value:g}" for value in sorted(set(own.values())))
    return (
        f"{target} adds {eps:g} in its norms, the source {told}, which it cannot hold: {what} of noise differ by up to {worst:.1e} "
        f"({worst / float(before.std()):.1e} of their deviation)"
    )
