"""Promises of mae_vlm.callbacks.short_attention."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from captioned import towers

from mae_vlm.callbacks.bookends import Bookends
from mae_vlm.callbacks.short_attention import SHORT, ShortAttention
from mae_vlm.cli.callbacks import silent


def fused_while_fitting(precision: str, device: str = "cpu", patches: int | None = None) -> bool:
    house = towers()
    if patches is not None:
        house.image.space = SimpleNamespace(patches=patches)
    module, trainer = SimpleNamespace(device=torch.device(device), towers=house), SimpleNamespace(precision=precision)
    callback = ShortAttention()
    callback.on_fit_start(trainer, module)
    found = torch.backends.cuda.flash_sdp_enabled()
    callback.teardown(trainer, module, "fit")
    return found


def test_every_run_has_it(tmp_path):
    assert any(isinstance(callback, ShortAttention) for callback in silent(Bookends(), tmp_path, False, []))


@pytest.mark.parametrize(
    ("options", "fused"),
    [
        ({"precision": "bf16-mixed"}, False),
        ({"precision": "bf16-true"}, False),
        ({"precision": "32-true"}, True),
        ({"precision": "bf16-mixed", "device": "cuda"}, True),
        ({"precision": "bf16-mixed", "patches": SHORT}, True),  # and a text beside them
    ],
)
def test_the_fused_kernel_is_off_where_it_is_slower_and_on_again_after(options, fused):
    before = torch.backends.cuda.flash_sdp_enabled()
    assert before and fused_while_fitting(**options) is fused
    assert torch.backends.cuda.flash_sdp_enabled() is before
