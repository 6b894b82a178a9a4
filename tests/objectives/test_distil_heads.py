"""Promises of mae_vlm.learners.teaching: heads that learn from another model's answers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist
from process_pool import on_pool
from torch.nn import functional

from mae_vlm.encoders.vit import Vit
from mae_vlm.heads.classify import Classify
from mae_vlm.heads.segment import Segment
from mae_vlm.learners.finetune import Finetuner
from mae_vlm.learners.optim import AdamW, parameter_groups
from mae_vlm.learners.sharding import full, shard
from mae_vlm.learners.teaching import Teaching, divergence
from mae_vlm.types import Batch, Frame, Target

NAMES = ["ring", "star", "cross"]


def a_batch(count: int = 8, labelled: int = 5) -> Batch:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=draw)
    labels_B = torch.where(torch.arange(count) < labelled, torch.arange(count) % 3, -1)
    return Batch(images, torch.arange(count), torch.ones(count, dtype=torch.bool), labels_B, [f"{i}" for i in range(count)])


def a_teaching(head=None, image=None, **options) -> Teaching:
    torch.manual_seed(1)
    sizes = {"width": 48, "depth": 2, "heads": 4, "patch": 4, "image_size": 16, "mean": [0.2] * 3, "std": [0.4] * 3, "drop_path": 0.5}
    taught = Teaching(encoder=Vit(**sizes | (image or {})), heads={"told": head or partial(Classify, classes=NAMES)}, **options)
    with torch.no_grad():  # a fresh classifier knows nothing
        for weight in taught.heads.parameters():
            weight += 0.5 * torch.randn_like(weight)
    return taught


def a_learner(teacher=None, head=None, **options) -> Finetuner:
    teaching = a_teaching(**options) if teacher is None else teacher
    torch.manual_seed(0)
    encoder = Vit(width=32, depth=2, heads=4, patch=8, image_size=16)
    return Finetuner(encoder, {"told": head or partial(Classify, classes=NAMES)}, AdamW(), teacher=teaching)


def taught(learner: Finetuner, batch: Batch):
    answers = learner._answers(batch)
    return learner._losses(answers, batch)["told"], answers["told"]["logits"]


@torch.no_grad()
def test_the_term_is_hintons_over_all_pictures_beside_the_labelled_ones_loss():
    learner, batch = a_learner(temperature=3.0, weight=0.7).eval(), a_batch()
    loss, logits = taught(learner, batch)
    model = learner.teacher
    tokens = model.towers.image.full((batch.images_BCHW / 255 - 0.2) / 0.4).unnormed_BND
    told = model.heads["told"].linear(model.heads["told"].norm(tokens.mean(1)))
    teacher, student = (told / 3).softmax(1), (logits / 3).softmax(1)
    expected = 9 * (teacher * (teacher / student).log()).sum(1).mean()
    assert expected > 0.01
    torch.testing.assert_close(loss.logs["taught"], expected, rtol=1e-4, atol=1e-6)
    own = functional.cross_entropy(logits[:5], batch.labels_B[:5])
    torch.testing.assert_close(loss.value, own + 0.7 * expected, rtol=1e-4, atol=1e-6)
    assert loss.terms["taught"].count == 8 and loss.terms["cross_entropy"].count == 5


def test_alike_answers_differ_by_nothing_and_maps_are_resampled_to_the_students():
    maps = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(divergence(maps, maps + 5.0, 2.0), torch.zeros(2), rtol=0, atol=1e-5)
    flat = torch.randn(2, 3)
    coarse, fine = flat[..., None, None].expand(2, 3, 2, 2), flat[..., None, None].expand(2, 3, 8, 8)
    torch.testing.assert_close(divergence(coarse, fine, 1.0), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(divergence(fine, fine.flip(1), 2.0), divergence(flat, flat.flip(1), 2.0))


def test_the_student_gets_every_gradient_and_the_teacher_none():
    learner, batch = a_learner().train(), a_batch()
    before = {name: value.clone() for name, value in learner.teacher.state_dict().items()}
    assert learner.heads.training and not any(part.training for part in learner.teacher.modules())
    optimizer = torch.optim.AdamW(parameter_groups(learner, 0.05), lr=0.1)
    learner.shares.begin([learner._counts(batch)], 1, torch.device("cpu"))
    learner.training_step(batch, 0).backward()
    assert all(weight.grad is not None for weight in (*learner.heads.parameters(), learner.towers.image.vit.cls_token))
    assert all(weight.grad is None and not weight.requires_grad for weight in learner.teacher.parameters())
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in learner.teacher.state_dict().items())


def test_without_any_label_a_student_learns_from_its_teacher_alone():
    learner, batch = a_learner().train(), a_batch(labelled=0)
    optimizer = torch.optim.AdamW(parameter_groups(learner, 0.0), lr=3e-3)
    first = taught(learner, batch)[0].logs["taught"]
    for _ in range(20):
        optimizer.zero_grad()
        taught(learner, batch)[0].value.backward()
        optimizer.step()
    assert taught(learner, batch)[0].logs["taught"] < 0.5 * first


@torch.no_grad()
def test_padding_counts_zero():
    learner, batch = a_learner().eval(), a_batch()
    padded = replace(batch, real_B=torch.arange(8) < 6)
    torch.testing.assert_close(taught(learner, padded)[0].value, taught(learner, batch[:6])[0].value)


@torch.no_grad()
def test_a_teacher_of_larger_pictures_sees_them_enlarged():
    learner, batch = a_learner(image={"image_size": 32}).eval(), a_batch()
    seen = learner.teacher._seen(batch)
    assert seen.images_BCHW.shape == (8, 3, 32, 32) and 0 <= seen.images_BCHW.min() <= seen.images_BCHW.max() <= 1
    assert taught(learner, batch)[0].logs["taught"] > 0
    assert learner.teacher._seen(replace(batch, images_BCHW=batch.images_BCHW.repeat(1, 1, 2, 1))).images_BCHW.shape[2:] == (64, 32)


def test_a_segmenter_learns_from_another_one_with_finer_maps():
    frame = Frame(16, 16, 0, 0, 16, 16, 16, 16)
    segment = partial(Segment, classes=3)
    learner, batch = a_learner(head=segment, teacher=a_teaching(head=segment)).train(), a_batch()
    semantic = torch.randint(0, 3, (16, 16), generator=torch.Generator().manual_seed(4))
    batch = replace(batch, targets=[Target(frame=frame, semantic=semantic) for _ in range(8)])
    answers = learner._answers(batch)
    loss = learner._losses(answers, batch)["told"]
    assert loss.logs["taught"] > 0 and loss.terms["taught"].count == 8
    loss.value.backward()
    assert learner.towers.image.vit.patch_embed.proj.weight.grad.abs().max() > 0


def step(processes: int = 1, sharded: bool = False) -> dict[str, np.ndarray]:
    """Loss and gradients of a step on 8 pictures, unevenly labelled, of which each process has its share."""
    model, whole = a_learner().double().train(), a_batch()
    rank, size = (dist.get_rank() if processes > 1 else 0), 8 // processes
    if sharded:
        shard(model, torch.device("cpu"))
    batch = whole[rank * size : (rank + 1) * size]
    model.shares.begin([model._counts(batch)], 1, torch.device("cpu"))
    loss = model.training_step(batch, 0)
    loss.backward()
    found = {"loss": loss.detach()} | {name: full(weight.grad) for name, weight in model.named_parameters() if weight.grad is not None}
    if processes > 1:
        for name in ("loss",) if sharded else found:
            dist.all_reduce(found[name])
            found[name] /= processes
    return {name: value.numpy() for name, value in found.items()}


def both() -> list[dict[str, np.ndarray]]:
    return [step(2), step(2, sharded=True)]


def test_two_processes_and_shards_have_the_loss_and_gradients_of_one():
    one = step()
    for everybodys in on_pool(2, both):
        for found, tolerance in zip(everybodys, (1e-6, 2e-5), strict=True):  # heads judge in float32
            assert found.keys() == one.keys()
            for name, value in one.items():
                np.testing.assert_allclose(found[name], value, rtol=0, atol=tolerance, err_msg=name)


def test_weights_that_nobody_has_read_are_told_and_a_checkpoint_brings_them():
    with pytest.raises(ValueError, match="the weights of teacher runs/large are not read") as told_off:
        taught(a_learner(weights="runs/large"), a_batch())
    assert "\n" not in str(told_off.value)
    resumed = a_learner(weights="runs/large")
    resumed.load_state_dict(a_learner().state_dict())
    assert taught(resumed, a_batch())[0].value.isfinite()


@pytest.mark.parametrize(
    "make, message",
    [
        (Teaching, r"name one, as --model\.teacher\.weights RUN"),
        (partial(a_teaching, temperature=0.0), "temperature 0.0"),
        (partial(a_learner, head=partial(Classify, classes=["ring", "star", "sun"])), "has the classes ring, star, sun, its teacher ring,"),
        (partial(a_learner, head=partial(Classify, classes=4)), "has the classes 4, its teacher ring, star, cross"),
        (partial(a_learner, head=partial(Classify, classes=3, loss="binary")), "set its loss cross_entropy"),
        (partial(a_learner, head=partial(Segment, classes=3)), "teacher's head told is a Classify"),
        (partial(a_learner, image={"channels": 1, "mean": [0.5], "std": [0.5]}), "pictures of 1 channels, the student of 3"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as told_off:
        make()
    assert "\n" not in str(told_off.value)
