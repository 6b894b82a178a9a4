"""Promises of mae_vlm.heads.masks: what it measures, tells and shows."""

from __future__ import annotations

import pytest
import torch
from rectangles import CLASSES, SIZE, TASKS, a_batch, a_head, a_sample, the_truth

from mae_vlm.heads.parts.mask_metrics import PRECISIONS, MaskPrecision
from mae_vlm.types import Answer


@pytest.mark.parametrize("task, best", zip(TASKS, ["miou", "mask_map", "pq"], strict=True))
def test_the_truth_scores_one_also_beside_pictures_without_objects_crowds_and_padding(task, best):
    _, head = a_head(task)
    batch = a_batch([a_sample(2), a_sample(0), a_sample(5, crowds=(3,)), a_sample(4)])
    batch.real_B[3] = False
    metrics = head.metrics()
    answer = the_truth(head, batch[:3])
    answer = Answer({name: torch.cat([value, value[:1]]) for name, value in answer.tensors.items()})
    head.measure(metrics, answer, batch)
    results = metrics.compute()
    assert results[best] == 1 and head.best == (best, True)
    assert len(head.tables(results)["classes"]) == 1 + CLASSES
    scalars = {name for name, value in results.items() if value.ndim == 0}
    assert {"semantic": {"miou"}, "instance": {"mask_map", "mask_map50"}, "panoptic": {"pq"}}[task] <= scalars


@pytest.mark.parametrize("task", TASKS)
def test_nothing_known_at_all_still_gives_a_number_for_objects(task):
    _, head = a_head(task)
    metrics, batch = head.metrics(), a_batch([a_sample(0)])
    head.measure(metrics, the_truth(head, batch), batch)
    assert metrics.compute()[head.best[0]] in (0, 1)


def test_precision_equals_pycocotools():
    pytest.importorskip("pycocotools", reason="pycocotools is not installed")
    chance = torch.Generator().manual_seed(0)
    ours, theirs = MaskPrecision(CLASSES), MaskPrecision(CLASSES, backend="pycocotools")
    for _ in range(8):
        true = torch.rand(5, 8, 8, generator=chance).gt(0.5).repeat_interleave(4, 1).repeat_interleave(4, 2)
        noise = torch.rand(9, 32, 32, generator=chance) < torch.rand(9, 1, 1, generator=chance) * 0.4
        found = torch.cat([true, true[:4]]) ^ noise
        classes, crowds = torch.randint(0, 2, (5,), generator=chance), torch.rand(5, generator=chance) < 0.2
        picture = (
            found,
            torch.rand(9, generator=chance),
            torch.cat([classes, classes[:4]]),
            true,
            classes,
            crowds,
            torch.full((5,), 500.0),
        )
        ours.add(*picture)
        theirs.add(*picture)
    ours, theirs = ours.compute(), theirs.compute()
    assert 0.1 < ours["mask_map"] < 0.9 and all(torch.equal(ours[name], theirs[name]) for name in ("mask_map", "mask_map50", "mask_map75"))
    per_class = ours[PRECISIONS]
    assert per_class[2].isnan().all() and per_class[:2].mean(0).tolist() == pytest.approx(
        [ours["mask_map"].item(), ours["mask_map50"].item()], abs=1e-6
    )


def test_objects_are_told_in_the_pixels_of_the_original_best_first():
    _, head = a_head()
    samples = [a_sample(3, 48, 96), a_sample(2, 40, 20)]
    batch = a_batch(samples)
    answer = the_truth(head, batch)
    answer["classes"][0, 1, :] = torch.tensor([0.0, 2.0, 0.0, 0.0])  # less sure
    batch.real_B[1] = True
    found = head.predictions(answer, batch)
    assert [one.id for one in found] == ["picture 0", "picture 1"]
    for one, sample in zip(found, samples, strict=True):
        assert one.masks.shape[1:] == sample.masks.shape[1:] and one.masks.dtype == torch.bool
        assert one.object_scores.tolist() == sorted(one.object_scores.tolist(), reverse=True)
        best = one.masks[: len(sample.masks)]
        iou = (best[:, None] & sample.masks).flatten(2).sum(2) / (best[:, None] | sample.masks).flatten(2).sum(2)
        assert iou.max(0).values.min() > 0.9, "as right as a prepared picture of a third of the side can be"
        match = iou.argmax(1)
        assert torch.equal(one.object_classes[: len(match)], sample.classes[match])
    assert found[0].object_scores[2] < 0.9 < found[0].object_scores[1] and found[0].boxes is None


def test_segments_and_classes_of_pixels_are_told_in_the_pixels_of_the_original():
    sample = a_sample(4, 48, 96)
    batch = a_batch([sample])
    _, head = a_head("panoptic")
    (found,) = head.predictions(the_truth(head, batch), batch)
    assert found.segments.dtype == torch.int32 and found.object_classes.tolist() == [0, 1, 0, 1]
    for number, mask in enumerate(sample.masks, start=1):
        assert ((found.segments == number) ^ mask).float().mean() < 0.02
    _, head = a_head("panoptic", stuff=[1])
    (merged,) = head.predictions(the_truth(head, batch), batch)
    assert merged.object_classes.tolist() == [0, 0, 1]
    _, head = a_head("semantic")
    (found,) = head.predictions(the_truth(head, batch), batch)
    assert found.semantic.shape == (48, 96) and (found.semantic == sample.semantic).float().mean() > 0.97


def test_a_covered_or_doubtful_segment_is_dropped():
    _, head = a_head("panoptic")
    batch = a_batch([a_sample(2, SIZE, SIZE)])
    answer = the_truth(head, batch)
    answer["masks"][0, 1] = answer["masks"][0, 0]  # the second under the first
    answer["classes"][0, 1] = torch.tensor([0.0, 5.0, 0.0, 0.0])
    (found,) = head.predictions(answer, batch)
    assert found.object_classes.tolist() == [0] and set(found.segments.unique().tolist()) == {0, 1}
    answer["classes"][0, 0] = 0.0
    answer["classes"][0, 1] = 0.0
    (nothing,) = head.predictions(answer, batch)
    assert nothing.segments.unique().tolist() == [0] and len(nothing.object_classes) == 0


@pytest.mark.parametrize("task", TASKS)
def test_pictures_show_each_picture_beside_truth_and_answer(task):
    _, head = a_head(task)
    batch = a_batch([a_sample(2), a_sample(0)])
    sheet = head.pictures(the_truth(head, batch), batch)["masks"]
    assert sheet.shape == (3, 2 * (SIZE + 4), 3 * (SIZE + 4)) and sheet.min() >= 0 and sheet.max() <= 1
    picture, true, said = (sheet[:, 2 : SIZE + 2, at : at + SIZE] for at in (2, SIZE + 6, 2 * SIZE + 10))
    assert not torch.equal(picture, true) and not torch.equal(picture, said)
    torch.testing.assert_close(picture, batch.images_BCHW[0] / 255)
