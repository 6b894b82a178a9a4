"""Promises of mae_vlm.heads.mask_rcnn."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from one_step import first_gradients
from rectangles import a_batch, a_sample
from several_processes import on_processes
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.ops import roi_align

from mae_vlm.data.summary import Summary
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.heads.mask_rcnn import MaskRcnn, _known
from mae_vlm.heads.parts.keyed_sampler import KeyedSampler
from mae_vlm.heads.parts.mask_pasting import pasted
from mae_vlm.heads.parts.region_losses import Drawn, drawn, mask_losses
from mae_vlm.heads.parts.region_stages import anchors_of, detector_scales
from mae_vlm.learners.finetune import Finetuner
from mae_vlm.learners.optim import AdamW
from mae_vlm.types import Answer, Batch, Frame, TokenSpace

SMALL = {"width": 16, "hidden": 32, "proposals": 40}
TERMS = {"objectness", "proposals", "classes", "boxes", "masks"}


def a_head(classes: int | list[str] = 3, depth: int = 2, **more) -> tuple[Towers, MaskRcnn]:
    torch.manual_seed(0)
    towers = Towers(Vit(width=32, depth=depth, heads=4, patch=8, image_size=32))
    return towers, MaskRcnn(towers, **SMALL | {"classes": classes} | more)


def answered(towers: Towers, head: MaskRcnn, batch: Batch) -> Answer:
    return head(Features(towers, batch))


def some(*counts: int, **more) -> Batch:
    return a_batch([a_sample(count, **more) for count in counts])


def perfect(head: MaskRcnn, batch: Batch) -> Answer:
    """What a head that knows all would have found."""
    known = [_known(target) for target in batch.targets]
    most = max(len(one["boxes"]) for one in known)
    answer = {"boxes": torch.zeros(len(batch), most, 4), "scores": torch.zeros(len(batch), most)}
    answer |= {"kinds": torch.zeros(len(batch), most, dtype=torch.int64), "shares": torch.zeros(len(batch), most, 28, 28)}
    for index, one in enumerate(known):
        count = len(one["boxes"])
        answer["boxes"][index, :count], answer["kinds"][index, :count] = one["boxes"], one["labels"] - 1
        answer["scores"][index, :count] = torch.arange(count, 0, -1) / (count + 1) / 2 + 0.5
        rows = torch.cat([torch.arange(count)[:, None].float(), one["boxes"]], 1)
        if count:
            answer["shares"][index, :count] = roi_align(one["masks"][:, None].float(), rows, 28, aligned=True)[:, 0]
    return Answer(answer | {"found": torch.tensor([len(one["boxes"]) for one in known])})


# -- the parts


@pytest.mark.parametrize("patch, finest", [(16, 4), (8, 2), (14, 4), (4, 1)])
def test_the_finest_level_has_a_cell_about_every_four_pixels(patch, finest):
    assert detector_scales(TokenSpace(8 * patch, 8 * patch, patch)) == (finest, finest / 2, finest / 4, finest / 8)


def test_anchors_lie_on_the_cells_of_every_level_also_where_patches_are_no_power_of_two():
    torch.manual_seed(0)
    towers = Towers(Vit(width=32, depth=1, heads=4, patch=14, image_size=(56, 84)))
    head = MaskRcnn(towers, classes=2, **SMALL)
    assert head.strides == [3.5, 7, 14, 28, 56]
    grids = ((16, 24), (8, 12), (4, 6), (2, 3), (1, 2))
    middles = anchors_of(head.first, [torch.zeros(1, 1, *grid) for grid in grids], head.strides).view(-1, 3, 2, 2).mean(2)
    levels = zip(grids, head.strides, strict=True)
    expected = [[column * stride, row * stride] for grid, stride in levels for row in range(grid[0]) for column in range(grid[1])]
    torch.testing.assert_close(middles, torch.tensor(expected)[:, None].expand(-1, 3, -1), atol=0.51, rtol=0)


def test_what_is_drawn_goes_by_the_pictures_key_alone():
    labels = [torch.arange(60) % 3 - 1, torch.zeros(60)]
    keys_B = torch.tensor([5, 6])
    objects, background = KeyedSampler(16, 0.25, keys_B, 0)(labels)
    assert [int(one.sum()) for one in objects] == [4, 0] and [int(one.sum()) for one in background] == [12, 16]
    assert bool((labels[0][objects[0]] >= 1).all()) and bool((labels[0][background[0]] == 0).all())
    alone = KeyedSampler(16, 0.25, keys_B[1:], 0)(labels[1:])
    assert torch.equal(alone[1][0], background[1])
    torch.rand(3)
    assert torch.equal(KeyedSampler(16, 0.25, keys_B, 0)(labels)[0][0], objects[0])
    assert not torch.equal(KeyedSampler(16, 0.25, torch.tensor([7, 6]), 0)(labels)[1][0], background[0])
    assert not torch.equal(KeyedSampler(16, 0.25, keys_B, 1)(labels)[1][0], background[0])


def test_a_mask_cut_out_of_a_box_and_pasted_again_is_as_before():
    mask_HW = torch.zeros(40, 50, dtype=torch.bool)
    mask_HW[6:20, 9:33], mask_HW[20:31, 9:15] = True, True
    box = torch.tensor([[8.4, 5.3, 33.7, 31.9]])
    cut = roi_align(mask_HW[None, None].float(), torch.cat([torch.zeros(1, 1), box], 1), 28, aligned=True)[:, 0]
    (again_HW,) = pasted(cut, box, (40, 50))
    assert int((again_HW != mask_HW).sum()) <= 5 and int(mask_HW.sum()) == 402
    assert pasted(cut[:0], box[:0], (40, 50)).shape == (0, 40, 50)


# -- the loss


def test_each_picture_weighs_the_same_and_its_loss_is_that_of_torchvision():
    """The first stage's and the masks' are called by name in ``region_losses``; here the second stage's, and how all are averaged."""
    towers, head = a_head()
    batch = some(2, 5)
    loss, known = head.loss(answered(towers, head, batch), batch), [_known(target) for target in batch.targets]
    alone = [head.loss(answered(towers, head, batch[part]), batch[part]) for part in (slice(0, 1), slice(1, 2))]
    assert loss.logs.keys() == TERMS
    for name, value in loss.logs.items():
        torch.testing.assert_close(value, (alone[0].logs[name] + alone[1].logs[name]) / 2)
    answer = answered(towers, head, batch[:1])
    maps = [answer[f"map_{level}"] for level in range(5)]
    chosen = drawn(head.second, [answer["proposals"][0]], known[:1], batch.keys_B[:1])
    kinds, boxes = fastrcnn_loss(*head._read(maps, chosen.boxes), chosen.labels, chosen.moves)
    torch.testing.assert_close(torch.stack([kinds, boxes]).detach(), torch.stack([alone[0].logs["classes"], alone[0].logs["boxes"]]))
    assert int((chosen.labels[0] > 0).sum()) >= 2, "the true boxes are among the regions"


