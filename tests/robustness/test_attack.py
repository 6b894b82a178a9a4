"""Promises of mae_vlm.robustness.attack."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from spoilt import labelled, learner

from mae_vlm.robustness.attack import at_rest, attacked, pgd, random_signs
from mae_vlm.robustness.family import unit

RADIUS = 4 / 255


@pytest.fixture(scope="module")
def trained():
    return learner(steps=40)


def loss_of(model, batch, images) -> float:
    head, seen = model.heads["classify"], replace(batch, images_BCHW=images)
    with at_rest(model), torch.no_grad():
        return head.loss(head(model.features(seen)), seen).value.item()


def test_it_raises_the_loss_more_than_noise_of_the_same_size(trained):
    batch = labelled(64, seed=99)
    images = unit(batch.images_BCHW)
    clean, noisy = loss_of(trained, batch, images), loss_of(trained, batch, random_signs(images, batch.keys_B, RADIUS))
    found = attacked(trained, trained.heads["classify"], batch, batch.keys_B, RADIUS)
    assert clean < 0.45, "it has learned"
    assert loss_of(trained, batch, found) - clean > 5 * abs(noisy - clean)
    larger = attacked(trained, trained.heads["classify"], batch, batch.keys_B, 2 * RADIUS)
    assert loss_of(trained, batch, larger) > loss_of(trained, batch, found)


def test_it_stays_within_the_radius_and_within_what_a_picture_can_be(trained):
    batch = labelled(8)
    batch.images_BCHW[:4] = 0
    batch.images_BCHW[4:6] = 255
    images = unit(batch.images_BCHW)
    found = attacked(trained, trained.heads["classify"], batch, batch.keys_B, RADIUS)
    assert (found - images).abs().max().item() <= RADIUS + 1e-6
    assert found.min().item() >= 0 and found.max().item() <= 1


def test_weights_modes_gradients_and_chance_are_afterwards_as_before(trained):
    trained.train()
    trained.towers.image.vit.blocks[0].eval()
    trained.heads["classify"].linear.bias.requires_grad_(False)
    for weight in trained.parameters():
        weight.grad = None
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    modes = [module.training for module in trained.modules()]
    learning = [weight.requires_grad for weight in trained.parameters()]
    chance = torch.random.get_rng_state()
    batch = labelled(8)
    found = attacked(trained, trained.heads["classify"], batch, batch.keys_B, RADIUS)
    assert all(torch.equal(before[name], value) for name, value in trained.state_dict().items())
    assert [module.training for module in trained.modules()] == modes
    assert [weight.requires_grad for weight in trained.parameters()] == learning
    assert all(weight.grad is None for weight in trained.parameters())
    assert torch.equal(torch.random.get_rng_state(), chance)
    again = attacked(trained.eval(), trained.heads["classify"], batch, batch.keys_B, RADIUS)
    assert torch.equal(found, again), "dropout has no part in it"


def test_it_climbs_a_straight_slope_to_the_edge():
    images, keys = torch.full((2, 1, 4, 4), 0.5), torch.tensor([1, 2])
    found = pgd(lambda here: here[:, :, :2].sum() - here[:, :, 2:].sum(), images, keys, 0.1)
    torch.testing.assert_close(found[:, :, :2], torch.full((2, 1, 2, 4), 0.6))
    torch.testing.assert_close(found[:, :, 2:], torch.full((2, 1, 2, 4), 0.4))


def test_the_control_changes_every_number_by_the_radius():
    images, keys = torch.full((2, 3, 8, 8), 0.5), torch.tensor([1, 2])
    change = random_signs(images, keys, 0.1) - images
    torch.testing.assert_close(change.abs(), torch.full_like(change, 0.1))
    assert abs(change.sign().mean().item()) < 0.15
