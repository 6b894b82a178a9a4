"""Promises of masks measured in the pixels of the original pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pycocotools import mask as run_length
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rectangles import CLASSES, QUERIES, SIZE, a_batch, a_head, a_sample, the_truth

from mae_vlm.data.framing import Fit, Zoom
from mae_vlm.data.targets import target_of
from mae_vlm.heads.parts.mask_truths import originals
from mae_vlm.types import Answer, Batch, Sample

WANTS = frozenset({"masks", "original"})


def blobs(count: int, height: int, width: int) -> Sample:
    """Objects of several sizes, the last of a single pixel and one before it a crowd."""
    sample, chance = a_sample(count, height, width, crowds=(count - 2,)), torch.Generator().manual_seed(height)
    sample.masks = torch.zeros(count, height, width, dtype=torch.bool)
    down, across = height // 2, width // 2
    for mask in sample.masks[:-1]:
        top, left = (int(torch.randint(0, room + 1, (1,), generator=chance)) for room in (height - down, width - across))
        mask[top : top + down, left : left + across] = True
    sample.masks[-1, 1, 1] = True
    return sample


def batch_of(samples: list[Sample]) -> Batch:
    batch = a_batch(samples)
    plans = [Fit((SIZE, SIZE)).plan(*one.image.shape[1:]) for one in samples]
    batch.targets = [target_of(one, plan, *one.image.shape[1:], WANTS) for one, plan in zip(samples, plans, strict=True)]
    return batch


def cocos(head, answer: Answer, batch: Batch, samples: list[Sample]) -> float:
    """AP of the predictions in the original's pixels by pycocotools."""
    truth, found = [], []
    for number, (sample, said) in enumerate(zip(samples, head.predictions(answer, batch), strict=True), 1):
        for mask, kind, crowd in zip(sample.masks, sample.classes.tolist(), sample.crowds.tolist(), strict=True):
            shape = {"segmentation": coded(mask), "bbox": [0, 0, 1, 1], "area": int(mask.sum()), "iscrowd": int(crowd)}
            truth.append({"id": len(truth) + 1, "image_id": number, "category_id": kind} | shape)
        for mask, kind, score in zip(said.masks, said.object_classes.tolist(), said.object_scores.tolist(), strict=True):
            found.append({"image_id": number, "category_id": kind, "score": score, "segmentation": coded(mask)})
    true = COCO()
    images = [{"id": n, "height": one.masks.shape[1], "width": one.masks.shape[2]} for n, one in enumerate(samples, 1)]
    true.dataset = {"images": images, "annotations": truth, "categories": [{"id": kind} for kind in range(CLASSES)]}
    true.createIndex()
    judge = COCOeval(true, true.loadRes(found), "segm")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return float(judge.stats[0])


def coded(mask: torch.Tensor) -> dict:
    return run_length.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))


@pytest.mark.parametrize("height, width", [(45, 67), (16, 16), (100, 31)])
def test_originals_come_back_bit_for_bit_also_what_the_prepared_picture_lost(height, width):
    sample = blobs(4, height, width)
    target = batch_of([sample]).targets[0].each(torch.clone)
    masks, classes, crowds, areas = originals(target)
    assert torch.equal(masks, sample.masks) and torch.equal(classes, sample.classes) and torch.equal(crowds, sample.crowds)
    assert areas.tolist() == sample.masks.flatten(1).sum(1).tolist()
    assert target.whole.masks.shape == (4, -(-height * width // 8))
    assert len(target.masks) == 4 or height > SIZE


def test_training_pictures_and_pictures_without_objects_carry_none():
    sample = blobs(3, 40, 40)
    assert target_of(sample, Zoom((SIZE, SIZE)).plan(40, 40, 7), 40, 40, WANTS).whole is None
    nothing = originals(batch_of([a_sample(0)]).targets[0])
    assert [tuple(one.shape) for one in nothing] == [(0, 24, 48), (0,), (0,), (0,)]


def test_validation_measures_what_pycocotools_finds_in_the_originals():
    samples = [blobs(5, 45, 67), blobs(4, 100, 31), blobs(3, 32, 32)]
    batch = batch_of(samples)
    _, head = a_head(original=True)
    answer = the_truth(head, batch)
    answer.tensors["masks"][:, :2] += 15 * torch.randn(3, 2, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    answer.tensors["classes"] += torch.randn(3, QUERIES, CLASSES + 1, generator=torch.Generator().manual_seed(1))
    metrics = head.metrics()
    head.measure(metrics, answer, batch)
    expected = cocos(head, answer, batch, samples)
    assert 0.05 < expected < 0.95
    assert float(metrics.compute()["mask_map"]) == pytest.approx(expected, abs=1e-6)
    head.original = False
    metrics.reset()
    head.measure(metrics, answer, batch)
    assert float(metrics.compute()["mask_map"]) != pytest.approx(expected, abs=1e-3)


def test_only_instances_are_measured_so():
    assert a_head(original=True)[1].wants == WANTS and a_head()[1].wants == {"masks"}
    with pytest.raises(ValueError, match="original given for the task panoptic"):
        a_head("panoptic", original=True)
