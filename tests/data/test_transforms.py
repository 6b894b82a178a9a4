from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mae_vlm.data.transforms import Augment, Crop, Resize, Window, apply, reduction, resample

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


def test_a_transform_does_what_it_plans():
    for transform in (Augment((20, 24), flip=1.0), Resize((20, 24))):
        crop = transform.plan(40, 60, 7)
        assert (crop.height, crop.width, crop.mirrored) == (20, 24, isinstance(transform, Augment))
        assert torch.equal(transform(PICTURE, 7), apply(PICTURE, crop))


def test_a_window_is_reduced_by_a_power_of_two_while_it_stays_large_enough():
    factors = [reduction(Window(0, 0, side, 1000), 32, 32) for side in (10, 63, 64, 127, 128, 255, 256, 900)]
    assert factors == [1, 1, 2, 2, 4, 4, 8, 8]
    assert reduction(Window(0, 0, 4096, 4096), 32, 32, coarsest=1024) == 128


def test_windows_begin_where_a_reduced_picture_has_a_pixel():
    windows = [Augment((32, 32), scale=(0.05, 1.0)).window(400, 600, key) for key in range(500)]
    assert {reduction(window, 32, 32) for window in windows} == {2, 4, 8}
    assert all(w.top % reduction(w, 32, 32) == w.left % reduction(w, 32, 32) == 0 for w in windows)


def test_sixteen_bits_and_many_channels_are_resampled_alike():
    deep = resample(PICTURE.to(torch.int32).mul(257).to(torch.uint16), 13, 17)
    assert deep.dtype == torch.uint16 and (deep.int() / 257 - resample(PICTURE, 13, 17).int()).abs().max() < 3
    assert torch.equal(resample(PICTURE.repeat(3, 1, 1), 13, 17), resample(PICTURE, 13, 17).repeat(3, 1, 1))


def test_the_order_of_memory_does_not_matter():
    planar = PICTURE.contiguous()
    assert torch.equal(resample(planar, 21, 33), resample(planar.permute(1, 2, 0).contiguous().permute(2, 0, 1), 21, 33))


def test_a_span_takes_less_than_the_last_row_and_column():
    ramp = torch.arange(64, dtype=torch.uint8).mul(3).expand(1, 64, 64)
    wide = resample(ramp, 8, 8, (60.5, 60.5))[0, 4].float()
    assert (wide.diff()[1:-1] - 60.5 / 8 * 3).abs().max() <= 1 and apply(ramp, Crop(Window(0, 0, 8, 8), 8, 8)).shape == (1, 8, 8)
