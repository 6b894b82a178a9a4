"""What the pictures callback does to a picture before it is shown."""

import torch

from mae_vlm.callbacks.pictures import enlarged


def test_small_pictures_are_enlarged_by_whole_pixels_and_large_ones_left_alone():
    small, large = torch.rand(3, 10, 100), torch.rand(3, 10, 500)
    assert enlarged(small).shape == (3, 40, 400)
    assert torch.equal(enlarged(small)[:, ::4, ::4], small)
    assert torch.equal(enlarged(large), large)
