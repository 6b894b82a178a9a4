"""Promises of mae_vlm.heads.dense."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from boxed_pictures import SOME, a_batch, target
from one_step import first_gradients
from several_processes import on_processes
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from mae_vlm.data.module import Data
from mae_vlm.data.summary import Summary
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.heads.dense import Dense
from mae_vlm.heads.parts.boxes import decode
from mae_vlm.heads.parts.dense_detections import detect
from mae_vlm.heads.parts.points import places
from mae_vlm.learners.finetune import Finetuner
from mae_vlm.learners.optim import AdamW
from mae_vlm.types import Answer, Batch, Frame

SIZES = {"width": 32, "depth": 2, "heads": 4, "patch": 8, "image_size": (32, 48)}


def a_head(classes: int | list[str] = 3, **more) -> tuple[Towers, Dense]:
    torch.manual_seed(0)
    towers = Towers(Vit(**SIZES))
    head = Dense(towers, classes=classes, width=16, layers=1, **more)
    for convolution in (head.tower.classes, head.tower.boxes, head.tower.quality):
        torch.nn.init.normal_(convolution.weight, std=0.3)
    return towers, head


def answered(towers: Towers, head: Dense, batch: Batch) -> Answer:
    return head(Features(towers, batch))


def perfect(head: Dense, batch: Batch) -> Answer:
    """What a head would say that knows all: each object at its places."""
    owner_BM = head._owners(head._objects(batch))
    centres_M2, side_M = places(head.levels)
    classes_BML = torch.full((*owner_BM.shape, head.classes), -20.0)
    boxes_BM4 = torch.zeros(*owner_BM.shape, 4)
    for number, one in enumerate(batch.targets):
        for place in (owner_BM[number] >= 0).nonzero()[:, 0].tolist():
            left, top, right, bottom = one.boxes[owner_BM[number, place]].tolist()
            classes_BML[number, place, one.classes[owner_BM[number, place]]] = 20.0
            middle = (torch.tensor([left + right, top + bottom]) / 2 - centres_M2[place]) / side_M[place]
            sizes = (torch.tensor([right - left, bottom - top]) / side_M[place]).log()
            boxes_BM4[number, place] = torch.cat([middle, sizes])
    return Answer({"classes": classes_BML, "boxes": boxes_BM4, "quality": torch.full(owner_BM.shape, 20.0)})


# -- the loss


def test_the_loss_is_the_published_terms_over_the_places_with_an_object():
    towers, head = a_head()
    batch = a_batch(target(*SOME), target([[0, 0, 9, 30]], [1]))
    answer = answered(towers, head, batch)
    loss, owner_BM = head.loss(answer, batch), head._owners(head._objects(batch))
    classes, boxes, quality = 0.0, [], []
    wanted_BML = torch.zeros_like(answer["classes"])
    for picture, place in (owner_BM >= 0).nonzero().tolist():
        one = batch.targets[picture]
        wanted_BML[picture, place, one.classes[owner_BM[picture, place]]] = 1
        said = decode(answer["boxes"], *places(head.levels))[picture, place]
        true = one.boxes[owner_BM[picture, place]]
        boxes.append(generalized_box_iou_loss(said[None], true[None]))
        common = (torch.minimum(said[2:], true[2:]) - torch.maximum(said[:2], true[:2])).clamp(min=0).prod()
        iou = common / ((said[2:] - said[:2]).prod() + (true[2:] - true[:2]).prod() - common)
        guess = answer["quality"][picture, place].sigmoid()
        quality.append(-(iou * guess.log() + (1 - iou) * (1 - guess).log()).detach())
    classes = sigmoid_focal_loss(answer["classes"], wanted_BML, reduction="sum")
    torch.testing.assert_close(loss.logs["classes"], classes.detach() / (len(boxes) + 2))
    torch.testing.assert_close(loss.logs["boxes"], torch.cat(boxes).mean().detach())
    torch.testing.assert_close(loss.logs["quality"], torch.stack(quality).mean())
    torch.testing.assert_close(loss.value, loss.logs["classes"] + 2 * loss.logs["boxes"] + loss.logs["quality"], check_stride=False)
    assert len(boxes) > 6


def test_perfect_answers_cost_nothing_and_wrong_ones_do():
    _, head = a_head()
    batch = a_batch(target(*SOME), target([], []), target([[0, 0, 2, 3]], [1]))
    answer = perfect(head, batch)
    assert head.loss(answer, batch).value < 1e-3
    answer["boxes"].add_(1.0)
    assert head.loss(answer, batch).logs["boxes"] > 0.5


@pytest.mark.parametrize("targets", [[target([], []), target([], [])], [target(*SOME), target([], [])]], ids=["batch", "picture"])
@pytest.mark.parametrize("training", [True, False])
def test_without_objects_the_loss_is_finite_and_every_weight_has_a_gradient(targets, training):
    towers, head = a_head()
    batch = a_batch(*targets)
    loss = head.train(training).loss(answered(towers, head, batch), batch)
    loss.value.backward()
    assert 0 < loss.value < 100 and all(weight.grad is not None and weight.grad.isfinite().all() for weight in head.parameters())
    assert head.counts(batch) == {name: term.count for name, term in loss.terms.items()}


def test_padding_counts_zero():
    towers, head = a_head()
    batch = a_batch(target(*SOME), target([[0, 0, 9, 30]], [1]))
    batch.real_B[1] = False
    alone = batch[:1]
    loss, expected = head.loss(answered(towers, head, batch), batch), head.loss(answered(towers, head, alone), alone)
    torch.testing.assert_close(loss.value, expected.value)
    assert head.counts(batch) == head.counts(alone)


def test_a_crowd_is_neither_an_object_nor_ground_for_its_class_alone():
    towers, head = a_head()
    plain, crowded = a_batch(target(*SOME)), a_batch(target([*SOME[0], [24, 0, 48, 32]], [*SOME[1], 1], [False, False, True]))
    answer = answered(towers, head, plain)
    assert head.counts(plain) == head.counts(crowded)
    for kind, changes in ((1, False), (0, True), (2, True)):
        other = {name: value.clone() for name, value in answer.tensors.items()}
        centres_M2, _ = places(head.levels)
        inside_M = (centres_M2[:, 0] > 24) & (head._owners(head._objects(plain))[0] < 0)
        assert inside_M.any()
        other["classes"][0, inside_M, kind] += 3.0
        before, after = head.loss(answer, crowded).value, head.loss(Answer(other), crowded).value
        assert (abs(after - before) > 1e-4) == changes


def test_two_thousand_objects_of_a_few_pixels_and_one_class():
    towers, head = a_head(classes=1)
    corner_N2 = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([45.0, 29.0])
    batch = a_batch(target(torch.cat([corner_N2, corner_N2 + 2.5], 1).tolist(), [0] * 2000))
    answer = answered(towers, head, batch)
    loss = head.loss(answer, batch)
    loss.value.backward()
    assert loss.value.isfinite() and loss.terms["boxes"].count > 90, "of 96 places on the finest level"
    metrics = head.metrics()
    head.measure(metrics, answer, batch)
    assert metrics.compute()["box_map"] >= 0


# -- answers


def test_perfect_answers_become_the_objects_in_pixels_of_the_original():
    """Seen at half its size, mirrored, with padding below and on the right."""
    _, head = a_head(["cell", "dust", "hair"])
    frame = Frame(48, 80, 0, 0, 48, 80, 24, 40, mirrored=True)
    truth = target([[4, 4, 20, 20], [22, 6, 38, 22]], [0, 2], frame=frame)
    batch = a_batch(truth, target([], []))
    batch.real_B[1] = False
    (found,) = head.predictions(perfect(head, batch), batch)
    assert found.id == "picture 0"
    best = found.object_scores > 0.9
    assert best.tolist() == [True, True] + [False] * (len(best) - 2)
    order = found.object_classes[:2].argsort()
    assert found.object_classes[:2][order].tolist() == [0, 2]
    torch.testing.assert_close(found.boxes[:2][order], torch.tensor([[40.0, 8, 72, 40], [4, 12, 36, 44]]))
    metrics = head.metrics()
    head.measure(metrics, perfect(head, batch), batch)
    results = metrics.compute()
    assert results["box_map"] == results["box_f1"] == 1
    assert [row[:3] for row in head.tables(results)["boxes"]] == [
        ["class", "objects", "box_map"], ["cell", "1", "1.0000"], ["dust", "0", ""], ["hair", "1", "1.0000"]
    ]  # fmt: skip


def test_padding_holds_no_detection_and_of_doubles_the_best_stays():
    scores_ML = torch.tensor([[0.9, 0.1], [0.8, 0.7], [0.99, 0.0], [0.5, 0.2]])
    boxes_M4 = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [30, 0, 40, 10], [-5, -5, 50, 50]])
    found = detect(scores_ML, boxes_M4, Frame(40, 50, 0, 0, 40, 50, 20, 25), 3, 0.6)
    assert found.classes_N.tolist() == [0, 1, 0] and found.scores_N.tolist() == pytest.approx([0.9, 0.7, 0.5])
    assert found.boxes_N4.tolist() == [[0, 0, 20, 20], [0, 0, 20, 18], [0, 0, 50, 40]]


def test_validation_finds_the_threshold_and_keeps_it_with_the_weights():
    _, head = a_head()
    assert float(head.threshold) == 0.5
    batch = a_batch(target(*SOME), target([[0, 0, 9, 30]], [1]))
    metrics = head.metrics()
    head.measure(metrics, perfect(head, batch), batch)
    results = metrics.compute()
    assert 0 < float(results["box_threshold"]) == pytest.approx(float(head.threshold)) and float(head.threshold) != 0.5
    other = a_head()[1]
    other.load_state_dict(head.state_dict())
    assert other.threshold == head.threshold
    sheet = head.pictures(perfect(head, batch), batch)["detections"]
    assert sheet.ndim == 3 and len(sheet) == 3 and sheet.min() >= 0 and sheet.max() <= 1
    one, two = sheet[:, : sheet.shape[1] // 2].chunk(2, dim=2)
    assert torch.equal(one, two), "what is answered is what is true"


# -- the whole step


def gradients(processes: int, accumulation: int) -> dict[str, np.ndarray]:
    """Those of a step of 16 scenes."""
    torch.manual_seed(0)
    encoder = Vit(width=32, depth=1, heads=4, patch=8, image_size=32)
    learner = Finetuner(encoder, {"detect": partial(Dense, classes=7, width=16, layers=1)}, AdamW(base_lr=1e-3))
    return first_gradients(learner, 16, processes, accumulation)


def dealt() -> list[dict[str, np.ndarray]]:
    """On this one of two processes, with 1 and 4 batches accumulated; as arrays, which outlive the process."""
    return [gradients(2, accumulation) for accumulation in (1, 4)]


def test_objects_spread_unevenly_over_processes_and_accumulated_batches_change_no_gradient():
    whole = gradients(1, 1)
    assert len(whole) > 30 and all(np.abs(value).max() > 0 for name, value in whole.items() if name.startswith("heads"))
    for found in (gradients(1, 4), *on_processes(2, dealt)[0]):
        assert whole.keys() == found.keys()
        for name, value in whole.items():
            np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5)


def test_the_parts_of_that_step_do_hold_different_numbers_of_objects():
    data = Data(scenes=64, val_scenes=0, image_size=32, batch_size=16, num_workers=0)
    data.wants = frozenset({"boxes"})
    batch = next(iter(data.train_dataloader()))
    head = Dense(Towers(Vit(width=32, depth=1, heads=4, patch=8, image_size=32)), classes=7, width=16, layers=1)
    assert len({float(head.counts(batch[start : start + 4])["boxes"]) for start in range(0, 16, 4)}) > 1


# -- mistakes


@pytest.mark.parametrize(
    "options, told",
    [
        ({"classes": None}, "a detector needs its classes"),
        ({"classes": 0}, "classes 0, width None and most 100 must be 1 or more"),
        ({"classes": 3, "layers": -1}, "layers -1 0 or more"),
        ({"classes": 3, "overlap": 0.0}, "overlap 0.0 a share above 0"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        Dense(Towers(Vit(**SIZES)), **options)


@pytest.mark.parametrize(
    "classes, told",
    [
        (None, "has no boxes of named objects"),
        (["cat"], "has 1 classes of objects, this detector 2"),
        (["cat", "cow"], "cow where it has dog"),
    ],
)
def test_data_of_other_classes_is_refused(classes, told):
    _, head = a_head(["cat", "dog"])
    summary = partial(Summary, "pictures", "coco", 10, 5, 0, 16, 16, 3, classes=None, split="")
    head.check(summary(object_classes=["cat", "dog"]))
    with pytest.raises(ValueError, match=told):
        head.check(summary(object_classes=classes))
