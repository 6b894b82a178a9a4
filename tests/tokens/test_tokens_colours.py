"""Promises of mae_vlm.tokens.colours."""

import pytest
import torch

from mae_vlm.tokens.colours import Distortion, distort

KEYS = torch.arange(64)


def some(channels: int = 3) -> torch.Tensor:
    return torch.rand(64, channels, 12, 10, generator=torch.Generator().manual_seed(0))


def test_nothing_changes_without_strength():
    torch.testing.assert_close(distort(some(), KEYS, Distortion(0.0, True, 0.0, 0.0)), some())


def test_the_same_key_gives_the_same_whatever_else_is_in_the_batch():
    how = Distortion(0.8, True, 0.3, 0.5)
    whole, part = distort(some(), KEYS, how), distort(some()[10:13], KEYS[10:13], how)
    torch.testing.assert_close(whole[10:13], part)
    assert not torch.allclose(whole, distort(some(), KEYS + 1000, how))


def test_values_stay_between_0_and_1_and_two_in_ten_keep_their_colours():
    found = distort(some(), KEYS, Distortion(1.0, True, 0.0, 0.0))
    assert found.min() >= 0 and found.max() <= 1
    kept = sum(torch.allclose(one, other, atol=1e-5) for one, other in zip(found, some(), strict=True))
    assert 3 <= kept <= 25


def test_a_share_of_pictures_turns_grey():
    found = distort(some(), KEYS, Distortion(0.0, False, 0.5, 0.0))
    grey = [bool((one.amax(0) - one.amin(0)).max() < 1e-6) for one in found]
    assert 20 <= sum(grey) <= 44


def test_hue_leaves_grey_pictures_as_they_are_and_turns_others():
    grey = some(1).expand(-1, 3, -1, -1)
    strong = Distortion(0.6, True, 0.0, 0.0)
    torch.testing.assert_close(distort(grey, KEYS, strong), distort(grey, KEYS, Distortion(0.6, False, 0.0, 0.0)), atol=1e-4, rtol=0)
    assert not torch.allclose(distort(some(), KEYS, strong), distort(some(), KEYS, Distortion(0.6, False, 0.0, 0.0)), atol=1e-2)


def test_blur_keeps_the_mean_and_takes_detail():
    checks = (torch.arange(40)[:, None] + torch.arange(40)[None]).remainder(2).float().expand(64, 3, 40, 40)
    found = distort(checks, KEYS, Distortion(0.0, False, 0.0, 1.0))
    assert (found.mean((1, 2, 3)) - 0.5).abs().max() < 0.02
    assert found.std((1, 2, 3)).mean() < 0.3 < checks.std()


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_keep_their_number(channels):
    assert distort(some(channels), KEYS, Distortion(0.5, True, 0.5, 0.5)).shape == (64, channels, 12, 10)
