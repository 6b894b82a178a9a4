"""Promises of mae_vlm.objectives.distil."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mae_vlm.encoders.cnn import Cnn
from mae_vlm.encoders.vit import Vit
from mae_vlm.learners.optim import AdamW, parameter_groups
from mae_vlm.learners.pretrain import Pretrainer
from mae_vlm.objectives.distil import Distil
from mae_vlm.objectives.parts.teacher_tokens import on_grid, teacher_tokens
from mae_vlm.objectives.pixels import Pixels
from mae_vlm.tokens.masking import RandomMask
from mae_vlm.types import Batch, TokenSpace

DECODER = partial(Pixels, width=16, depth=1, heads=2)


def a_batch(count: int = 6) -> Batch:
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(images, torch.arange(count), torch.ones(count, dtype=torch.bool), torch.full((count,), -1))


def a_teacher(**options) -> Vit:
    torch.manual_seed(1)
    sizes = {"width": 48, "depth": 3, "heads": 4, "patch": 4, "image_size": 16, "mean": [0.2] * 3, "std": [0.4] * 3}
    return Vit(**sizes | options)


def a_learner(encoder=None, chunks=1, beside=None, student=None, **options) -> Pretrainer:
    teacher = a_teacher() if encoder is None else encoder
    torch.manual_seed(0)
    image = Vit(**{"width": 32, "depth": 2, "heads": 4, "patch": 4, "image_size": 16} | (student or {}))
    objectives = (beside or {}) | {"distil": partial(Distil, encoder=teacher, **options)}
    return Pretrainer(image, RandomMask(0.75), objectives, AdamW(), chunks=chunks)


def loss_of(learner: Pretrainer, batch: Batch):
    return learner.objectives["distil"](learner.features(batch), batch)


def whitened(tokens):
    return (tokens - tokens.mean(-1, keepdim=True)) / (tokens.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()


def as_the_teacher_sees(images, teacher):
    return (images / 255 - teacher.mean) / teacher.std


@torch.no_grad()
@pytest.mark.parametrize("loss", ["smooth_l1", "cosine"])
@pytest.mark.parametrize("view", ["full", "masked"])
def test_the_loss_is_that_between_projected_tokens_and_the_teachers_whitened_ones(loss, view):
    learner, batch = a_learner(loss=loss, view=view).eval(), a_batch()
    objective, features = learner.objectives["distil"], learner.features(batch)
    teacher, keep = objective.teacher, features.masking.keep_BK
    final = {}
    teacher.vit.norm.register_forward_hook(lambda module, given, found: final.update(before=given[0]))
    teacher.vit(as_the_teacher_sees(batch.images_BCHW, teacher))
    target = whitened(final["before"][:, 1:])
    seen = features.full if view == "full" else features.masked
    predicted = objective.project(seen.tokens_BTD[:, 1:])
    if view == "masked":
        target = torch.stack([target[picture, keep[picture]] for picture in range(6)])
    away = (predicted - target).abs()
    cosine = (predicted * target).sum(-1) / predicted.norm(dim=-1) / target.norm(dim=-1)
    expected = 1 - cosine.mean() if loss == "cosine" else torch.where(away < 2, away**2 / 4, away - 1).mean()
    found = objective(features, batch)
    torch.testing.assert_close(found.value, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.logs["cosine"], cosine.mean(), rtol=1e-5, atol=1e-6)
    assert set(found.logs) == {"smooth_l1" if loss == "smooth_l1" else "cosine_distance", "cosine", "other_picture"}


@torch.no_grad()
def test_of_several_blocks_the_mean_of_their_whitened_tokens_is_the_target():
    teacher, batch = a_teacher().eval(), a_batch()
    found, _ = teacher_tokens(teacher, batch.images_BCHW, teacher.space, (0, 2))
    _, tapped = teacher.vit.forward_intermediates(as_the_teacher_sees(batch.images_BCHW, teacher), norm=False, output_fmt="NLC")
    torch.testing.assert_close(found, whitened(whitened(tapped[0]) + whitened(tapped[2])), rtol=1e-4, atol=1e-4)
    last, _ = teacher_tokens(teacher, batch.images_BCHW, teacher.space)
    torch.testing.assert_close(teacher_tokens(teacher, batch.images_BCHW, teacher.space, (2,))[0], last)


@torch.no_grad()
def test_a_student_of_another_grid_gets_the_teachers_tokens_resampled():
    teacher, batch = a_teacher().eval(), a_batch()
    ramp = torch.arange(4.0).repeat_interleave(4)[:, None].expand(16, 48)  # rows 0 to 3
    coarse = on_grid(ramp[None].clone(), teacher.space, TokenSpace(16, 16, 8))
    assert coarse.shape == (1, 4, 48)
    above, below = coarse[0, :2], coarse[0, 2:]
    torch.testing.assert_close(above + below, torch.full_like(above, 3.0))
    assert 0 < above[0, 0] < 1 and torch.equal(above[0], above[1])
    assert teacher_tokens(teacher, batch.images_BCHW, TokenSpace(16, 16, 8))[0].shape == (6, 4, 48)
    assert teacher_tokens(teacher, batch.images_BCHW, TokenSpace(16, 16, 2))[0].shape == (6, 64, 48)


@torch.no_grad()
def test_a_teacher_of_larger_pictures_sees_them_enlarged():
    teacher, batch = a_teacher(image_size=32).eval(), a_batch()
    larger = functional.interpolate(as_the_teacher_sees(batch.images_BCHW, teacher), size=(32, 32), mode="bicubic", antialias=True)
    target = whitened(teacher.full(larger).unnormed_BND)  # 8 x 8 patches
    maps = target.transpose(1, 2).unflatten(2, (8, 8))
    expected = whitened(functional.interpolate(maps, size=(4, 4), mode="bilinear", antialias=True).flatten(2).transpose(1, 2))
    found, _ = teacher_tokens(teacher, batch.images_BCHW, TokenSpace(16, 16, 4))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_the_student_gets_every_gradient_and_the_teacher_none():
    learner, batch = a_learner(class_weight=0.5, hidden=24).train(), a_batch()
    objective = learner.objectives["distil"]
    before = {name: value.clone() for name, value in objective.teacher.state_dict().items()}
    optimizer = torch.optim.AdamW(parameter_groups(learner, 0.05), lr=0.1)
    learner.training_step(batch, 0).backward()
    lacking = [name for name, weight in learner.named_parameters() if weight.requires_grad == (weight.grad is None)]
    assert lacking == []
    assert not any(weight.requires_grad for weight in objective.teacher.parameters())
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in objective.teacher.state_dict().items())


def test_the_teacher_drops_nothing_while_the_student_trains():
    learner, batch = a_learner(a_teacher(drop_path=0.9)).train(), a_batch()
    assert learner.objectives["distil"].project.training and not any(
        part.training for part in learner.objectives["distil"].teacher.modules()
    )
    torch.testing.assert_close(loss_of(learner, batch).value, loss_of(learner, batch).value, rtol=0, atol=0)


def test_a_student_that_learns_comes_nearer_to_its_own_pictures_targets_than_to_others():
    colours = torch.rand(4, 3, 1, 1, generator=torch.Generator().manual_seed(3))
    images = (255 * colours).to(torch.uint8).expand(4, 3, 16, 16)
    learner, batch = a_learner().train(), replace(a_batch(4), images_BCHW=images)
    optimizer = torch.optim.AdamW(parameter_groups(learner, 0.0), lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        loss_of(learner, batch).value.backward()
        optimizer.step()
    learnt = loss_of(learner.eval(), batch).logs
    assert learnt["cosine"] > learnt["other_picture"] + 0.1, learnt


def test_padding_counts_zero():
    learner, batch = a_learner(class_weight=1.0).eval(), a_batch()
    padded = replace(batch, real_B=torch.tensor([True] * 4 + [False] * 2))
    part, alone = loss_of(learner, padded), loss_of(learner, batch[:4])
    torch.testing.assert_close(part.value, alone.value)
    for name, value in alone.logs.items():
        torch.testing.assert_close(part.logs[name], value)
    assert all(value == 0 for value in loss_of(learner, replace(batch, real_B=torch.zeros(6, dtype=torch.bool))).logs.values())


def test_beside_pixels_the_masked_pass_is_made_once(monkeypatch):
    learner, batch = a_learner(beside={"pixels": DECODER}, view="masked"), a_batch()
    seen, run = [], learner.towers.image.visible
    monkeypatch.setattr(learner.towers.image, "visible", lambda *parts: seen.append(1) or run(*parts))
    learner.training_step(batch, 0)
    assert len(seen) == 1 and learner.views == {"masked"}


def test_chunks_change_neither_loss_nor_gradient():
    found = []
    for chunks in (1, 3):
        learner = a_learner(chunks=chunks).double()
        loss = learner.training_step(a_batch(), 0)
        loss.backward()
        found.append((loss, {name: weight.grad for name, weight in learner.named_parameters() if weight.grad is not None}))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=1e-12)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], rtol=0, atol=1e-10, msg=name)


def test_a_cnn_teaches_too():
    torch.manual_seed(0)
    teacher = Cnn("resnet10t", image_size=32)
    learner = a_learner(teacher, student={"image_size": 32, "patch": 8})
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    loss = loss_of(learner.train(), replace(a_batch(2), images_BCHW=images))
    assert loss.value.isfinite() and loss.value > 0


@pytest.mark.parametrize("options", [{}, {"view": "masked"}, {"class_weight": 1.0, "hidden": 24}])
def test_it_states_the_operations_of_a_step_that_torch_counts(options):
    learner, batch = a_learner(**options), a_batch(2)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        learner.training_step(batch, 0).backward()
    assert learner.flops_per_image() == counter.get_total_flops() // 2


def test_weights_that_nobody_has_read_are_told_and_a_checkpoint_brings_them():
    told = partial(a_learner, teacher="runs/large")
    with pytest.raises(ValueError, match="weights of teacher runs/large are not read") as told_off:
        loss_of(told(), a_batch())
    assert "\n" not in str(told_off.value)
    resumed = told()
    resumed.load_state_dict(a_learner().state_dict())
    assert loss_of(resumed, a_batch()).value.isfinite()
    thin = {name: value for name, value in a_learner().state_dict().items() if ".teacher." not in name}
    lacking = told()
    lacking.load_state_dict(thin, strict=False)
    with pytest.raises(ValueError, match="are not read"):
        loss_of(lacking, a_batch())


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"encoder": a_teacher(channels=1, mean=[0.5], std=[0.5])},
            "teacher takes pictures of 1 channels, the student of 3; set",
        ),
        ({"view": "half"}, "view 'half'.*allowed are full or masked"),
        ({"loss": "l1"}, "loss 'l1'.*smooth_l1 or cosine"),
        ({"blocks": [3]}, r"blocks \[3\] of the teacher given, which has 0 to 2"),
        ({"blocks": []}, r"blocks \[\] of the teacher given"),
        ({"class_weight": 1.0, "student": {"class_tokens": 0}}, "do not both have a class token"),
        ({"weight": -1.0}, "weight -1.0"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as told_off:
        a_learner(**options)
    assert "\n" not in str(told_off.value)


def test_without_a_teacher_it_says_how_to_name_one():
    with pytest.raises(ValueError, match=r"name a trained run, as --model\.objectives\.distil\.teacher RUN"):
        Pretrainer(a_teacher(), RandomMask(0.75), {"distil": Distil}, AdamW())
