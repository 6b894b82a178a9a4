"""Promises of mae_vlm.tokens.patchify. Letters as there."""

import pytest
import torch

from mae_vlm.tokens.patchify import patchify, take, unpatchify
from mae_vlm.types import TokenSpace

SPACES = [TokenSpace(8, 8, 4, 3), TokenSpace(12, 20, 4, 1), TokenSpace(6, 2, 2, 2), TokenSpace(16, 48, 16, 4), TokenSpace(7, 14, 7, 5)]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_unpatchify_undoes_patchify(space):
    images_BCHW = torch.randn(2, space.channels, space.height, space.width)
    patches_BNP = patchify(images_BCHW, space)
    assert patches_BNP.shape == (2, space.patches, space.patch_pixels)
    assert torch.equal(unpatchify(patches_BNP, space), images_BCHW)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_patches_run_by_rows_and_pixels_have_the_channel_fastest(space):
    images_BCHW = torch.randn(2, space.channels, space.height, space.width)
    patches_BNP = patchify(images_BCHW, space)
    p = space.patch
    for n in range(space.patches):
        top, left = n // space.columns * p, n % space.columns * p
        window = images_BCHW[:, :, top : top + p, left : left + p]
        assert torch.equal(patches_BNP[:, n], window.permute(0, 2, 3, 1).flatten(1))


def test_take_picks_tokens_in_the_order_of_the_index():
    tokens_BND = torch.randn(2, 5, 3)
    index_BK = torch.tensor([[4, 0], [1, 1]])
    assert torch.equal(take(tokens_BND, index_BK), torch.stack([tokens_BND[0, [4, 0]], tokens_BND[1, [1, 1]]]))


def test_pictures_of_another_size_are_refused_with_both_sizes():
    with pytest.raises(ValueError, match=r"3x8x12.*3x8x8"):
        patchify(torch.zeros(1, 3, 8, 12), TokenSpace(8, 8, 4))


@pytest.mark.parametrize("side", ["height", "width"])
def test_an_image_size_that_is_no_multiple_of_the_patch_is_refused_with_the_numbers(side):
    sizes = {"height": 32, "width": 32} | {side: 30}
    with pytest.raises(ValueError, match=rf"{side} 30 is not a multiple of the patch 4; set data.image_size to (28|32)"):
        TokenSpace(**sizes, patch=4)
