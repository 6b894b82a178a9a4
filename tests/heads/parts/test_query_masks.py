"""Promises of mae_vlm.heads.parts.query_masks: the mask branch and its loss are those of ``transformers``' RF-DETR.

Theirs draws its points from the global generator, each mask its own candidates; ours from the pictures' keys, one set for a picture.
"""

from __future__ import annotations

import pytest
import torch
from transformers import RfDetrConfig, RfDetrForInstanceSegmentation
from transformers.loss.loss_rf_detr import RfDetrImageLoss

from mae_vlm.heads.parts.box_set_loss import Pairs, Truth
from mae_vlm.heads.parts.mask_set_loss import CANDIDATES, RANDOM, STREAMS
from mae_vlm.heads.parts.point_loss import random_points
from mae_vlm.heads.parts.query_masks import Drawn, MaskBranch, drawing_costs, drawing_sums, true_at

F, LAYERS, QUERIES, SCALE = 8, 2, 4, 2
NAMES = {"cells": "spatial_features_proj", "think.0": "query_features_block.norm", "ask": "query_features_proj"}
NAMES |= {"think.1": "query_features_block.mlp.fc1", "think.3": "query_features_block.mlp.fc2"}
BLOCK = {"spread": "depthwise_conv", "mix.0": "layernorm", "mix.1": "pointwise_conv"}
NAMES |= {f"blocks.{k}.{ours}": f"blocks.{k}.{theirs}" for k in range(LAYERS) for ours, theirs in BLOCK.items()}


def a_branch() -> MaskBranch:
    torch.manual_seed(0)
    branch = MaskBranch(F, LAYERS, SCALE)
    torch.nn.init.constant_(branch.bias, 0.3)
    return branch


def theirs_of(branch: MaskBranch) -> RfDetrForInstanceSegmentation:
    small = {"model_type": "rf_detr_dinov2", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 28}
    config = RfDetrConfig(
        backbone_config=small | {"patch_size": 14, "num_windows": 1, "out_indices": [1]}, d_model=F, decoder_layers=LAYERS,
        decoder_self_attention_heads=1, decoder_cross_attention_heads=1, num_queries=QUERIES, group_detr=1, intermediate_size=4 * F,
        mask_downsample_ratio=4,
    )  # fmt: skip
    theirs = RfDetrForInstanceSegmentation(config)
    weights = dict(theirs.named_parameters())
    pairs = {f"{ours}.{kind}": f"{other}.{kind}" for ours, other in NAMES.items() for kind in ("weight", "bias")}
    pairs |= {"bias": "segmentation_bias"}
    mine = dict(branch.named_parameters())
    assert pairs.keys() == mine.keys() and set(pairs.values()) == {name for name in weights if not name.startswith("model.")}
    for name, other in pairs.items():
        weights[other].data.copy_(mine[name])
    return theirs


def drawn_of(branch: MaskBranch, queries: int = QUERIES) -> list[Drawn]:
    chance = torch.Generator().manual_seed(1)
    map_BFhw = torch.randn(3, F, 4, 6, generator=chance)
    states = [torch.randn(3, queries, F, generator=chance) for _ in range(LAYERS + 1)]
    return branch(map_BFhw, states[0], states[1:], True)


def masks(count: int) -> torch.Tensor:
    coarse = torch.rand(count, 8, 12, generator=torch.Generator().manual_seed(count)) > 0.5
    return coarse.repeat_interleave(4, 1).repeat_interleave(4, 2)


def truths() -> list[Truth | None]:
    return [Truth(torch.zeros(count, 4), torch.arange(count), masks(count)) for count in (2, 0, 3)]


def some_pairs() -> Pairs:
    picture, query, number = torch.tensor([[0, 0, 2, 2, 2], [3, 1, 0, 1, 2], [0, 1, 2, 0, 1]])
    return Pairs(picture, query, number, torch.zeros(5, 4), number)


