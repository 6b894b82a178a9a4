"""What a fusion tower is shown of a picture."""

from __future__ import annotations

from dataclasses import replace

from mae_vlm.encoders.passes import Held
from mae_vlm.types import Encoded


def shown(seen: Encoded | Held, picture: bool) -> Encoded | Held:
    """The picture's tokens, or without ``picture`` zeros in their places: a blind twin of the same network, gradients and all."""
    return seen if picture else replace(seen, tokens_BTD=seen.tokens_BTD * 0)
