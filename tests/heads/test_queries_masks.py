"""The query detector with its mask branch, from pictures to answers."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from one_step import first_gradients
from rectangles import CLASSES, SIZE, a_sample
from rectangles import a_batch as of_samples

from mae_vlm.data.framing import Fit
from mae_vlm.data.targets import target_of
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.heads.parts.query_masks import MASK_WEIGHTS
from mae_vlm.heads.queries import Queries
from mae_vlm.learners.finetune import Finetuner
from mae_vlm.learners.optim import AdamW
from mae_vlm.types import Answer, Batch

SMALL = {"width": 16, "layers": 2, "heads": 2, "hidden": 24, "queries": 5, "groups": 2, "masks": True}


def a_head() -> tuple[Towers, Queries]:
    torch.manual_seed(0)
    towers = Towers(Vit(width=32, depth=4, heads=4, patch=8, image_size=SIZE))
    return towers, Queries(towers, classes=CLASSES, **SMALL)


def a_batch(*counts: int, crowds: tuple[int, ...] = ()) -> Batch:
    """Pictures of so many rectangles, of which those with the numbers ``crowds`` are crowds."""
    samples = [a_sample(count, crowds=crowds) for count in counts]
    batch = of_samples(samples)
    plans = [Fit((SIZE, SIZE)).plan(*sample.image.shape[1:]) for sample in samples]
    wants = frozenset({"boxes", "masks"})
    batch.targets = [target_of(one, plan, *one.image.shape[1:], wants) for one, plan in zip(samples, plans, strict=True)]
    return batch


def perfect(head: Queries, batch: Batch) -> Answer:
    """What a head would say that knows all: a query for each object, which draws its mask, a cell for each pixel."""
    classes = torch.full((len(batch), head.queries, CLASSES), -20.0)
    boxes = torch.full((len(batch), head.queries, 4), 0.1)
    queries, cells = torch.eye(head.queries).repeat(len(batch), 1, 1), torch.full((len(batch), head.queries, SIZE, SIZE), -20.0)
    for index, truth in enumerate(head._truths(batch)):
        for query, (box, kind, mask) in enumerate(zip(truth.boxes, truth.classes, truth.masks, strict=True)):
            classes[index, query, kind], boxes[index, query] = 20.0, box
            cells[index, query] = torch.where(mask, 20.0, -20.0)
    return Answer({"classes": classes, "boxes": boxes, "queries": queries, "cells": cells, "bias": torch.zeros(len(batch))})


def test_it_wants_masks_too_and_only_with_its_branch():
    towers, head = a_head()
    assert head.wants == {"boxes", "masks"} and head.most == 100
    plain = Queries(towers, classes=CLASSES, **SMALL | {"masks": False})
    assert plain.wants == {"boxes"} and plain.most == 300 and not any("draw" in name for name in plain.state_dict())


def test_perfect_answers_cost_nothing_and_wrong_masks_do():
    _, head = a_head()
    batch = a_batch(2, 0, 3)
    answer = perfect(head, batch)
    logs = head.loss(answer, batch).logs
    assert max(logs[name] for name in ("classes", "boxes", "overlaps")) < 1e-3
    assert max(logs[name] for name in ("masks", "dice")) < 0.05, "not 0 between two cells, where the most points are"
    answer["cells"].neg_()
    logs = head.loss(answer, batch).logs
    assert logs["masks"] > 5 and logs["dice"] > 0.8


@pytest.mark.parametrize("counts", [(0, 0), (2, 0), (9, 1)], ids=["batch", "picture", "more than queries"])
def test_the_loss_is_finite_and_every_weight_has_a_gradient(counts):
    towers, head = a_head()
    batch = a_batch(*counts)
    loss = head.loss(head(Features(towers, batch)), batch)
    loss.value.backward()
    assert loss.value.isfinite() and all(weight.grad is not None and weight.grad.isfinite().all() for weight in head.parameters())
    assert head.counts(batch) == {name: term.count for name, term in loss.terms.items()} and head.weights.items() >= MASK_WEIGHTS.items()
    assert loss.terms["dice"].count == sum(min(count, 5) for count in counts)


def test_perfect_answers_become_masks_of_the_original_and_are_measured_as_such():
    _, head = a_head()
    batch = a_batch(2, 0, 3)
    answer = perfect(head, batch)
    batch.real_B[1] = False
    found = head.predictions(answer, batch)
    assert [one.id for one in found] == ["picture 0", "picture 2"]
    for one, count in zip(found, (2, 3), strict=True):
        sure = one.object_scores > 0.9
        assert sure.sum() == count and one.masks.shape[1:] == (24, 48) and len(one.masks) == len(one.boxes)
        order = one.boxes[sure][:, 0].argsort()
        true = a_sample(count).masks
        shared = (one.masks[sure][order] & true).flatten(1).sum(1) / (one.masks[sure][order] | true).flatten(1).sum(1)
        assert (shared > 0.85).all(), "the original has more pixels than were seen"
    metrics = head.metrics()
    head.measure(metrics, answer, batch)
    results = metrics.compute()
    assert results["box_map"] > 0.99 and results["mask_map"] > 0.99
    assert head.tables(results).keys() == {"boxes", "masks"} and head.tables(results)["masks"][1][1] == "1.0000"
    sheets = head.pictures(answer, batch)
    assert sheets.keys() == {"detections", "masks"} and sheets["masks"].ndim == 3


def test_crowds_are_drawn_by_nobody():
    _, head = a_head()
    batch = a_batch(3, crowds=(1,))
    (truth,) = head._truths(batch)
    assert len(truth.masks) == len(truth.boxes) == 2 and head.counts(batch)["dice"] == 2


def gradients(accumulation: int) -> dict[str, np.ndarray]:
    torch.manual_seed(0)
    encoder = Vit(width=32, depth=2, heads=4, patch=8, image_size=32)
    learner = Finetuner(encoder, {"detect": partial(Queries, classes=7, **SMALL)}, AdamW(base_lr=1e-3))
    return first_gradients(learner, 8, 1, accumulation)


def test_masks_spread_unevenly_over_accumulated_batches_change_no_gradient():
    whole, dealt = gradients(1), gradients(4)
    assert whole.keys() == dealt.keys() and np.abs(whole["heads.detect.draw.ask.weight"]).max() > 1e-3
    for name, value in whole.items():
        np.testing.assert_allclose(dealt[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
