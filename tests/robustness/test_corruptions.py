"""Promises of mae_vlm.robustness.corruptions, blurs and compression."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from spoilt import KEYS, pictures

from mae_vlm.robustness.blurs import defocus, gaussian_blur, motion_blur
from mae_vlm.robustness.corruptions import COMMON, gaussian_noise, impulse_noise, shot_noise
from mae_vlm.robustness.family import unit

BY_CHANCE = {"gaussian_noise", "shot_noise", "impulse_noise", "motion_blur", "haze"}
each = pytest.mark.parametrize("family", COMMON, ids=lambda family: family.name)


def test_twelve_families_have_five_strengths_each():
    assert len({family.name for family in COMMON}) == len(COMMON) == 12
    assert all(len(family.strengths) == 5 and not family.moves for family in COMMON)


@pytest.mark.parametrize("size", [24, 64])
@each
def test_the_distance_to_the_clean_picture_grows_with_the_strength(family, size):
    clean = pictures(size)
    distances = [(unit(family(clean, KEYS, level)) - unit(clean)).abs().mean().item() for level in family.levels]
    assert distances[0] > 0.001
    assert all(stronger > 1.03 * weaker for weaker, stronger in pairwise(distances)), distances


@each
def test_what_becomes_of_a_picture_depends_on_its_key_alone(family):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    together, alone = family(pictures(), KEYS, 3), family(pictures()[2:3], KEYS[2:3], 3)
    assert torch.equal(together[2:3], alone)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(family(pictures(), KEYS + 1, 3), together) == (family.name not in BY_CHANCE)


@each
def test_pictures_of_16_bits_become_what_those_of_8_bits_do(family):
    eight = pictures()
    sixteen = (eight.to(torch.int32) * 257).to(torch.uint16)
    result = family(sixteen, KEYS, 2)
    assert result.dtype == torch.uint16
    torch.testing.assert_close(unit(result), unit(family(eight, KEYS, 2)), rtol=0, atol=0.51 / 255)


@pytest.mark.parametrize("channels", [1, 2, 5])
@each
def test_pictures_of_any_bands_keep_their_shape_and_their_input_its_values(family, channels):
    clean = pictures(24, channels)
    result = family(clean, KEYS, 5)
    assert (result.shape, result.dtype) == (clean.shape, clean.dtype)
    assert torch.equal(clean, pictures(24, channels))


def test_noise_has_the_deviation_and_the_share_that_its_strength_says():
    grey = torch.full((4, 3, 64, 64), 0.25)
    assert (gaussian_noise(grey, KEYS, 0.08) - grey).std().item() == pytest.approx(0.08, rel=0.03)
    assert (shot_noise(grey, KEYS, 0.08) - grey).std().item() == pytest.approx(0.04, rel=0.03)
    hit = impulse_noise(grey, KEYS, 0.2) != grey
    assert hit.float().mean().item() == pytest.approx(0.2, rel=0.05)
    assert impulse_noise(grey, KEYS, 0.2)[hit].mean().item() == pytest.approx(0.5, abs=0.03)


def test_stronger_impulses_hit_the_same_numbers_and_more():
    clean = torch.full((4, 3, 32, 32), 0.5)
    weak, strong = (impulse_noise(clean, KEYS, share) != clean for share in (0.1, 0.3))
    assert bool((strong | ~weak).all()) and strong.sum() > 2 * weak.sum()


def test_saturation_ends_in_grey_and_contrast_keeps_the_mean():
    by_name = {family.name: family for family in COMMON}
    grey = by_name["saturation"](pictures(), KEYS, 5)
    assert torch.equal(grey[:, 0], grey[:, 1]) and torch.equal(grey[:, 0], grey[:, 2])
    flat, clean = unit(by_name["contrast"](pictures(), KEYS, 5)), unit(pictures())
    torch.testing.assert_close(flat.mean((2, 3)), clean.mean((2, 3)), rtol=0, atol=1 / 255)
    assert flat.std() < 0.2 * clean.std() + 0.05


BLURS = [(defocus, 0.05), (gaussian_blur, 0.03), (motion_blur, 0.15)]


def a_dot(size: int = 41) -> torch.Tensor:
    image = torch.zeros(4, 1, size, size)
    image[:, :, size // 2, size // 2] = 1.0
    return image


@pytest.mark.parametrize("blur, strength", BLURS)
def test_a_blur_keeps_the_light_and_does_not_move_it(blur, strength):
    result, places = blur(a_dot(), KEYS, strength), torch.arange(41.0)
    torch.testing.assert_close(result.sum((1, 2, 3)), torch.ones(4))
    for axis in (2, 3):
        centre = (result.sum((1, 5 - axis)) * places).sum(1)
        torch.testing.assert_close(centre, torch.full((4,), 20.0), rtol=0, atol=1e-3)
    flat = torch.full((4, 3, 20, 20), 0.3)
    torch.testing.assert_close(blur(flat, KEYS, strength), flat)


def test_blurs_are_as_wide_as_their_strength_says():
    places = torch.arange(41.0) - 20
    across = gaussian_blur(a_dot(), KEYS, 0.05).sum((1, 2))
    sigma_and_tent = (0.05 * 41) ** 2 + 1 / 6  # interpolation between pixels adds the variance of a tent
    assert (across[0] * places.square()).sum().item() == pytest.approx(sigma_and_tent, rel=0.04)
    disc = defocus(a_dot(), KEYS, 0.1).sum((1, 2))[0]
    assert (disc * places.square()).sum().item() == pytest.approx((0.1 * 41) ** 2 / 4 + 1 / 6, rel=0.06)
    line = motion_blur(a_dot(), KEYS, 0.3)[:, 0]
    spread = sum((line.sum(axis) * places.square()).sum(1) for axis in (1, 2))
    torch.testing.assert_close(spread, torch.full((4,), (0.3 * 41) ** 2 / 12 + 1 / 3), rtol=0.08, atol=0)


def test_an_inner_part_is_blurred_as_by_summing_over_the_kernel_itself():
    kernel = gaussian_blur(a_dot(9)[:1], KEYS[:1], 0.1)  # 9 x 9 pixels, the dot's own blur
    images = torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.conv2d(images, kernel, padding=4)
    torch.testing.assert_close(gaussian_blur(images, KEYS[:1], 0.1)[..., 4, 4], expected[..., 4, 4])
