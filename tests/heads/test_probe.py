"""Promises of mae_vlm.heads.probe and what it is made of."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from one_step import first_gradients
from several_processes import on_processes
from torch import nn
from torch.nn import functional

from mae_vlm.data.split import name_hash
from mae_vlm.data.summary import Summary
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.heads.parts.frozen_norm import FrozenNorm
from mae_vlm.heads.parts.halves_knn import HalvesKnn
from mae_vlm.heads.parts.nearest import nearest_neighbours
from mae_vlm.heads.probe import Probe
from mae_vlm.learners.finetune import Finetuner
from mae_vlm.learners.lars import Lars
from mae_vlm.types import Batch

SIZES = {"width": 32, "depth": 2, "heads": 4, "patch": 8, "image_size": 16}


def a_probe(encoder: dict | None = None, **more) -> tuple[Towers, Probe]:
    torch.manual_seed(0)
    towers = Towers(Vit(**SIZES | (encoder or {})))
    towers.requires_grad_(False)
    return towers.eval(), Probe(towers, **{"classes": 7} | more)


def a_batch(labels, names=None) -> Batch:
    count = len(labels)
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ids = names or [f"picture {number}" for number in range(count)]
    return Batch(images, torch.arange(count), torch.ones(count, dtype=torch.bool), torch.tensor(labels), ids)


def names(held: bool, count: int) -> list[str]:
    found = (f"{number}.png" for number in range(10_000))
    return [name for name in found if (name_hash(name) % 10 == 0) == held][:count]


# -- features


@pytest.mark.parametrize("pooling, tokens", [("class_token", slice(0, 1)), ("mean", slice(1, None))])
@pytest.mark.parametrize("block", [None, 0, 1])
def test_features_are_the_tokens_named_after_the_block_named(pooling, tokens, block):
    towers, probe = a_probe(pooling=pooling, block=block)
    probe.norm = nn.Identity()
    features = Features(towers, a_batch([0, 1, 2]))
    vit = towers.image.vit
    seen = vit.forward_features(features.images_BCHW)
    if block is not None:
        seen = vit.norm_pre(vit._pos_embed(vit.patch_embed(features.images_BCHW)))
        for one in vit.blocks[: block + 1]:
            seen = one(seen)
    answer = probe(features)
    torch.testing.assert_close(answer["features"], seen[:, tokens].mean(dim=1))
    torch.testing.assert_close(answer["logits"], probe.layers[0].linear(answer["features"]))


def test_several_class_tokens_are_averaged_without_the_registers():
    towers, probe = a_probe({"class_tokens": 3, "registers": 2}, pooling="class_token")
    probe.norm = nn.Identity()
    features = Features(towers, a_batch([0, 1]))
    torch.testing.assert_close(probe(features)["features"], features.full.tokens_BTD[:, :3].mean(dim=1))


def test_attention_is_that_of_one_query_among_the_normalised_tokens():
    towers, probe = a_probe(pooling="attention")
    features = Features(towers, a_batch([0, 1, 2]))
    tokens_BND, pool = features.full.patches_BND, probe.layers[0].pool
    wide_BND = nn.BatchNorm1d(32, affine=False, eps=1e-6)(tokens_BND.flatten(0, 1)).view_as(tokens_BND)
    weight, bias = pool.attention.in_proj_weight.chunk(3), pool.attention.in_proj_bias.chunk(3)
    query, keys, values = (functional.linear(x, w, b) for x, w, b in zip((pool.query, wide_BND, wide_BND), weight, bias, strict=True))
    split = [part.view(len(part), -1, 4, 8).transpose(1, 2) for part in (query.expand(3, -1, -1), keys, values)]
    seen = functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(1)
    torch.testing.assert_close(probe(features)["logits"], probe.layers[0].linear(pool.attention.out_proj(seen)), rtol=1e-4, atol=1e-5)


def test_normalisation_is_batchnorm_without_weights_in_training_and_after():
    ours, theirs = FrozenNorm(5), nn.BatchNorm1d(5, affine=False, eps=1e-6)
    draw = torch.Generator().manual_seed(0)
    for _ in range(3):
        batch = 100 + 3 * torch.randn(6, 5, generator=draw)
        torch.testing.assert_close(ours(batch), theirs(batch))
    torch.testing.assert_close(ours.mean_F, theirs.running_mean)
    torch.testing.assert_close(ours.variance_F, theirs.running_var)
    torch.testing.assert_close(ours.eval()(batch), theirs.eval()(batch))
    assert ours.train()(batch[:1]).abs().max() == 0, "one picture alone is its own mean"


def test_an_encoder_that_learns_is_refused():
    towers, probe = a_probe()
    towers.requires_grad_(True)
    with pytest.raises(ValueError, match=r"this one learns; set model\.freeze all"):
        probe(Features(towers, a_batch([0, 1])))


# -- one layer, and several


@pytest.mark.parametrize("rates", [None, [0.1, 1.0, 10.0]])
def test_a_batch_without_labels_has_a_finite_loss_and_a_gradient_for_every_weight(rates):
    towers, probe = a_probe(rates=rates, pooling="attention")
    batch = a_batch([-1, -1])
    value = probe.loss(probe(Features(towers, batch)), batch).value
    value.backward()
    assert value == 0 and all(weight.grad is not None for weight in probe.parameters())


def test_one_layer_learns_from_all_pictures():
    towers, probe = a_probe()
    batch = a_batch([0, 1, 2, -1], [*names(True, 2), *names(False, 2)])
    answer = probe(Features(towers, batch))
    assert probe.counts(batch)["cross_entropy"] == 3
    torch.testing.assert_close(probe.loss(answer, batch).value, functional.cross_entropy(answer["logits"][:3], batch.labels_B[:3]))


def test_layers_side_by_side_learn_as_each_would_alone_at_its_own_rate():
    rates, steps = [0.1, 1.0, 10.0], 3
    batch = a_batch([0, 1, 2, 3], names(False, 4))

    def trained(rates):
        towers, probe = a_probe(rates=rates)
        for layer in probe.layers:
            nn.init.normal_(layer.linear.weight, std=0.01, generator=torch.Generator().manual_seed(1))
        optimizer, _ = Lars(base_lr=0.5, trust=None, warmup=0.0).build(probe, 256, 0)
        for _ in range(steps):
            optimizer.zero_grad()
            probe.loss(probe(Features(towers, batch)), batch).value.backward()
            optimizer.step()
        return [layer.linear.weight.detach() for layer in probe.layers]

    together, alone = trained(rates), [trained([rate])[0] for rate in rates]
    for ours, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_what_a_tenth_of_the_training_pictures_says_chooses_the_rate_and_teaches_nothing():
    towers, probe = a_probe(rates=[0.1, 1.0, 10.0])
    held, others = names(True, 3), names(False, 5)
    batch = a_batch([0, 1, 2, 3, 4, 5, 6, -1], held + others)
    features = Features(towers, batch)
    assert probe.counts(batch)["cross_entropy"] == 4
    answer = probe(features)
    learned = probe.loss(answer, batch).terms["cross_entropy"]
    torch.testing.assert_close(learned.mean(), _mean_error(answer["all"][3:7], batch.labels_B[3:7]))
    inputs_BD = answer["features"][:3]
    with torch.no_grad():  # the last layer now names the held-out pictures; whatever it says of the others
        probe.layers[2].linear.weight[:3] = inputs_BD - inputs_BD.mean(0)
        probe.layers[0].linear.weight[:3] = inputs_BD.mean(0) - inputs_BD
    probe.tally.zero_()
    probe.loss(probe(Features(towers, batch)), batch)
    assert probe.tally[2] == probe.tally[3] == 3 > probe.tally[0]
    answer = probe.eval()(Features(towers, batch))
    assert torch.equal(answer["logits"], answer["all"][:, 2])
    expected = functional.cross_entropy(answer["logits"][:7], batch.labels_B[:7])
    torch.testing.assert_close(probe.loss(answer, batch).value, expected)
    assert probe.counts(batch)["cross_entropy"] == 7, "outside of training every picture counts"


def _mean_error(logits_BRL, labels_B):
    return torch.stack([functional.cross_entropy(logits_BRL[:, layer], labels_B) for layer in range(logits_BRL.shape[1])]).mean()


def test_what_was_right_long_ago_is_forgotten():
    towers, probe = a_probe(rates=[1.0, 2.0])
    batch = a_batch([0, 1], names(True, 2))
    answer = probe(Features(towers, batch))
    probe.tally.copy_(torch.tensor([1000.0, 0.0, 1000.0]))
    probe.progress = 0.5
    probe.loss(answer, batch)
    assert probe.tally[2].item() == pytest.approx(1000 * np.exp(-5) + 2, rel=1e-4) and probe.counted_at == 0.5


def test_what_validation_measures():
    towers, probe = a_probe(rates=[0.5, 2.0])
    probe.eval().tally.copy_(torch.tensor([1.0, 3.0, 4.0]))
    batch = a_batch([0, 1, 2, 3, -1, 5])
    batch.real_B[5] = False
    metrics, answer = probe.metrics(), probe(Features(towers, batch))
    probe.measure(metrics, answer, batch)
    found = metrics.compute()
    assert found["rate"] == 2.0 and found["held_top1"] == 0.75
    assert found["top1"] == (answer["all"][:4, 1].argmax(1) == batch.labels_B[:4]).float().mean()
    assert 0 <= found["knn"] <= 1 and probe.best == ("top1", True)
    assert "knn" not in a_probe(knn=False)[1].metrics() and "rate" not in a_probe()[1].metrics()
    torch.testing.assert_close(probe.predictions(answer, batch)[1].scores, answer["logits"][1].softmax(0))


def test_neighbours_of_each_half_are_looked_for_in_the_other():
    draw = torch.Generator().manual_seed(0)
    features_BF, labels_B = torch.randn(20, 8, generator=draw), torch.randint(0, 3, (20,), generator=draw)
    half_B = torch.arange(20) % 2
    metric = HalvesKnn()
    metric.update(torch.cat([features_BF[:9], torch.ones(1, 8)]), torch.cat([labels_B[:9], torch.tensor([-1])]), half_B[:10])
    metric.update(features_BF[9:], labels_B[9:], half_B[9:])
    even, odd = half_B == 0, half_B == 1
    there = nearest_neighbours(features_BF[even], labels_B[even], features_BF[odd], labels_B[odd])
    back = nearest_neighbours(features_BF[odd], labels_B[odd], features_BF[even], labels_B[even])
    assert metric.compute().item() == pytest.approx((there + back) / 2)
    metric.reset()
    metric.update(features_BF[even], labels_B[even], half_B[even])
    assert metric.compute().isnan()


@pytest.mark.parametrize(
    "options, told",
    [
        ({"classes": None}, "a probe needs two or more"),
        ({"block": 2}, "block 2 given, the encoder's blocks are numbered 0 to 1"),
        ({"pooling": "max"}, "pooling 'max' given, allowed are mean, class_token, attention"),
        ({"rates": [0.1, 0.1]}, "rates .* each more than 0 and given once"),
        ({"rates": []}, "rates .* each more than 0 and given once"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        a_probe(**options)


def test_pictures_of_several_classes_are_refused():
    summary = Summary("pictures", "list", 10, 5, 0, 16, 16, 3, ["a", "b"], "", several=True)
    with pytest.raises(ValueError, match="have several classes each, a probe learns one; take Classify with loss binary"):
        a_probe(classes=["a", "b"])[1].check(summary)


def test_a_class_token_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="the encoder has no class token"):
        a_probe({"class_tokens": 0}, pooling="class_token")


# -- several processes


def a_step(processes: int) -> dict[str, np.ndarray]:
    """Gradients of the first step of 32 scenes, and what the head keeps of it."""
    torch.manual_seed(0)
    head = partial(Probe, classes=7, rates=[0.1, 1.0])
    learner = Finetuner(Vit(**SIZES | {"image_size": 32}), {"probe": head}, Lars(), freeze="all")
    found = first_gradients(learner, 32, processes, 1)
    return found | {name: value.numpy() for name, value in learner.heads["probe"].state_dict().items() if "layers" not in name}


def of_a_torchrun(rank: int) -> dict[str, str]:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0, "OMP_NUM_THREADS": 1}
    return {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"}


def test_two_processes_normalise_learn_and_choose_as_one():
    one = a_step(1)
    assert one["tally"][-1] > 0 and np.abs(one["heads.probe.layers.0.linear.weight"]).max() > 1e-4
    for rank in on_processes(2, a_step, 2, env=of_a_torchrun):
        assert rank.keys() == one.keys()
        for name, value in one.items():
            np.testing.assert_allclose(rank[name], value, rtol=0, atol=1e-5, err_msg=name)
