"""Attention by plain arithmetic where torch's fused kernel is the slower one."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from mae_vlm.encoders.towers import Towers

SHORT = 145  # tokens; measured: DECISIONS.md


class ShortAttention(Callback):
    """On a CPU in bfloat16 the fused kernel's backward pass takes up to six times as long as plain arithmetic up to some 150 tokens.

    While such a model is fitted the fused kernel is off; other devices, other precisions and longer sequences keep it.
    """

    def __init__(self) -> None:
        self._before: bool | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if pl_module.device.type == "cpu" and str(trainer.precision).startswith("bf16") and _tokens(pl_module) <= SHORT:
            self._before = torch.backends.cuda.flash_sdp_enabled()  # type: ignore[no-untyped-call]
            torch.backends.cuda.enable_flash_sdp(False)  # the switch is the CPU's, too

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._before is not None:
            torch.backends.cuda.enable_flash_sdp(self._before)
            self._before = None


def _tokens(module: LightningModule) -> int:
    """The most tokens that a block of the module can see at once: those of a picture, and of a text beside them."""
    towers = module.towers
    assert isinstance(towers, Towers)
    return towers.image.space.patches + towers.image.prefix + (0 if towers.text is None else towers.text.length)
