"""What words have to do with pictures, drawn."""

from __future__ import annotations

from copy import copy

import pytest
import torch
from captioned import a_batch, towers

from mae_vlm.callbacks.word_pictures import _words, looks, word_pictures
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.fusion.cross import CrossAttention
from mae_vlm.encoders.fusion.late import Late


def a_house(fusion=CrossAttention, **options):
    house = towers(fusion, **({"depth": 2, "heads": 2} if fusion is CrossAttention else {}), **options)
    house.join(8, "full", "first")
    house.joint.double()
    return house


def test_looks_are_the_weights_that_the_last_layer_mixes_patches_by():
    house = a_house()
    features = Features(house, a_batch())
    with torch.no_grad():
        found_BTN = looks(house, features)
        layer = house.fusion.layers.layer[-1].crossattention.self
        layer.config = copy(layer.config)
        layer.config._attn_implementation = "eager"  # which tells its weights
        told = []
        handle = layer.register_forward_hook(lambda module, given, out: told.append(out[1]))
        house.fusion(features.seen, features.text)
        handle.remove()
    weights_BTN = told[0].mean(1)[..., house.image.prefix :]
    assert torch.allclose(found_BTN, weights_BTN.to(found_BTN.dtype), atol=1e-5)
    assert found_BTN.shape[-1] == 16 and found_BTN.std() > 1e-4


def test_words_are_whole_and_short_ones_are_left_out():
    house = a_house()
    features = Features(house, a_batch([("a large green triangle below",), ("a",)]))
    words = _words(house, features.text, 0)
    assert [word for word, _ in words] == ["large", "green", "triangle", "below"]
    assert words[0][1][0] == 2 and sum(len(places) for _, places in words) > 4  # the begin and the first "a" come before
    assert [word for word, _ in _words(house, features.text, 1)] == ["a"]


@pytest.mark.parametrize("fusion, names", [(CrossAttention, {"retrieved", "words"}), (Late, {"retrieved"})])
def test_sheets_are_pictures_of_some_size(fusion, names):
    house = a_house(fusion)
    with torch.no_grad():
        found = word_pictures(house, Features(house, a_batch()[:8]))
    assert found.keys() == names
    for sheet in found.values():
        assert sheet.shape[0] == 3 and sheet.min() >= 0 and sheet.max() <= 1 and sheet.std() > 0.01


def test_without_captions_nothing_is_drawn():
    house = a_house()
    with torch.no_grad():
        assert word_pictures(house, Features(house, a_batch([()] * 3))) == {}
