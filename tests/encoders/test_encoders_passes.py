"""The other ways through an encoder end where the straight one does, wherever they should."""

import pytest
import torch

from mae_vlm.encoders.passes import held, tapped
from mae_vlm.encoders.vit import Vit

SIZES = {"width": 32, "depth": 4, "heads": 2, "patch": 8, "image_size": (32, 64)}
IMAGES = torch.randn(2, 3, 32, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=["plain", "rotary"])
def encoder(request):
    torch.manual_seed(0)
    name = {"name": "vit_small_patch16_dinov3"} if request.param == "rotary" else {}
    sizes = {"image_size": (32, 64)} if name else SIZES
    return Vit(**sizes, **name).eval()


def test_the_last_tap_is_what_the_whole_encoder_has_before_its_norm(encoder):
    last = len(encoder.vit.blocks) - 1
    maps = tapped(encoder, IMAGES, (0, last))
    assert maps[0].shape == maps[1].shape == (2, encoder.width, encoder.space.rows, encoder.space.columns)
    assert torch.equal(maps[1].flatten(2).mT, encoder.full(IMAGES).unnormed_BND)


def test_windows_that_all_blocks_see_across_change_nothing():
    encoder = Vit(**SIZES, class_tokens=0).eval()
    torch.testing.assert_close(tapped(encoder, IMAGES, (1, 3), 2, (0, 1, 2, 3)), tapped(encoder, IMAGES, (1, 3)), rtol=1e-4, atol=1e-5)


def test_a_window_knows_nothing_of_another_until_a_whole_block():
    encoder = Vit(**SIZES).eval()
    changed = IMAGES.clone()
    changed[:, :, :16, :32] += 1.0  # in the upper left window
    depth = len(encoder.vit.blocks)
    for whole, same in (((), True), ((depth - 1,), False)):
        before, after = (tapped(encoder, images, (depth - 1,), 2, whole)[0] for images in (IMAGES, changed))
        rows, columns = before.shape[2] // 2, before.shape[3] // 2
        assert torch.equal(before[:, :, rows:, columns:], after[:, :, rows:, columns:]) == same
        assert not torch.equal(before[:, :, :rows, :columns], after[:, :, :rows, :columns])


def test_what_is_held_goes_on_to_the_same_end():
    encoder = Vit(**SIZES, class_tokens=2, registers=1).eval()
    part = held(encoder, IMAGES, 3)
    tokens = part.tokens_BTD
    for block in part.blocks:
        tokens = block(tokens)
    torch.testing.assert_close(part.norm(tokens), encoder.full(IMAGES).tokens_BTD, rtol=1e-5, atol=1e-6)
    assert part.prefix == 3 and len(part.blocks) == 3


def test_gradients_are_the_same_with_checkpointed_blocks():
    gradients = []
    for again in (False, True):
        torch.manual_seed(0)
        encoder = Vit(**SIZES, checkpoint_blocks=again)
        torch.autograd.backward(tapped(encoder, IMAGES, (1, 3), 2, (1,))[1].square().mean())
        gradients.append(encoder.vit.patch_embed.proj.weight.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("taps, windows, told", [((4,), 1, "numbered 0 to 3"), ((0,), 3, "equal windows"), ((), 1, "taps")])
def test_what_cannot_be_tapped_is_told(taps, windows, told):
    with pytest.raises(ValueError, match=told):
        tapped(Vit(**SIZES), IMAGES, taps, windows)


def test_more_blocks_than_there_are_cannot_be_held_and_rotary_ones_take_no_guests():
    with pytest.raises(ValueError, match="last 5"):
        held(Vit(**SIZES), IMAGES, 5)
    for wrong in (lambda rotary: held(rotary, IMAGES, 2), lambda rotary: tapped(rotary, IMAGES, (0,), 2)):
        with pytest.raises(ValueError, match="rotary"):
            wrong(Vit(name="vit_small_patch16_dinov3", image_size=(32, 64)))
