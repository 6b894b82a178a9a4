"""Promises of mae_vlm.encoders.towers."""

import pytest
import torch

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.tokens.masking import RandomMask
from mae_vlm.types import Batch


@pytest.fixture
def towers() -> Towers:
    return Towers(Vit(width=32, depth=1, heads=4, patch=4, image_size=16)).eval()


def a_batch(count: int = 2) -> Batch:
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8)
    return Batch(images, torch.arange(count), torch.ones(count, dtype=torch.bool), torch.full((count,), -1))


def test_a_view_runs_once_and_only_when_asked_for(towers):
    passes = []
    towers.image.vit.norm.register_forward_hook(lambda module, given, result: passes.append(result.shape[1]))
    features = Features(towers, a_batch(), RandomMask(0.75))
    assert features.patches_BNP.shape == (2, 16, 48)
    assert passes == []
    assert features.masked is features.masked
    assert passes == [1 + 4]
    assert features.full is features.full
    assert passes == [1 + 4, 1 + 16]


def test_masks_depend_on_the_keys_alone(towers):
    first, second = a_batch(), a_batch()
    assert torch.equal(Features(towers, first, RandomMask()).masking.keep_BK, Features(towers, second, RandomMask()).masking.keep_BK)


def test_the_masked_view_without_a_mask_is_our_own_mistake(towers):
    with pytest.raises(AssertionError, match="no masking"):
        _ = Features(towers, a_batch()).masked
