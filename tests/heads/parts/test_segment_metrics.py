"""Promises of mae_vlm.heads.parts.segment_metrics and palette."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from mae_vlm.heads.parts.palette import palette
from mae_vlm.heads.parts.segment_metrics import segment_metrics, segment_tables


def some_answers(classes: int = 6):
    draw = torch.Generator().manual_seed(3)
    answered, true = (torch.randint(0, top, (4, 9, 7), generator=draw) for top in (classes - 1, classes - 2))
    return answered, true.masked_fill(torch.rand(true.shape, generator=draw) < 0.2, -1)  # class 5 is absent, class 4 answered alone


def test_metrics_are_torchmetrics_own_over_the_whole_set():
    answered, true = some_answers()
    metrics, jaccard = segment_metrics(6), MulticlassJaccardIndex(6, average="macro", ignore_index=-1)
    accuracy = MulticlassAccuracy(6, average="micro", ignore_index=-1)
    for rows in (slice(0, 1), slice(1, 4)):  # of a mean over batches another number would come out
        metrics.update(answered[rows], true[rows].to(torch.int16))
        jaccard.update(answered[rows], true[rows])
        accuracy.update(answered[rows], true[rows])
    found = metrics.compute()
    assert found["miou"] == pytest.approx(jaccard.compute().item()) and found["miou"].dtype == torch.float32
    assert found["pixel_accuracy"] == pytest.approx(accuracy.compute().item())
    assert found["confusion"].sum() == (true >= 0).sum()


def test_perfect_answers_score_one_also_where_classes_are_absent_and_unknown_pixels_are_answered_anyhow():
    true = torch.tensor([[0, 0, 3, -1]])
    metrics = segment_metrics(6)
    metrics.update(true.clamp(min=2) * (true != 0), true)
    found = metrics.compute()
    assert found["miou"] == found["pixel_accuracy"] == 1


def test_where_no_pixel_is_known_there_is_no_number():
    metrics = segment_metrics(3)
    metrics.update(torch.zeros(1, 4, dtype=torch.int64), torch.full((1, 4), -1))
    assert metrics.compute()["miou"].isnan() and metrics.compute()["pixel_accuracy"].isnan()


def test_tables_leave_absent_classes_out():
    confusion = torch.tensor([[2, 1, 0, 0], [0, 3, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]])
    tables = segment_tables({"confusion": confusion}, ["sky", "road", "yak", "car"])
    assert tables["classes"] == [
        ["class", "pixels", "iou", "precision", "recall"],
        ["sky", "3", "0.6667", "1.0000", "0.6667"],
        ["road", "4", "0.6000", "0.7500", "0.7500"],
        ["car", "0", "0.0000", "0.0000", ""],
    ]
    assert tables["confusion"][2] == ["road", "0", "3", "0", "1"]


def test_colours_are_those_of_voc_and_no_two_alike():
    colours = palette(1000)
    assert colours[:4].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]] and colours[-1].tolist() == [255, 255, 255]
    assert len(torch.unique(colours, dim=0)) == 1001