@pytest.mark.parametrize("counts", [(0, 0), (3, 0)], ids=["batch", "picture"])
@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_without_objects_the_loss_is_finite_and_every_weight_has_a_gradient(counts, masks, training):
    towers, head = a_head(masks=masks)
    batch = some(*counts)
    loss = head.train(training).loss(answered(towers, head, batch), batch)
    loss.value.backward()
    assert 0 < loss.value < 100 and loss.terms.keys() == (TERMS if masks else TERMS - {"masks"})
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in head.parameters())
    assert head.counts(batch) == {name: term.count for name, term in loss.terms.items()}
    assert head.wants == ({"boxes", "masks"} if masks else {"boxes"})


def test_padding_counts_zero_and_a_crowd_is_no_object():
    towers, head = a_head()
    batch = some(2, 5)
    batch.real_B[1] = False
    loss, expected = head.loss(answered(towers, head, batch), batch), head.loss(answered(towers, head, batch[:1]), batch[:1])
    torch.testing.assert_close(loss.value, expected.value)
    crowded, without = a_batch([a_sample(3, crowds=(0, 1, 2))]), some(0)
    without.images_BCHW = crowded.images_BCHW
    first, second = (head.loss(answered(towers, head, one), one) for one in (crowded, without))
    torch.testing.assert_close(first.value, second.value)


