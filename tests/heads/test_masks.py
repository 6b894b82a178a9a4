"""Promises of mae_vlm.heads.masks: the pass, the loss, mistakes."""

from __future__ import annotations

import pytest
import torch
from rectangles import QUERIES, TASKS, a_batch, a_head, a_sample, the_truth

from mae_vlm.data.summary import Summary
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.heads.masks import Masks
from mae_vlm.learners.terms import Shares
from mae_vlm.types import Batch


class Seen:
    """Notes the masks that blocks are given."""

    def __init__(self, towers: Towers) -> None:
        self.masks: list[torch.Tensor | None] = []
        for block in towers.image.vit.blocks[1:]:
            block.register_forward_pre_hook(lambda _, words, named: self.masks.append(named.get("attn_mask")), with_kwargs=True)


# -- the pass


def test_at_the_end_of_annealing_the_answer_is_bit_equal_to_that_without_masks():
    towers, head = a_head()
    batch = a_batch([a_sample(2), a_sample(0)])
    head.progress = 0.8
    annealed = head.train()(Features(towers, batch))
    head.masked, head.progress = False, 0.0
    never = head(Features(towers, batch))
    assert annealed.tensors.keys() == never.tensors.keys() and len(never.tensors) == 8
    assert all(torch.equal(annealed[name], never[name]) for name in never.tensors)
    head.masked = True
    assert not torch.equal(head(Features(towers, batch))["masks"], never["masks"])


def test_training_begins_with_every_query_confined_to_its_patches_and_use_masks_nothing():
    towers, head = a_head()
    seen = Seen(towers)
    batch = a_batch([a_sample(2)])
    answer = head.train()(Features(towers, batch))
    assert [mask.shape for mask in seen.masks] == [(1, 1, 23, 23)] * 3
    for number, mask in enumerate(seen.masks):
        covered = torch.nn.functional.interpolate(answer[f"masks_{number}"], size=(4, 4), mode="bilinear").flatten(2) > 0
        assert torch.equal(mask[:, 0, :QUERIES, QUERIES + 1 :], covered)
        assert mask[:, 0, QUERIES:].all() and mask[:, 0, :, : QUERIES + 1].all()
    seen.masks.clear()
    trained = answer.tensors.keys()
    answer = head.eval()(Features(towers, batch))
    assert seen.masks == [None] * 3 and answer.tensors.keys() == {"classes", "masks"} < trained


def test_oblong_pictures_of_16_pixel_patches_give_masks_in_cells_of_4_pixels():
    torch.manual_seed(0)
    towers = Towers(Vit(width=32, depth=2, heads=4, patch=16, image_size=(32, 64), class_tokens=0))
    head = Masks(towers, classes=2, queries=5, last=2)
    batch = Batch(torch.zeros(2, 3, 32, 64, dtype=torch.uint8), torch.arange(2), torch.ones(2, dtype=torch.bool), torch.zeros(2))
    answer = head.train()(Features(towers, batch))
    assert answer["masks"].shape == answer["masks_0"].shape == (2, 5, 8, 16) and answer["classes"].shape == (2, 5, 3)


# -- the loss


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("task", TASKS)
def test_pictures_and_batches_without_any_object_have_finite_losses_and_gradients_for_every_weight(task, training):
    towers, head = a_head(task)
    for samples in ([a_sample(0), a_sample(0)], [a_sample(2), a_sample(0)]):
        batch = a_batch(samples)
        if task == "semantic" and samples[0].boxes.shape[0] == 0:
            for target in batch.targets:
                target.semantic.fill_(-1)
        head.zero_grad()
        towers.zero_grad()
        loss = head.train(training).loss(head(Features(towers, batch)), batch)
        loss.value.backward()
        assert loss.value.isfinite()
        for weight in [*head.parameters(), *(one for one in towers.parameters() if one.requires_grad)]:
            assert weight.grad is not None and weight.grad.isfinite().all()


def test_counts_come_from_the_targets_and_leave_out_crowds_padding_and_what_no_query_is_left_for():
    _, head = a_head()
    batch = a_batch([a_sample(3, crowds=(1,)), a_sample(8), a_sample(4), a_sample(0)])
    batch.real_B[2] = False
    counts = {name: count.item() for name, count in head.counts(batch).items()}
    assert counts["mask"] == counts["dice"] == 2 + QUERIES + 0
    assert counts["class"] == pytest.approx(8 + 0.1 * (3 * QUERIES - 8))
    _, head = a_head("semantic")
    assert head.counts(a_batch([a_sample(1), a_sample(2)]))["mask"] == 2 + 3
    unknown = a_batch([a_sample(1)])
    unknown.targets[0].semantic.fill_(-1)
    assert all(count == 0 for count in head.counts(unknown).values())


