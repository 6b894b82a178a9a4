"""Parts of a collection without a train part: all of them are trained on."""

from __future__ import annotations

from collections.abc import Sequence

from mae_vlm.data.sources.base import Joined, Source


def together(parts: Sequence[Source]) -> Source:
    """All pictures of one or more parts."""
    return parts[0] if len(parts) == 1 else Joined(parts)