def test_masks_at_every_depth_equal_those_of_transformers():
    branch = a_branch()
    theirs, chance = theirs_of(branch), torch.Generator().manual_seed(1)
    map_BFhw = torch.randn(3, F, 4, 6, generator=chance)
    states = [torch.randn(3, QUERIES, F, generator=chance) for _ in range(LAYERS + 1)]
    size = torch.Size((4 * 4 * SCALE, 4 * 6 * SCALE))
    with torch.no_grad():
        expected = [theirs.segmentation_head(map_BFhw, states[0], size, skip_blocks=True)]
        expected += theirs.segmentation_head(map_BFhw, states[1:], size)
        found = branch(map_BFhw, states[0], states[1:], True)
        (last,) = branch(map_BFhw, states[0], states[1:], False)
    for ours, reference in zip([*found, last], [*expected, expected[-1]], strict=True):
        for picture in range(3):
            said = ours.logits(picture, torch.arange(QUERIES))
            torch.testing.assert_close(said, reference[picture], rtol=1e-4, atol=1e-5)
    assert found[0].cells.shape == (3, F, 8, 12)


def test_the_loss_is_that_of_transformers(monkeypatch):
    drawn, pairs, known, keys_B = drawn_of(a_branch())[1], some_pairs(), truths(), torch.arange(3)
    points = drawn.points
    assert points == 8
    sums = drawing_sums(drawn, pairs, known, keys_B, 1, 1)
    kinds = iter((CANDIDATES, RANDOM))
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: random_points(keys_B, shape[1], STREAMS + next(kinds))[pairs.picture])
    whole = torch.stack([drawn.logits(picture, torch.arange(QUERIES)) for picture in range(3)])
    loss = RfDetrImageLoss(None, 3, 0.25, ["masks"], 1, mask_point_sample_ratio=16)
    indices = [(pairs.query[pairs.picture == k], pairs.object[pairs.picture == k]) for k in range(3)]
    expected = loss.loss_masks({"pred_masks": whole}, [{"masks": truth.masks} for truth in known], indices, 1)
    torch.testing.assert_close(sums["masks"], expected["loss_mask_ce"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sums["dice"], expected["loss_mask_dice"], rtol=1e-4, atol=1e-5)


def test_the_query_that_draws_an_object_is_the_cheapest_for_it():
    cells_BFhw = torch.where(masks(3).view(1, 3, 32, 48), 9.0, -9.0)
    drawn = Drawn(torch.eye(3)[None], cells_BFhw, torch.zeros(1))
    costs_QN = drawing_costs(drawn, Truth(torch.zeros(3, 4), torch.arange(3), masks(3)), 0, torch.arange(1), 0)
    assert costs_QN.argmin(0).tolist() == [0, 1, 2] and costs_QN.diag().max() < 1 < costs_QN.min() + 3


@pytest.mark.parametrize("known", [[None] * 3, [Truth(torch.zeros(0, 4), torch.zeros(0).long(), masks(0))] * 3], ids=["padding", "empty"])
def test_without_objects_the_loss_is_zero_with_a_gradient_for_every_weight(known):
    branch, none = a_branch(), torch.zeros(0, dtype=torch.int64)
    nothing = Pairs(none, none, none, torch.zeros(0, 4), none)
    sums = [drawing_sums(drawn, nothing, known, torch.arange(3), 1, number) for number, drawn in enumerate(drawn_of(branch))]
    total = torch.stack([value for one in sums for value in one.values()]).sum()
    total.backward()
    assert total == 0 and all(weight.grad is not None and not weight.grad.any() for weight in branch.parameters())


def test_a_point_shows_the_pixel_that_it_lies_in():
    one = torch.zeros(1, 2, 4, dtype=torch.bool)
    one[0, 1, 2] = True
    points = torch.tensor([[[0.5, 0.5], [0.74, 0.99], [0.76, 0.9], [0.6, 0.49], [1.0, 1.0]]])
    assert true_at(one, torch.tensor([0]), points).tolist() == [[1, 1, 0, 0, 0]]
