from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mae_vlm.data.transforms import Augment, Resize, resample

PICTURE = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (3, 40, 60), dtype=np.uint8))


def test_crop_and_flip_are_the_same_for_the_same_key_and_differ_for_another():
    augment = Augment((32, 32))
    assert torch.equal(augment(PICTURE, 5), augment(PICTURE, 5))
    assert len({augment(PICTURE, key).numpy().tobytes() for key in range(20)}) == 20


@pytest.mark.parametrize("size", [(32, 32), (16, 48), (33, 20)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_crops_have_the_size_asked_for_at_any_number_of_channels(size, channels):
    picture = PICTURE[:1].expand(channels, -1, -1)
    for transform in (Augment(size), Resize(size)):
        assert transform(picture, 3).shape == (channels, *size) and transform(picture, 3).dtype == torch.uint8


def test_windows_keep_within_picture_scale_and_ratio():
    augment = Augment((32, 32), scale=(0.2, 1.0))
    windows = [augment.window(400, 600, key) for key in range(2000)]
    assert all(w.top >= 0 and w.left >= 0 and w.top + w.height <= 400 and w.left + w.width <= 600 for w in windows)
    shares = [w.height * w.width / 240_000 for w in windows]
    assert 0.195 < min(shares) < 0.22 and 0.86 < max(shares) < 0.9  # a third more wide than high, of a picture half more
    ratios = [w.width / w.height for w in windows]
    assert 0.74 < min(ratios) < 0.77 and 1.3 < max(ratios) < 1.35


def test_crops_spread_over_the_whole_picture():
    windows = [Augment((32, 32), scale=(0.2, 0.2)).window(100, 100, key) for key in range(3000)]
    middle = np.mean([(w.top + w.height / 2, w.left + w.width / 2) for w in windows], axis=0)
    assert np.allclose(middle, 50, atol=1.5)


def test_a_narrow_picture_is_cropped_in_its_centre():
    window = Augment((32, 32), scale=(1.0, 1.0)).window(10, 1000, 1)
    assert (window.height, window.top) == (10, 0) and window.width == 13


def test_flips_come_with_their_probability_and_mirror_the_crop():
    assert 0.46 < np.mean([Augment((8, 8), flip=0.5).flips(key) for key in range(3000)]) < 0.54
    never, always = Augment((32, 32), flip=0.0), Augment((32, 32), flip=1.0)
    assert torch.equal(never(PICTURE, 9), always(PICTURE, 9).flip(2))


def test_resampling_is_pillows_antialiased_bicubic():
    pillow = Image.fromarray(PICTURE.permute(1, 2, 0).numpy()).resize((17, 13), Image.Resampling.BICUBIC)
    difference = resample(PICTURE, 13, 17).permute(1, 2, 0).int() - torch.from_numpy(np.array(pillow)).int()
    assert difference.abs().max() <= 2


def test_resize_keeps_a_picture_of_the_right_size_as_it_is():
    assert Resize((40, 60))(PICTURE) is PICTURE


def test_resize_takes_the_centre():
    picture = torch.zeros(3, 20, 60, dtype=torch.uint8)
    picture[:, :, 20:40] = 200
    assert (Resize((20, 20))(picture) == 200).all()


@pytest.mark.parametrize("scale", [(0.0, 1.0), (0.5, 0.2), (0.5, 1.5)])
def test_crop_scale_out_of_range_is_refused(scale):
    with pytest.raises(ValueError, match=r"crop_scale .* 0 < smallest <= largest <= 1"):
        Augment((8, 8), scale)


def test_flip_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"flip 1.5 is a probability"):
        Augment((8, 8), flip=1.5)
