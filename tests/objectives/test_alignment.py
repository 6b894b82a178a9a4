"""Promises of mae_vlm.objectives.alignment."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from captioned import CAPTIONS, a_batch, towers
from torch.nn import functional

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.fusion.cross import CrossAttention
from mae_vlm.encoders.fusion.late import Late
from mae_vlm.objectives.alignment import Alignment
from mae_vlm.pairing.transport import transport


def a_house():
    return towers(partial(CrossAttention, depth=1, heads=2))


def test_it_is_the_mean_cost_of_each_pairs_plan_on_its_own_without_begin_end_and_padding():
    house = a_house()
    objective, features = Alignment(house), Features(house, a_batch(CAPTIONS[:4]))
    fused, words, costs = features.fused, features.words, []
    for row in (0, 2, 3):  # the second has no caption
        inside = words.word_BT[row] >= 0
        cost_TN = 1 - functional.cosine_similarity(fused.tokens_BTD[row, inside][:, None], fused.patches_BND[row][None], dim=-1)
        assert inside.sum() == words.real_BT[row].sum() - 2
        costs.append((cost_TN * transport(cost_TN[None], torch.ones(1, len(cost_TN), dtype=torch.bool))[0]).sum())
    loss = objective(features, features.batch)
    torch.testing.assert_close(loss.value, torch.stack(costs).mean())
    assert objective.counts(features)["distance"] == 3 and objective.weight == 0.1


def test_minimising_it_brings_words_nearer_to_patches():
    house = a_house()
    objective, batch = Alignment(house), a_batch(CAPTIONS[:4])
    rule = torch.optim.SGD(house.fusion.parameters(), 0.1)
    told = []
    for _ in range(5):
        rule.zero_grad()
        loss = objective(Features(house, batch), batch).value
        loss.backward()
        rule.step()
        told.append(loss.item())
    assert told == sorted(told, reverse=True) and told[0] - told[-1] > 0.01


def test_no_gradient_goes_through_the_plan():
    cost = torch.rand(1, 3, 4, requires_grad=True)
    assert not transport(cost, torch.ones(1, 3, dtype=torch.bool)).requires_grad


@pytest.mark.parametrize("captions", [[()] * 3, []], ids=["none", "no list"])
def test_without_any_caption_it_is_zero_and_every_weight_has_a_gradient(captions):
    house = a_house()
    batch = replace(a_batch([()] * 3), captions=captions)
    value = Alignment(house)(Features(house, batch), batch).value
    value.backward()
    weights = [weight for weight in house.parameters() if weight.requires_grad]
    assert value == 0 and all(weight.grad is not None and (weight.grad == 0).all() for weight in weights)


def test_it_is_computed_in_float32_whatever_the_towers_are_in():
    house = a_house().float()
    batch = a_batch(CAPTIONS[:4])
    with torch.autocast("cpu", torch.bfloat16):
        loss = Alignment(house)(Features(house, batch), batch).value
    assert loss.dtype == torch.float32 and loss.isfinite()


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="beta 0 and iterations 50 given, both must be positive"):
        Alignment(a_house(), beta=0)
    with pytest.raises(ValueError, match="this fusion tower keeps no tokens"):
        Alignment(towers(Late))
    with pytest.raises(ValueError, match="needs a fusion tower"):
        Alignment(towers())
