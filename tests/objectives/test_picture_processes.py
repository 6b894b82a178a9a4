"""However pictures are dealt to processes and accumulated batches: what paints, and what looks at decoded pictures, learns the same."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from picture_steps import OBJECTIVES, all_steps, steps
from process_pool import on_pool

NAMES = list(OBJECTIVES)
whole = cache(steps)


def alike(found: dict[str, np.ndarray], name: str) -> None:
    one = whole(name)
    assert found.keys() == one.keys()
    for key, value in one.items():
        np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-10, err_msg=f"{name} {key}")


def test_two_processes_change_no_loss_no_gradient_and_no_codebook():
    for everybodys in on_pool(2, all_steps, NAMES):
        for name, found in zip(NAMES, everybodys, strict=True):
            alike(found, name)


@pytest.mark.parametrize("name", NAMES)
def test_accumulated_batches_of_one_process_change_nothing(name):
    alike(steps(name, accumulation=4), name)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_compared_is_not_zero(name):
    one = whole(name)
    assert np.isfinite(one["loss"]) and one["loss"] > 0.05
    flat = [key for key, value in one.items() if np.abs(value).max() < 1e-9 and not key.endswith("key.bias")]
    assert not flat, flat  # a bias of all keys changes no softmax


@pytest.mark.parametrize("name", NAMES)
def test_one_picture_and_odd_numbers_without_captions_give_every_weight_a_gradient(name):
    for count in (1, 3):
        found = steps(name, captions=[()] * count)
        assert all(np.isfinite(value).all() for value in found.values()) and found["loss"] > 0