def test_two_thousand_objects_of_a_few_pixels_and_one_class():
    towers, head = a_head(classes=1)
    batch, (target,) = (some(1), some(1).targets)
    corner_N2 = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0)) * 29
    target.boxes = torch.cat([corner_N2, corner_N2 + 2.5], 1)
    target.classes, target.crowds = torch.zeros(2000, dtype=torch.int64), torch.zeros(2000, dtype=torch.bool)
    places = torch.arange(32) + 0.5
    inside = [(places > target.boxes[:, side, None]) & (places < target.boxes[:, side + 2, None]) for side in (0, 1)]
    target.masks = inside[1][:, :, None] & inside[0][:, None]
    batch.targets[0] = target
    loss = head.loss(answered(towers, head, batch), batch)
    loss.value.backward()
    assert loss.value.isfinite()
    metrics = head.metrics()
    head.eval()
    with torch.no_grad():
        head.measure(metrics, answered(towers, head, batch), batch)
    assert metrics.compute()["mask_map"] >= 0


def test_masks_are_learned_where_their_pixels_are():
    batch = some(3)
    known = [_known(target) for target in batch.targets]
    owners = torch.arange(3)
    regions = Drawn([known[0]["boxes"]], [owners], [known[0]["labels"]], [known[0]["boxes"]])
    rows = torch.cat([owners[:, None].float(), known[0]["boxes"]], 1)
    losses = []
    for shift in (0.0, 0.5):
        cut = roi_align(known[0]["masks"][:, None].float(), rows + torch.tensor([0, 1, 1, 1, 1]) * shift, 28, aligned=True)
        losses.append(float(mask_losses(cut.clamp(0.01, 0.99).logit().expand(-1, 4, -1, -1), regions, known)))
    assert losses[0] < 0.75 * losses[1]


def test_windows_that_all_attend_to_each_other_see_what_the_whole_picture_does():
    towers, head = a_head()
    batch = some(2)
    towers.eval()
    one, two = a_head(windows=2, whole=[0, 1])[1], a_head(windows=2, whole=[1])[1]
    maps = [each.eval()._maps(Features(towers, batch))[1] for each in (one, two)]
    assert maps[0].shape == maps[1].shape == head._maps(Features(towers, batch))[1].shape and not torch.allclose(*maps)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float64])
def test_regions_keep_their_positions_in_other_precisions(precision):
    towers, head = (part.to(precision) for part in a_head())
    batch = some(2, 0)
    head.loss(answered(towers, head, batch), batch).value.backward()
    assert all(weight.grad is not None and weight.grad.dtype == precision for weight in head.parameters())
    head.eval()
    assert answered(towers, head, batch)["boxes"].dtype == torch.float32


# -- answers


def test_perfect_answers_become_the_objects_in_pixels_of_the_original():
    """Seen at two thirds of its size with padding below, once mirrored."""
    _, head = a_head(["cell", "dust", "hair"])
    batch = some(3, 0, 2)
    batch.real_B[2] = False
    answer = perfect(head, batch)
    whole, empty = head.predictions(answer, batch)
    sample = a_sample(3)
    torch.testing.assert_close(whole.boxes, sample.boxes.float(), atol=1e-3, rtol=0)
    assert whole.object_classes.tolist() == [0, 1, 0] and whole.masks.shape == (3, 24, 48)
    assert int((whole.masks != sample.masks).sum()) <= 0.06 * int(sample.masks.sum())
    assert empty.boxes.shape == (0, 4) and empty.masks.shape == (0, 24, 48)
    frame = batch.targets[0].frame
    batch.targets[0].frame = Frame(*frame[:-1], mirrored=True)
    (mirrored, _) = head.predictions(answer, batch)
    torch.testing.assert_close(mirrored.boxes[:, [0, 2]], 48 - sample.boxes.float()[:, [2, 0]], atol=1e-3, rtol=0)
    assert int((mirrored.masks != sample.masks.flip(-1)).sum()) <= 0.06 * int(sample.masks.sum())


