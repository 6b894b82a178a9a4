"""Promises of mae_vlm.objectives.image_text."""

from __future__ import annotations

import math

import pytest
import torch
from captioned import CAPTIONS, a_batch, towers

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.objectives.image_text import SigmoidContrast, SoftmaxContrast
from mae_vlm.objectives.swapped_contrast import SwappedContrast
from mae_vlm.pairing.contrast import sigmoid_contrast, softmax_contrast
from mae_vlm.pairing.pairs import pairs
from mae_vlm.tokens.masking import RandomMask
from mae_vlm.types import Encoded

both = pytest.mark.parametrize("kind", [SoftmaxContrast, SigmoidContrast])


def built(kind, **options):
    house = towers()
    return house, kind(house, width=8, **options).double(), house.joint.double()


@both
@pytest.mark.parametrize("captions", [CAPTIONS, [()] * 4, [("a ring",)], [("a ring",)] * 3], ids=["some", "none", "one", "equal"])
def test_the_loss_is_the_mean_over_pictures_with_a_caption_as_many_as_told_before(kind, captions):
    house, objective, joint = built(kind)
    features = Features(house, a_batch(captions))
    loss = objective(features, features.batch)
    count = sum(bool(told) for told in captions)
    assert float(objective.counts(features)["contrast"]) == float(loss.terms["contrast"].count) == count
    found, told = features.embedded, pairs(features)
    more = () if kind is SoftmaxContrast else (objective.bias,)
    whole = (softmax_contrast if kind is SoftmaxContrast else sigmoid_contrast)(found, told, objective.log_scale.exp(), *more)
    assert torch.allclose(loss.value, whole / max(count, 1)) and set(loss.logs) == {"contrast", "scale"}
    loss.value.backward()
    assert all(weight.grad is not None for part in (objective, joint) for weight in part.parameters())


@pytest.mark.parametrize(("view", "passes"), [("full", [17]), ("masked", [5])])
def test_the_picture_is_seen_whole_or_masked_as_chosen(view, passes):
    house, objective, _ = built(SoftmaxContrast, view=view)
    seen = []
    house.image.vit.norm.register_forward_hook(lambda module, given, result: seen.append(result.shape[1]))
    features = Features(house, a_batch(), RandomMask(0.75))
    objective(features, features.batch)
    assert seen == passes and objective.views == (view, "text")


def test_scales_begin_where_their_papers_say_and_clips_is_kept_from_1_to_100():
    _, softmax, _ = built(SoftmaxContrast)
    _, sigmoid, _ = built(SigmoidContrast)
    assert float(softmax.scale()) == pytest.approx(1 / 0.07) and float(sigmoid.scale()) == pytest.approx(10) and sigmoid.bias.item() == -10
    for far, near in ((9.0, 100.0), (-3.0, 1.0)):
        with torch.no_grad():
            softmax.log_scale.fill_(far)
        softmax.after_step()
        assert math.isclose(float(softmax.scale()), near, rel_tol=1e-6)


@both
def test_validation_measures_recall_over_all_its_pictures(kind):
    house, objective, _ = built(kind)
    house.eval(), objective.eval()
    metrics = objective.metrics()
    for part in (a_batch()[:8], a_batch()[8:]):
        objective.measure(metrics, Features(house, part))
    found = metrics.compute()
    assert set(found) == {"text_to_image_r1", "image_to_text_r1"} and all(0 <= value <= 1 for value in found.values())
    assert len(torch.cat(metrics["recall"].images)) == 8  # of those with a caption alone


def test_parts_share_one_space_or_are_told_that_they_do_not():
    house, _, _ = built(SoftmaxContrast)
    SigmoidContrast(house, width=8)
    with pytest.raises(ValueError, match=r"\(16, 'full', 'mean', 0\) wanted, another part has \(8, 'full', 'mean', 0\)"):
        SigmoidContrast(house, width=16)
    with pytest.raises(ValueError, match=r"\(8, 'full', 'mean', 2\) wanted"):
        SwappedContrast(house, width=8, image_queries=2)
    with pytest.raises(ValueError, match="image_queries -1 given"):
        SoftmaxContrast(towers(), image_queries=-1)


def test_a_query_finds_a_small_thing_that_the_mean_drowns():
    _, _, joint = built(SoftmaxContrast, image_queries=1)
    without_BND = torch.randn(1, 256, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with_BND = without_BND.clone()
    with_BND[0, 37] = 0
    with_BND[0, 37, 3] = 40  # the one patch in which they differ
    with torch.no_grad():
        joint.look.score.weight[0] = 0
        joint.look.score.weight[0, 3] = 5
    found, missed = (joint.look(one)[0, 3] for one in (with_BND, without_BND))
    means = [torch.nn.functional.layer_norm(one, [16]).mean(1)[0, 3] for one in (with_BND, without_BND)]
    assert found - missed > 1 and abs(means[0] - means[1]) < 0.03
    joint.of_image(Encoded(with_BND, 0, with_BND)).square().sum().backward()
    assert joint.look.score.weight.grad is not None and joint.image.weight.shape == (8, 16)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"view": "half"}, "view 'half', pool 'mean' and image_queries 0 given"),
        ({"pool": "last"}, "pool 'last' and image_queries 0 given"),
        ({"weight": -1.0}, "weight -1.0"),
    ],
)
def test_wrong_options_are_told_in_one_line(options, says):
    with pytest.raises(ValueError, match=says) as told:
        SoftmaxContrast(towers(), **options)
    assert "\n" not in str(told.value)


def test_a_contrast_needs_a_text_tower():
    with pytest.raises(ValueError, match="needs a text tower"):
        SoftmaxContrast(Towers(Vit(width=16, depth=1, heads=2, patch=8, image_size=32)))
