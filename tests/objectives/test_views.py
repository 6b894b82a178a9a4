"""Promises of mae_vlm.objectives.views and of the teacher."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn import functional

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.vit import Vit
from mae_vlm.learners.optim import AdamW
from mae_vlm.learners.pretrain import Pretrainer
from mae_vlm.objectives.pixels import Pixels
from mae_vlm.objectives.views import Views
from mae_vlm.tokens.masking import RandomMask
from mae_vlm.types import Batch

PLAIN = partial(Views, strength=0.0, grey=0.0, width=8, hidden=16)
DECODER = partial(Pixels, width=16, depth=1, heads=2)


def a_batch(count: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images, second = (torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator) for _ in range(2))
    real = torch.ones(count, dtype=torch.bool)
    return Batch(images, torch.arange(count), real, torch.full((count,), -1), [f"{i}" for i in range(count)], second_BCHW=second)


def a_learner(teacher=None, chunks=1, **objectives) -> Pretrainer:
    torch.manual_seed(0)
    encoder = Vit(width=32, depth=2, heads=4, patch=4, image_size=16)
    return Pretrainer(encoder, RandomMask(0.75), objectives or {"views": PLAIN}, AdamW(), teacher=teacher, chunks=chunks)


def embeddings(learner: Pretrainer, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    views, features = learner.objectives["views"], learner.features(batch)
    return views._embedded(views.project, features), views._embedded(views.project, features.second(views.how))


def test_the_loss_is_simclrs_equation_1():
    learner, batch = a_learner(), a_batch()
    one, other = (found.detach() for found in embeddings(learner, batch))
    all_PE, count = torch.cat([one, other]), len(one)
    losses = []
    for i in range(2 * count):
        scores = (all_PE @ all_PE[i]) / 0.1
        rest = [k for k in range(2 * count) if k != i]
        losses.append(torch.logsumexp(scores[rest], 0) - scores[(i + count) % (2 * count)])
    loss = learner.objectives["views"](learner.features(batch), batch)
    torch.testing.assert_close(loss.value, torch.stack(losses).mean())
    assert set(loss.logs) == {"contrast", "accuracy"}


def test_views_of_the_same_picture_are_no_negatives():
    learner, batch = a_learner(), a_batch()
    twice = replace(batch, ids=["a", "a", "a", "a", "a", "a"])
    assert learner.objectives["views"](learner.features(twice), twice).value.item() == pytest.approx(0.0, abs=1e-6)


def test_padding_counts_zero():
    learner, batch = a_learner().eval(), a_batch()
    padded = replace(batch, real_B=torch.tensor([True] * 5 + [False]))
    whole = learner.objectives["views"](learner.features(batch), batch)
    part = learner.objectives["views"](learner.features(padded), padded)
    assert not torch.allclose(whole.value, part.value)


@pytest.mark.parametrize("view, passes", [("full", 2), ("masked", 2)])
def test_the_first_view_is_seen_once_by_all_objectives(view, passes, monkeypatch):
    learner, batch = a_learner(views=partial(PLAIN, view=view), again=partial(PLAIN, view=view)), a_batch()
    seen, name = [], "full" if view == "full" else "visible"
    run = getattr(learner.towers.image, name)
    monkeypatch.setattr(learner.towers.image, name, lambda *parts: seen.append(1) or run(*parts))
    learner.training_step(batch, 0)
    assert len(seen) == passes


def test_chunks_change_neither_loss_nor_gradient():
    found = []
    for chunks in (1, 3):
        learner = a_learner(chunks=chunks, pixels=DECODER, views=PLAIN).double()
        loss = learner.training_step(a_batch(), 0)
        loss.backward()
        found.append((loss, {name: p.grad for name, p in learner.named_parameters() if p.grad is not None}))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=1e-12)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], rtol=0, atol=1e-10, msg=name)


def test_the_queue_holds_the_teachers_newest_embeddings_in_turn():
    learner, batch = a_learner(teacher=0.9, views=partial(PLAIN, queue=8)), a_batch()
    views = learner.objectives["views"]
    before = views.kept_QE.clone()
    views(learner.features(batch), batch)
    teacher = learner.features(batch).teacher().second(views.how)
    expected = views._embedded(views.slow, teacher)
    views.after_step()
    torch.testing.assert_close(views.kept_QE[:6], expected)
    assert torch.equal(views.kept_QE[6:], before[6:]) and int(views.place) == 6
    views(learner.features(batch), batch)
    views.after_step()
    assert int(views.place) == 4 and not torch.equal(views.kept_QE[6:], before[6:])


def test_what_is_not_finite_never_enters_the_queue():
    learner, batch = a_learner(teacher=0.9, views=partial(PLAIN, queue=8)), a_batch()
    views = learner.objectives["views"]
    views(learner.features(batch), batch)
    views._fresh[1] = torch.nan
    fresh, before = views._fresh, views.kept_QE.clone()
    views.after_step()
    assert torch.equal(views.kept_QE[:5], fresh[[0, 2, 3, 4, 5]]) and torch.equal(views.kept_QE[5:], before[5:]) and int(views.place) == 5


def test_with_a_queue_a_view_is_held_against_its_own_other_one_and_the_queue():
    learner, batch = a_learner(teacher=0.9, views=partial(PLAIN, queue=8)), a_batch()
    views, features = learner.objectives["views"], learner.features(batch)
    one = views._embedded(views.project, features)
    other = views._embedded(views.slow, features.teacher().second(views.how))
    scores = torch.cat([(one * other).sum(1, keepdim=True), one @ views.kept_QE.T], 1) / 0.1
    loss = views(learner.features(batch), batch)
    torch.testing.assert_close(loss.value, functional.cross_entropy(scores, torch.zeros(6, dtype=torch.int64)))


def test_a_teacher_follows_its_towers_and_gets_no_gradient():
    learner, batch = a_learner(teacher=0.75, views=partial(PLAIN, queue=8)), a_batch()
    learner.train()
    assert learner.towers.training and not learner.teacher.training
    learner.training_step(batch, 0).backward()
    assert all(weight.grad is None for weight in learner.teacher.parameters())
    from mae_vlm.encoders.teacher import follow

    slow, fast = learner.teacher.image.vit.norm.weight, learner.towers.image.vit.norm.weight
    with torch.no_grad():
        fast.fill_(3.0)
    follow(learner.teacher, learner.towers, 0.75)
    torch.testing.assert_close(slow, torch.full_like(slow, 1.5))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"teacher": 0.9}, "model.teacher 0.9 given, but no objective looks at it"),
        ({"views": partial(PLAIN, queue=4)}, "model.teacher None given, but an objective learns from it"),
        ({"views": partial(PLAIN, temperature=0.0)}, "temperature 0.0"),
        ({"chunks": 0}, "chunks 0 given, allowed is 1 or more"),
    ],
)
def test_what_does_not_fit_is_told(options, message):
    with pytest.raises(ValueError, match=message):
        a_learner(**options)


def test_without_a_second_crop_it_says_so():
    learner, batch = a_learner(), replace(a_batch(), second_BCHW=None)
    with pytest.raises(AssertionError, match="the data delivers none"):
        learner.objectives["views"](Features(learner.towers, batch), batch)
