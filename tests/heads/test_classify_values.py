"""Promises of mae_vlm.heads.classify for pictures of several classes each, and for numbers to learn."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn import functional
from torchmetrics.functional.classification import multilabel_average_precision, multilabel_f1_score

from mae_vlm.data.summary import Summary
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.heads.classify import Classify
from mae_vlm.heads.parts.several_metrics import several_metrics
from mae_vlm.types import Batch

SIZES = {"width": 32, "depth": 2, "heads": 4, "patch": 8, "image_size": 16}


def a_head(count: int, **more) -> tuple[Towers, Classify]:
    torch.manual_seed(0)
    towers = Towers(Vit(**SIZES))
    head = Classify(towers, classes=count, **more)
    torch.nn.init.normal_(head.linear.weight)
    return towers, head


def a_batch(labels) -> Batch:
    count = len(labels)
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ids = [f"picture {number}" for number in range(count)]
    return Batch(images, torch.arange(count), torch.ones(count, dtype=torch.bool), torch.tensor(labels), ids)


SUMMARY = partial(Summary, "pictures", "list", 10, 5, 0, 16, 16, 3, split="")


def test_several_classes_are_measured_on_those_that_occur_and_padding_counts_zero():
    towers, head = a_head(7, loss="binary")
    batch = a_batch([-1] * 5)
    batch.soft_labels_BL = torch.tensor([[1.0, 1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0], [0.0] * 7, [float("nan")] * 7, [1.0] * 7])
    batch.real_B[4] = False
    metrics, answer = head.metrics(), head.eval()(Features(towers, batch))
    head.measure(metrics, answer, batch)
    found, scores_BL = metrics.compute(), answer["logits"][:3].sigmoid()
    target_BL = batch.soft_labels_BL[:3].long()
    expected = multilabel_average_precision(scores_BL[:, :2], target_BL[:, :2], 2, thresholds=200)
    torch.testing.assert_close(found["map"], expected)
    torch.testing.assert_close(found["f1"], multilabel_f1_score(scores_BL[:, :2], target_BL[:, :2], 2))
    assert found["top1"] == target_BL[:2].gather(1, scores_BL[:2].argmax(1, keepdim=True)).float().mean()
    assert head.best == ("map", True)


def test_average_precision_of_many_scores_is_near_the_exact_one():
    draw = torch.Generator().manual_seed(0)
    target_BL = (torch.rand(500, 4, generator=draw) < 0.2).long()
    scores_BL = (torch.rand(500, 4, generator=draw) + 0.3 * target_BL).clamp(max=1)
    metrics = several_metrics(4)
    for part in (slice(0, 99), slice(99, None)):
        metrics.update(scores_BL[part], target_BL[part])
    assert metrics.compute()["map"] == pytest.approx(multilabel_average_precision(scores_BL, target_BL, 4).item(), abs=0.01)


def test_numbers_are_learned_in_deviations_from_their_mean_and_told_as_they_are():
    towers, head = a_head(2, loss="smooth_l1", centre=[40.0, 0.0], spread=[10.0, 0.5])
    batch = a_batch([-1, -1, -1])
    batch.soft_labels_BL = torch.tensor([[50.0, 1.0], [float("nan"), float("nan")], [30.0, 0.0]])
    answer = head(Features(towers, batch))
    expected = functional.smooth_l1_loss(answer["logits"][[0, 2]], torch.tensor([[1.0, 2.0], [-1.0, 0.0]]))
    torch.testing.assert_close(head.loss(answer, batch).value, expected)
    said_BL = answer["logits"] * torch.tensor([10.0, 0.5]) + torch.tensor([40.0, 0.0])
    torch.testing.assert_close(head.predictions(answer, batch)[1].scores, said_BL[1])
    metrics = head.metrics()
    head.measure(metrics, answer, batch)
    assert metrics.compute()["l1"] == pytest.approx(functional.l1_loss(said_BL[[0, 2]], batch.soft_labels_BL[[0, 2]]).item(), rel=1e-5)


@pytest.mark.parametrize(
    "options, found, told",
    [
        ({}, {"several": True, "classes": ["a", "b"]}, "have several classes each; set loss binary, without smoothing"),
        (
            {"loss": "binary", "mixup": 0.8},
            {"several": True, "classes": ["a", "b"]},
            "set loss binary, without smoothing, mixup and cutmix",
        ),
        ({}, {"numbers": ([0.0], [1.0]), "classes": None}, "no classes for loss cross_entropy; set loss l1, l2 or smooth_l1"),
        ({"loss": "l1"}, {"classes": ["a", "b"]}, "has no numbers for loss l1; name data.label_column, for whole ones set data.label_kind"),
        ({"loss": "l1"}, {"numbers": ([0.0], [1.0]), "classes": None}, "has 1 numbers a picture to learn, this head 2"),
        ({"loss": "binary"}, {"several": True, "classes": ["a"]}, "has 1 classes, this classifier 2"),
    ],
    ids=str,
)
def test_targets_of_another_kind_are_refused_before_the_run(options, found, told):
    head = Classify(Towers(Vit(**SIZES)), **{"classes": 2} | options)
    with pytest.raises(ValueError, match=told):
        head.check(SUMMARY(**found))


def test_moments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"centre \[1.0\] has 1 numbers for a head that learns 2"):
        a_head(2, loss="l1", centre=[1.0])
    with pytest.raises(ValueError, match="must be positive"):
        a_head(1, loss="l1", spread=[0.0])