def test_validation_measures_boxes_and_masks_and_keeps_the_threshold():
    _, head = a_head(["cell", "dust", "hair"])
    batch = some(3, 0, 2)
    metrics = head.metrics()
    head.measure(metrics, perfect(head, batch), batch)
    results = metrics.compute()
    assert results["box_map"] == results["box_f1"] == results["mask_map50"] == 1 and results["mask_map"] > 0.8
    assert float(head.threshold) == pytest.approx(float(results["box_threshold"])) and float(head.threshold) != 0.5
    tables = head.tables(results)
    assert [row[0] for row in tables["boxes"]] == [row[0] for row in tables["masks"]] == ["class", "cell", "dust", "hair"]
    sheet = head.pictures(perfect(head, batch), batch)["detections"]
    one, two = sheet[:, : sheet.shape[1] // 3].chunk(2, dim=2)
    assert torch.equal(one, two), "what is answered is what is true"


def test_padding_holds_no_detection():
    towers, head = a_head(score=0.0)
    batch = some(2)  # of 24 x 48 pixels, in 32 x 32: the lower half is padding
    towers.eval()
    boxes_K4 = answered(towers, head.eval(), batch)["boxes"][0].detach()
    assert len(boxes_K4) > 10 and float(boxes_K4[:, 3].max()) <= 16 and float(boxes_K4.min()) >= 0


# -- the whole step


def gradients(processes: int, accumulation: int) -> dict[str, np.ndarray]:
    """Those of a step of 16 scenes."""
    torch.manual_seed(0)
    encoder = Vit(width=32, depth=1, heads=4, patch=8, image_size=32)
    learner = Finetuner(encoder, {"detect": partial(MaskRcnn, classes=7, **SMALL)}, AdamW(base_lr=1e-3))
    return first_gradients(learner, 16, processes, accumulation)


def dealt() -> list[dict[str, np.ndarray]]:
    """On this one of two processes, with 1 and 4 batches accumulated; as arrays, which outlive the process."""
    return [gradients(2, accumulation) for accumulation in (1, 4)]


@pytest.mark.slow
def test_how_pictures_are_dealt_changes_no_gradient():
    whole = gradients(1, 1)
    assert len(whole) > 50 and all(np.abs(value).max() > 0 for name, value in whole.items() if name.startswith("heads"))
    for found in (gradients(1, 4), *on_processes(2, dealt)[0]):
        assert whole.keys() == found.keys()
        for name, value in whole.items():
            np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5)


# -- mistakes


@pytest.mark.parametrize(
    "options, told",
    [
        ({"classes": None}, "a detector needs its classes"),
        ({"classes": 0}, "classes 0, width 16, hidden 32, proposals 40, windows 1 and most 100 must be 1 or more"),
        ({"score": 1.0}, "score 1.0 one below 1"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        a_head(**options)


def test_data_of_other_classes_or_without_masks_is_refused():
    _, head = a_head(["cat", "dog"])
    summary = partial(Summary, "pictures", "coco", 10, 5, 0, 16, 16, 3, classes=None, split="", known=frozenset({"boxes", "masks"}))
    head.check(summary(object_classes=["cat", "dog"]))
    with pytest.raises(ValueError, match="has no boxes of named objects"):
        head.check(summary(object_classes=None))
    with pytest.raises(ValueError, match="has 1 classes of objects, this detector 2"):
        head.check(summary(object_classes=["cat"]))
    with pytest.raises(ValueError, match="cow where it has dog"):
        head.check(summary(object_classes=["cat", "cow"]))
    with pytest.raises(ValueError, match="has no masks of objects to learn; set masks to false"):
        head.check(summary(object_classes=["cat", "dog"], known=frozenset({"boxes"})))