def test_segments_of_one_stuff_class_are_learned_as_one():
    _, head = a_head("panoptic", stuff=["1"])
    (truth,) = head._truths(a_batch([a_sample(5)]))  # classes 0 1 0 1 0
    assert truth.classes.tolist() == [0, 0, 0, 1] and len(truth.masks) == 4
    torch.testing.assert_close(truth.masks[3], a_batch([a_sample(5)]).targets[0].masks[[1, 3]].any(0))


def test_the_loss_does_not_depend_on_the_global_chance():
    towers, head = a_head()
    batch = a_batch([a_sample(2), a_sample(3)])
    answer = head.train()(Features(towers, batch))
    torch.manual_seed(1)
    first = head.loss(answer, batch).value
    torch.manual_seed(2)
    assert torch.equal(first, head.loss(answer, batch).value)


def test_uneven_micro_batches_have_the_gradient_of_the_whole_batch():
    towers, head = a_head()
    batch = a_batch([a_sample(5), a_sample(0), a_sample(1), a_sample(4, crowds=(0, 2))])
    whole = head.train().loss(head(Features(towers, batch)), batch)
    expected = torch.autograd.grad(whole.value, [*head.parameters()])
    parts = [batch[:1], batch[1:2], batch[2:]]
    shares = Shares()
    shares.begin([{f"masks/{name}": count for name, count in head.counts(part).items()} for part in parts], 3, torch.device("cpu"))
    value = torch.stack([shares.means("masks", head.loss(head(Features(towers, part)), part))[0] for part in parts]).mean()
    torch.testing.assert_close(value, whole.value)
    for ours, theirs in zip(torch.autograd.grad(value, [*head.parameters()]), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_right_answer_costs_next_to_nothing_and_two_thousand_objects_are_learned_from():
    _, head = a_head(points=400)
    batch = a_batch([a_sample(4), a_sample(1)])
    answer = the_truth(head, batch)
    right = head.eval().loss(answer, batch).logs
    answer["masks"][:] = -answer["masks"]
    wrong = head.loss(answer, batch).logs
    assert right["class"] < 1e-4
    assert right["mask"] < 0.05 * wrong["mask"] and right["dice"] < 0.2 * wrong["dice"], "off at the edges alone, where most points lie"
    full = a_batch([a_sample(24, 24, 48)])
    target = full.targets[0]
    target.masks, target.classes = target.masks.repeat(90, 1, 1)[:2000], target.classes.repeat(90)[:2000]
    target.crowds = torch.zeros(2000, dtype=torch.bool)
    towers, head = a_head()
    loss = head.loss(head.train()(Features(towers, full)), full)
    assert loss.value.isfinite() and loss.terms["mask"].count == QUERIES


# -- mistakes


@pytest.mark.parametrize(
    "options, told",
    [
        ({"task": "depth"}, "task 'depth' given, allowed are semantic, instance, panoptic"),
        ({"queries": 0}, "queries 0, points 64"),
        ({"last": 5}, "last 5 given, the encoder has 4 blocks"),
        ({"task": "panoptic", "stuff": ["sea"]}, "stuff sea is none of the classes 0, 1, 2"),
        ({"stuff": ["1"]}, "stuff given for the task instance"),
        ({"score": 1.0}, "score 1.0"),
    ],
    ids=str,
)
def test_a_mistake_is_told(options, told):
    with pytest.raises(ValueError, match=told):
        a_head(**options)


def test_other_classes_than_the_collections_are_told():
    towers, _ = a_head()
    head = Masks(towers, classes=["cat", "dog"])
    summary = Summary("here", "coco", 1, 1, 0, 8, 8, 3, None, "", object_classes=["cat", "cow"], known=frozenset({"masks"}))
    with pytest.raises(ValueError, match="here has the classes cat, cow, this head cat, dog"):
        head.check(summary)
    Masks(towers, classes=["background", "cat", "cow"], task="semantic").check(summary)
    assert Masks.learned({"task": "semantic"}) == "semantic_classes" and Masks.learned({}) == "object_classes"
