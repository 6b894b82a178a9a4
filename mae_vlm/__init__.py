"""mae_vlm: pretrain a vision transformer on your own pictures, and carry its weights on to a trained head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mae_vlm.convert.native import load as load

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "load":  # torch is imported on first use: help texts must not wait for it
        from mae_vlm.convert.native import load

        return load
    raise AttributeError(f"module 'mae_vlm' has no attribute {name!r}")
