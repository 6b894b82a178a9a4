"""Promises of mae_vlm.heads.parts.panoptic_quality."""

from __future__ import annotations

import pytest
import torch

from mae_vlm.heads.parts.panoptic_quality import QUALITIES, PanopticQuality, quality_table, segment_matches

CLASSES = 4


def slowly(pred, kinds, true, classes, crowds):
    """COCO's evaluation (panopticapi), segment by segment."""
    sums = torch.zeros(4, CLASSES, dtype=torch.float64)
    unknown = true == 0
    hit, found = set(), set()
    for p in range(1, len(kinds) + 1):
        for g in range(1, len(classes) + 1):
            if kinds[p - 1] != classes[g - 1] or crowds[g - 1]:
                continue
            inside = ((pred == p) & (true == g)).sum().item()
            union = (pred == p).sum().item() + (true == g).sum().item() - inside - ((pred == p) & unknown).sum().item()
            if union and inside / union > 0.5:
                sums[0, kinds[p - 1]] += inside / union
                sums[1, kinds[p - 1]] += 1
                hit.add(p)
                found.add(g)
    for g in range(1, len(classes) + 1):
        if g not in found and not crowds[g - 1] and (true == g).any():
            sums[3, classes[g - 1]] += 1
    for p in range(1, len(kinds) + 1):
        area = (pred == p).sum().item()
        if p in hit or not area:
            continue
        excused = ((pred == p) & unknown).sum().item()
        for g in range(1, len(classes) + 1):
            if crowds[g - 1] and classes[g - 1] == kinds[p - 1]:
                excused += ((pred == p) & (true == g)).sum().item()
        if excused / area <= 0.5:
            sums[2, kinds[p - 1]] += 1
    return sums


def a_picture(number: int):
    """Blocks of segments, unknown ones and crowds among them, and a prediction that is partly right."""
    chance = torch.Generator().manual_seed(number)
    segments = int(torch.randint(0, 9, (1,), generator=chance))
    true = torch.randint(0, segments + 1, (6, 6), generator=chance, dtype=torch.int32).repeat_interleave(3, 0).repeat_interleave(3, 1)
    classes, crowds = torch.randint(0, CLASSES, (segments,), generator=chance), torch.rand(segments, generator=chance) < 0.3
    wrong = torch.rand(18, 18, generator=chance) < 0.1 * (number % 6)
    pred = torch.where(wrong, torch.randint(0, segments + 3, (18, 18), generator=chance, dtype=torch.int32), true)
    kinds = torch.cat([classes, torch.randint(0, CLASSES, (2,), generator=chance)])
    kinds[torch.rand(len(kinds), generator=chance) < 0.2] = 0
    return pred, kinds, true, classes, crowds


def test_one_count_equals_the_slow_evaluation_with_unknown_pixels_and_crowds():
    seen = torch.zeros(4, CLASSES, dtype=torch.float64)
    for number in range(60):
        picture = a_picture(number)
        expected = slowly(*picture)
        torch.testing.assert_close(segment_matches(*picture, CLASSES), expected, msg=f"picture {number}")
        seen += expected
    assert (seen[1:] > 5).all(), "matches, wrong ones and missed ones of every class were among them"


def test_a_perfect_answer_scores_one_also_where_a_class_never_occurs():
    true = torch.tensor([[1, 1, 2], [0, 3, 3]])
    classes, crowds = torch.tensor([0, 2, 2]), torch.zeros(3, dtype=torch.bool)
    metric = PanopticQuality(CLASSES, stuff=(0,))
    metric.update(true, classes, true, classes, crowds)
    results = metric.compute()
    assert all(results[name] == 1 for name in ("pq", "sq", "rq", "pq_things", "pq_stuff"))
    rows = quality_table(results[QUALITIES], ["sky", "cat", "dog", "cow"])
    assert rows[1] == ["sky", "1.0000", "1.0000", "1.0000", "1", "0", "0"] and rows[2] == ["cat", "", "", "", "0", "0", "0"]


def test_crowds_and_unknown_pixels_are_neither_missed_nor_wrong():
    true, pred = torch.tensor([[1, 1, 0, 0]]), torch.tensor([[1, 1, 2, 2]])
    found = segment_matches(pred, torch.tensor([1, 3]), true, torch.tensor([1]), torch.tensor([True]), CLASSES)
    assert found.sum() == 0
    found = segment_matches(pred, torch.tensor([2, 3]), true, torch.tensor([1]), torch.tensor([True]), CLASSES)
    assert found[2].tolist() == [0, 0, 1, 0], "a crowd of another class excuses nothing"


def test_pictures_without_any_segment_say_nothing():
    metric = PanopticQuality(CLASSES)
    none = torch.zeros(0, dtype=torch.int64)
    metric.update(torch.zeros(4, 4, dtype=torch.int32), none, torch.zeros(4, 4, dtype=torch.int32), none, none.bool())
    assert metric.compute()["pq"] == 0
    missed = torch.ones(4, 4, dtype=torch.int32)
    metric.update(torch.zeros(4, 4, dtype=torch.int32), none, missed, torch.tensor([2]), torch.tensor([False]))
    assert metric.compute()["pq"] == 0 and metric.sums[3].tolist() == [0, 0, 1, 0]


def test_the_quality_is_the_mean_over_classes_of_quality_times_recognition():
    metric = PanopticQuality(CLASSES)
    metric.sums += torch.tensor([[1.4, 0, 0.6, 0], [2, 0, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]])
    assert metric.compute()["pq"] == pytest.approx((1.4 / 3 + 0 + 0.6) / 3)
