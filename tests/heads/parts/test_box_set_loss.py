"""Promises of mae_vlm.heads.parts.box_set_loss."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.ops import box_iou, generalized_box_iou

from mae_vlm.heads.parts.box_set_loss import Output, Truth, box_costs, corners, matched, set_sums


def boxes(count: int, seed: int = 0) -> torch.Tensor:
    chance = torch.Generator().manual_seed(seed)
    return torch.cat([torch.rand(count, 2, generator=chance) * 0.4 + 0.3, torch.rand(count, 2, generator=chance) * 0.4 + 0.1], dim=1)


def an_output(pictures: int = 2, queries: int = 6, classes: int = 3) -> Output:
    logits = torch.randn(pictures, queries, classes, generator=torch.Generator().manual_seed(1))
    return Output(logits.requires_grad_(), torch.stack([boxes(queries, 10 + k) for k in range(pictures)]).requires_grad_())


def a_truth(count: int, seed: int = 5) -> Truth:
    return Truth(boxes(count, seed), torch.arange(count) % 3)


def test_a_pair_costs_its_class_its_distance_and_its_overlap():
    output, truth = an_output(), a_truth(2)
    costs_QN = box_costs(output.classes[0], output.boxes[0], truth)
    for query in range(6):
        for number in range(2):
            p = output.classes[0, query, truth.classes[number]].sigmoid().item()
            focal = 0.25 * (1 - p) ** 2 * -math.log(p) - 0.75 * p**2 * -math.log(1 - p)
            said, true = output.boxes[0, query], truth.boxes[number]
            overlap = generalized_box_iou(corners(said[None]), corners(true[None])).item()
            expected = 2 * focal + 5 * (said - true).abs().sum().item() - 2 * overlap
            assert costs_QN[query, number].item() == pytest.approx(expected, abs=1e-5)


def test_each_group_answers_for_every_object_once():
    output, truth = an_output(), a_truth(2)
    (pairs,) = matched([output], [truth, None], groups=3)
    assert pairs.picture.tolist() == [0] * 6
    assert [sorted(part.tolist()) for part in (pairs.query // 2).split(2)] == [[0, 0], [1, 1], [2, 2]]
    for query, box, kind in zip(pairs.query, pairs.boxes, pairs.classes, strict=True):
        number = kind.item()
        assert torch.equal(box, truth.boxes[number]) and len(truth.classes) == 2
        costs_QN = box_costs(output.classes[0], output.boxes[0], truth).view(3, 2, 2)[query // 2]
        straight, crossed = costs_QN[0, 0] + costs_QN[1, 1], costs_QN[0, 1] + costs_QN[1, 0]
        assert (query % 2 == number) == (straight < crossed)


def test_pairs_of_several_outputs_and_pictures_keep_their_places():
    right = [boxes(4, 3), boxes(4, 4)]
    outputs = [Output(torch.zeros(2, 4, 3), torch.stack([one.roll(shift, 0) for one in right])) for shift in (0, 1)]
    truths = [Truth(right[0][:3], torch.tensor([0, 1, 2])), Truth(right[1][:2], torch.tensor([2, 2]))]
    for shift, pairs in enumerate(matched(outputs, truths, groups=1)):
        assert pairs.picture.tolist() == [0, 0, 0, 1, 1]
        torch.testing.assert_close(outputs[shift].boxes[pairs.picture, pairs.query], pairs.boxes)
        assert [truths[b].classes[n].item() for b, n in zip(pairs.picture, pairs.object, strict=True)] == pairs.classes.tolist()
        assert sorted(pairs.query[:3].tolist()) == sorted((number + shift) % 4 for number in range(3))
        assert sorted(pairs.classes.tolist()) == [0, 1, 2, 2, 2]


@pytest.mark.parametrize("truths", [[None, None], [a_truth(0), a_truth(0)]], ids=["padding", "empty"])
def test_without_objects_there_are_no_pairs_and_gradients_of_zero(truths):
    output = an_output()
    (pairs,) = matched([output], truths, groups=2)
    assert [len(part) for part in pairs] == [0] * 5 and pairs.boxes.shape == (0, 4)
    sums = set_sums(output, pairs, torch.tensor([truth is not None for truth in truths]))
    torch.stack(list(sums.values())).sum().backward()
    assert sums["boxes"] == sums["overlaps"] == 0 and output.boxes.grad.abs().max() == 0
    assert (sums["classes"] > 0) == (truths[0] is not None)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_queries_that_are_no_numbers_are_given_an_object_last(broken):
    output, truth = an_output(), a_truth(4)
    with torch.no_grad():
        output.boxes[0, 1] = broken
        output.classes[0, 4] = float("nan")
    (pairs,) = matched([output], [truth, None], groups=1)
    assert len(pairs.query) == 4 and not {1, 4} & set(pairs.query.tolist())


def test_more_objects_than_queries_leave_no_query_alone():
    (pairs,) = matched([an_output(1)], [a_truth(50)], groups=2)
    assert sorted(pairs.query.tolist()) == [0, 1, 2, 3, 4, 5]


def test_the_terms_are_the_published_ones():
    """Align-DETR's classification as LW-DETR has it, distances, and generalised IoU, one by one."""
    output, truth = an_output(), a_truth(3)
    (pairs,) = matched([output], [truth, a_truth(0)], groups=2)
    sums = set_sums(output, pairs, torch.tensor([True, True]))
    answers = {(b.item(), q.item(), c.item()): box for b, q, _, box, c in zip(*pairs, strict=True)}
    assert len(answers) == 6
    classes = distance = overlap = 0.0
    for b in range(2):
        for q in range(6):
            for c in range(3):
                p, said = output.classes[b, q, c].sigmoid(), output.boxes[b, q]
                if (b, q, c) in answers:
                    true = answers[b, q, c]
                    t = max(0.01, (p**0.25 * box_iou(corners(said[None]), corners(true[None]))[0, 0] ** 0.75).item())
                    classes -= t * p.log() + (1 - t) * (1 - p).log()
                    distance += (said - true).abs().sum()
                    overlap += 1 - generalized_box_iou(corners(said[None]), corners(true[None]))[0, 0]
                else:
                    classes -= p**2 * (1 - p).log()
    for name, value in {"classes": classes, "boxes": distance, "overlaps": overlap}.items():
        torch.testing.assert_close(sums[name], value)


def test_padding_counts_zero():
    output, truth = an_output(), a_truth(2)
    (pairs,) = matched([output], [truth, None], groups=1)
    set_sums(output, pairs, torch.tensor([True, False]))["classes"].backward()
    assert output.classes.grad[0].abs().min() > 0 and output.classes.grad[1].abs().max() == 0


def test_extreme_logits_have_finite_losses():
    logits = torch.tensor([[[200.0, -200.0], [-200.0, 200.0]]], requires_grad=True)
    output = Output(logits, boxes(2)[None])
    (pairs,) = matched([output], [Truth(boxes(1, 3), torch.tensor([1]))], groups=1)
    loss = set_sums(output, pairs, torch.tensor([True]))["classes"]
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()
