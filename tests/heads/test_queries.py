"""Promises of mae_vlm.heads.queries."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from boxed_pictures import SOME, a_batch, target

from mae_vlm.data.summary import Summary
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.heads.queries import Queries
from mae_vlm.types import Answer, Batch, Frame

SIZES = {"width": 32, "depth": 4, "heads": 4, "patch": 8, "image_size": (32, 48)}
SMALL = {"width": 16, "layers": 2, "heads": 2, "hidden": 24, "queries": 5, "groups": 3}
CORNERS = torch.tensor([48.0, 32, 48, 32])


def a_head(classes: int | list[str] = 3, **more) -> tuple[Towers, Queries]:
    torch.manual_seed(0)
    towers = Towers(Vit(**SIZES))
    head = Queries(towers, classes=classes, **SMALL | more)
    for weight in head.parameters():  # all that begins with zeros too
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.2)
    return towers, head


def answered(towers: Towers, head: Queries, batch: Batch) -> Answer:
    return head(Features(towers, batch))


def perfect(head: Queries, batch: Batch) -> Answer:
    """What a head would say that knows all: a query for each object, backwards."""
    classes_BQL = torch.full((len(batch), head.queries, head.classes), -20.0)
    boxes_BQ4 = torch.full((len(batch), head.queries, 4), 0.1)
    for number, one in enumerate(batch.targets):
        for query, (box, kind) in enumerate(zip(one.boxes.flip(0), one.classes.flip(0), strict=True)):
            low, high = (box / CORNERS).chunk(2)
            boxes_BQ4[number, query] = torch.cat([(low + high) / 2, high - low])
            classes_BQL[number, query, kind] = 20.0
    return Answer({"classes": classes_BQL, "boxes": boxes_BQ4})


def with_equal_groups(head: Queries) -> None:
    state = head.state_dict()
    for name, weight in state.items():
        if name.startswith("propose."):
            weight.copy_(state[f"propose.0.{name.split('.', 2)[2]}"])
    for name in ("content", "shift"):
        state[name].copy_(state[name][: head.queries].repeat(head.groups, 1))


# -- groups


def test_outside_of_training_the_first_group_answers_alone():
    towers, head = a_head()
    batch = a_batch(target(*SOME), target([], []))
    whole, alone = answered(towers, head, batch), answered(towers, head.eval(), batch)
    assert whole["boxes"].shape == (2, 15, 4) and alone["boxes"].shape == (2, 5, 4)
    assert set(alone.tensors) == {"classes", "boxes"}
    for name in ("classes", "boxes"):
        torch.testing.assert_close(alone[name], whole[name][:, :5])
    with torch.no_grad():
        head.content[5:] += 1.0
        head.propose[1].look[0].weight.zero_()
    for name in ("classes", "boxes"):
        assert torch.equal(answered(towers, head, batch)[name], alone[name])
    found = [torch.cat([one.boxes, one.object_scores[:, None]], 1) for one in head.predictions(whole, batch)]
    for ours, theirs in zip(found, head.predictions(alone, batch), strict=True):
        torch.testing.assert_close(ours, torch.cat([theirs.boxes, theirs.object_scores[:, None]], 1))


def test_identical_groups_have_the_loss_and_the_gradients_of_one():
    towers, head = a_head()
    one_towers, one = a_head(groups=1)
    with_equal_groups(head)
    mine = head.state_dict()
    one.load_state_dict({name: mine[name][: len(value)] if value.ndim else value for name, value in one.state_dict().items()})
    batch = a_batch(target(*SOME), target([], []), target([[0, 0, 9, 30]], [1]))
    losses = [each.loss(answered(seen, each, batch), batch) for seen, each in ((towers, head), (one_towers, one))]
    torch.testing.assert_close(losses[0].value, losses[1].value)
    for loss in losses:
        loss.value.backward()
    for name in ("project.merge.narrow.0.weight", "classify.weight", "decode.layers.0.places.offsets.weight"):
        torch.testing.assert_close(head.get_parameter(name).grad, one.get_parameter(name).grad, rtol=1e-4, atol=1e-5)


# -- the loss


def test_perfect_answers_cost_nothing_and_wrong_ones_do():
    _, head = a_head()
    batch = a_batch(target(*SOME), target([], []), target([[0, 0, 2, 3]], [1]))
    answer = perfect(head, batch)
    assert head.loss(answer, batch).value < 1e-3
    answer["boxes"].add_(0.2)
    assert head.loss(answer, batch).logs["boxes"] > 0.5


@pytest.mark.parametrize("targets", [[target([], []), target([], [])], [target(*SOME), target([], [])]], ids=["batch", "picture"])
@pytest.mark.parametrize("windows", [1, 2])
def test_without_objects_the_loss_is_finite_and_every_weight_has_a_gradient(targets, windows):
    towers, head = a_head(windows=windows)
    batch = a_batch(*targets)
    loss = head.loss(answered(towers, head, batch), batch)
    loss.value.backward()
    towers.image.vit.norm.requires_grad_(False)  # as the learner does, for no head looks at it
    weights = [weight for weight in [*head.parameters(), *towers.parameters()] if weight.requires_grad]
    assert 0 < loss.value < 1000 and all(weight.grad is not None and weight.grad.isfinite().all() for weight in weights)
    assert head.counts(batch) == {name: term.count for name, term in loss.terms.items()}


def test_padding_counts_zero():
    towers, head = a_head()
    batch = a_batch(target(*SOME), target([[0, 0, 9, 30]], [1]))
    batch.real_B[1] = False
    alone = batch[:1]
    loss, expected = head.loss(answered(towers, head, batch), batch), head.loss(answered(towers, head, alone), alone)
    torch.testing.assert_close(loss.value, expected.value)
    assert head.counts(batch) == head.counts(alone)


def test_a_crowd_is_no_object():
    towers, head = a_head()
    plain, crowded = a_batch(target(*SOME)), a_batch(target([[24, 0, 48, 32], *SOME[0]], [1, *SOME[1]], [True, False, False]))
    answer = answered(towers, head, plain)
    assert head.counts(plain) == head.counts(crowded) and head.loss(answer, plain).value == head.loss(answer, crowded).value


def test_two_thousand_objects_of_one_class_are_more_than_there_are_queries():
    towers, head = a_head(classes=1)
    corner_N2 = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([45.0, 29.0])
    batch = a_batch(target(torch.cat([corner_N2, corner_N2 + 2.5], 1), [0] * 2000))
    answer = answered(towers, head, batch)
    loss = head.loss(answer, batch)
    loss.value.backward()
    assert loss.value.isfinite() and loss.terms["boxes"].count == 5
    metrics = head.metrics()
    head.measure(metrics, answer, batch)
    assert metrics.compute()["box_map"] >= 0


def test_weights_that_overflowed_leave_a_loss_that_says_so_and_no_crash():
    towers, head = a_head()
    torch.nn.init.constant_(head.classify.weight, float("nan"))
    batch = a_batch(target(*SOME))
    assert head.loss(answered(towers, head, batch), batch).value.isnan()


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


def test_the_best_of_all_queries_and_classes_are_told_and_none_in_the_padding():
    _, head = a_head(most=4)
    batch = a_batch(target([], [], frame=Frame(32, 48, 0, 0, 32, 24, 32, 24)))
    logits_BQL = torch.arange(15.0).view(1, 5, 3) / 5
    boxes_BQ4 = torch.tensor([[[0.2, 0.5, 0.2, 0.2]] * 4 + [[0.8, 0.5, 0.2, 0.2]]])
    (found,) = head.predictions(Answer({"classes": logits_BQL, "boxes": boxes_BQ4}), batch)
    assert found.object_classes.tolist() == [2, 1, 0, 2]
    torch.testing.assert_close(found.object_scores, (torch.tensor([11.0, 10, 9, 8]) / 5).sigmoid())


def test_validation_finds_the_threshold_and_keeps_it_with_the_weights():
    _, head = a_head()
    assert float(head.threshold) == 0.5
    batch = a_batch(target(*SOME), target([[0, 0, 9, 30]], [1]))
    metrics = head.metrics()
    answer = perfect(head, batch)
    answer.tensors["classes"] = answer["classes"] / 10
    head.measure(metrics, answer, batch)
    results = metrics.compute()
    assert 0 < float(results["box_threshold"]) == pytest.approx(float(head.threshold)) and float(head.threshold) != 0.5
    other = a_head()[1]
    other.load_state_dict(head.state_dict())
    assert other.threshold == head.threshold
    sheet = head.pictures(answer, batch)["detections"]
    assert sheet.ndim == 3 and len(sheet) == 3 and sheet.min() >= 0 and sheet.max() <= 1
    one, two = sheet[:, : sheet.shape[1] // 2].chunk(2, dim=2)
    assert torch.equal(one, two), "what is answered is what is true"


# -- its way through the encoder


def test_automatic_taps_are_those_at_each_quarter_and_windows_where_they_are_large_enough():
    with torch.device("meta"):
        large = Towers(Vit(width=32, depth=12, heads=4, patch=16, image_size=(640, 512)))
        classic = Towers(Vit(width=32, depth=12, heads=4, patch=16, image_size=224))
        heads = [Queries(towers, classes=2) for towers in (large, classic)]
    assert heads[0].taps == heads[0].whole == heads[1].taps == (2, 5, 8, 11)
    assert [head.windows for head in heads] == [4, 1] and [head.queries for head in heads] == [300, 196]
    assert heads[0].groups == 13


def test_windows_do_not_matter_where_every_block_attends_to_the_whole_picture():
    towers, head = a_head(windows=2, whole=(0, 1, 2, 3))
    towers.image.vit.cls_token = None  # which windows leave out
    towers.image.vit.num_prefix_tokens = 0
    towers.image.vit.pos_embed = torch.nn.Parameter(towers.image.vit.pos_embed[:, 1:])
    batch = a_batch(target(*SOME))
    within = answered(towers, head.eval(), batch)
    head.windows, head.whole = 1, ()
    plain = answered(towers, head, batch)
    for name in ("classes", "boxes"):
        torch.testing.assert_close(within[name], plain[name], rtol=1e-4, atol=1e-5)
    head.windows, head.whole = 2, (3,)
    assert (answered(towers, head, batch)["classes"] - plain["classes"]).abs().max() > 1e-4


# -- mistakes


@pytest.mark.parametrize(
    "options, told",
    [
        ({"classes": None}, "a detector needs its classes"),
        ({"classes": 0}, "classes 0, queries 5, groups 3, heads 2, most 300, layers, points and hidden must all be 1 or more"),
        ({"layers": 0}, "layers, points and hidden must all be 1 or more"),
        ({"queries": 25}, "queries 25 given, the 4 x 6 patches propose 24 boxes"),
        ({"width": 18}, r"width 18 given, it must be a multiple of 4 and of twice the heads \(4\)"),
        ({"taps": (1, 2)}, r"taps \(1, 2\) and whole \(\) given; blocks are 0 to 3, and the last must be tapped"),
        ({"windows": 2, "whole": (4,)}, r"taps \(0, 1, 2, 3\) and whole \(4,\) given"),
        ({"windows": 4}, "windows 4 given, which cannot divide 4 x 6 patches"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        Queries(Towers(Vit(**SIZES)), **{"classes": 3} | SMALL | options)


def test_rotary_positions_know_no_windows():
    towers = Towers(Vit(name="vit_small_patch16_dinov3", image_size=256))
    assert Queries(towers, classes=2, groups=1).windows == 1
    with pytest.raises(ValueError, match="has rotary positions; give windows 1"):
        Queries(towers, classes=2, groups=1, windows=2)


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
