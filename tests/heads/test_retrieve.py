"""The head that retrieves: its loss, what it looks for, and a second look, on one process and on two."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import torch
import torch.distributed as dist
from captioned import CAPTIONS, a_batch, a_text, an_image, stirred, towers
from process_pool import on_pool

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.fusion.cross import CrossAttention
from mae_vlm.encoders.fusion.early import Early
from mae_vlm.heads.retrieve import Retrieve
from mae_vlm.learners.finetune import Finetuner
from mae_vlm.learners.optim import AdamW
from mae_vlm.objectives.image_text import SoftmaxContrast

FUSION = partial(CrossAttention, depth=1, heads=2)


def a_head(rerank=0, fusion=CrossAttention, **options):
    """Towers, a head of width 8, and the batch that they see."""
    more = {"depth": 1, "heads": 2} if fusion is CrossAttention else {}
    house = towers(fusion if rerank else None, **(more if rerank else {}))
    head = stirred(Retrieve(house, width=8, rerank=rerank, **options).double()).eval()
    stirred(house.joint.double())
    return house, head


def measured(house, head, batches):
    metrics = head.metrics()
    with torch.no_grad():
        for batch in batches:
            head.measure(metrics, head(Features(house, batch)), batch)
    return {name: value.item() for name, value in metrics.compute().items()}


def test_the_loss_is_that_of_the_objective():
    house, head = a_head()
    objective = SoftmaxContrast(house, width=8).double()
    head.log_scale.data.fill_(math.log(1 / 0.07))
    objective.log_scale.data.fill_(math.log(1 / 0.07))
    for training in (True, False):
        for one in (house, head, objective):
            one.train(training)
        batch = a_batch()
        ours = head.loss(head(Features(house, batch)), batch)
        theirs = objective(Features(house, batch), batch)
        assert ours.value.item() == pytest.approx(theirs.value.item(), rel=1e-12)
        assert ours.terms["contrast"].count.item() == theirs.terms["contrast"].count.item() == 8
    house.train(), head.train()
    assert head.counts(batch)["contrast"].item() == 8


def test_all_captions_of_all_pictures_are_looked_for_and_padding_counts_zero():
    house, head = a_head()
    whole = a_batch()
    padded = replace(whole, real_B=torch.tensor([True] * 8 + [False] * 8))
    answer = head(Features(house, whole))
    every = [text for some in CAPTIONS for text in some]
    assert len(answer["texts"]) == len(every)
    lone = head(Features(house, a_batch([("a ring",)])))
    assert torch.allclose(answer["texts"][every.index("a ring")], lone["texts"][0], atol=1e-9)
    first = measured(house, head, [whole[:8]])
    assert measured(house, head, [padded]) == first
    assert measured(house, head, [padded[:4], padded[4:8], padded[8:]]) == pytest.approx(first)
    assert first["text_to_image_median_rank"] >= 1 and 0 <= first["recall_mean"] <= 1


@pytest.mark.parametrize("rerank", [0, 3])
def test_a_batch_without_captions_gives_nothing_and_a_gradient_for_every_weight(rerank):
    house, head = a_head(rerank)
    house.train(), head.train()
    batch = a_batch([()] * 4)
    loss = head.loss(head(Features(house, batch)), batch)
    assert loss.value.item() == 0 and all(term.count.item() == 0 for term in loss.terms.values())
    loss.value.backward()
    used = [*head.named_parameters(), *house.joint.named_parameters(), *house.text.named_parameters()]
    used += [] if house.fusion is None else [*house.fusion.named_parameters()]
    assert not [name for name, weight in used if weight.grad is None]
    house.eval(), head.eval()
    assert measured(house, head, [batch])["recall_mean"] == 0
    assert head.pictures(head(Features(house, batch)), batch) == {}


@pytest.mark.parametrize("fusion", [CrossAttention, Early])
def test_a_second_look_gives_each_pair_the_logit_of_its_fused_feature(fusion):
    house, head = a_head(2, fusion)
    batch = a_batch()
    with torch.no_grad():
        features = Features(house, batch)
        answer = head(features)
        pictures = torch.tensor([3, 0, 7])
        rows = features.rows([("two green stars and a ring",), ("a red square",), ("a blue circle",)])
        fused = features.fuse(features.read(rows.words), features.seen.rows(pictures)).pooled_BD
        wanted = head.match(fused)[:, 1]
        index = torch.tensor([[text for some in CAPTIONS for text in some].index(one) for one in rows_texts(rows, house)])[0:3].flatten()
        words = answer["ids"][index], answer["lengths"][index]
        from mae_vlm.pairing.retrieval import Told

        found = answer.judge(answer["tokens"][pictures].half(), Told(*words))
    assert torch.allclose(found, wanted, atol=2e-2) and wanted.std() > 0.02


def rows_texts(rows, house):
    return [house.text.vocabulary.decode(ids.tolist()) for ids in rows.words.ids_BT]


def test_a_learned_second_look_changes_the_order_and_is_told_beside_the_first():
    house, head = a_head(5)
    with torch.no_grad():
        head.match.weight.mul_(50)
    found = measured(house, head, [a_batch()])
    plain = measured(house, a_head()[1], [a_batch()])
    assert "recall_mean_unranked" in found and "recall_mean_unranked" not in plain
    before = {**found}
    with torch.no_grad():
        head.match.weight.mul_(-1)
    assert measured(house, head, [a_batch()]) != before


def test_the_scale_stays_within_bounds():
    head = a_head()[1]
    for value, kept in ((9.0, math.log(100)), (-1.0, 0.0), (2.0, 2.0)):
        with torch.no_grad():
            head.log_scale.fill_(value)
        head.after_step()
        assert head.log_scale.item() == pytest.approx(kept)


def test_predictions_are_where_the_real_pictures_lie():
    house, head = a_head()
    batch = replace(a_batch(), real_B=torch.tensor([True] * 15 + [False]), captions=[])
    with torch.no_grad():
        said = head.predictions(head(Features(house, batch)), batch)
    assert len(said) == 15 and said[0].id == "picture 0"
    assert said[3].embedding.shape == (8,) and said[3].embedding.norm().item() == pytest.approx(1, abs=1e-5)


def test_pictures_tell_right_from_wrong():
    house, head = a_head()
    with torch.no_grad():
        sheet = head.pictures(head(Features(house, a_batch()[:4])), a_batch()[:4])["retrieved"]
    assert sheet.shape[0] == 3 and sheet.min() >= 0 and sheet.max() <= 1


def test_accumulation_and_wrong_options_are_refused():
    with pytest.raises(ValueError, match="leave it at 1"):
        learner(0).check_accumulation(2)
    learner(0).check_accumulation(1)
    with pytest.raises(ValueError, match="needs a fusion tower"):
        Retrieve(towers(), rerank=2)
    with pytest.raises(ValueError, match="rerank -1"):
        Retrieve(towers(), rerank=-1)
    assert Retrieve.looks({"rerank": 3}) == ("full", "text", "fused") and Retrieve.looks({}) == ("full", "text")


def learner(rerank):
    torch.manual_seed(0)
    heads = {"retrieve": partial(Retrieve, width=8, rerank=rerank)}
    return stirred(Finetuner(an_image(), heads, AdamW(base_lr=1e-3), a_text(), FUSION if rerank else None).double()).train()


def step(rerank: int) -> dict[str, np.ndarray]:
    """Loss and gradients of a step on all pictures, of which each process has its share."""
    processes, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    model, whole = learner(rerank), a_batch()
    size = len(whole) // processes
    batch = whole[rank * size : (rank + 1) * size]
    model.shares.begin([model._counts(batch)], 1, torch.device("cpu"))
    loss = model.training_step(batch, 0)
    loss.backward()
    found = {"loss": loss.detach()} | {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    if processes > 1:
        for value in found.values():
            dist.all_reduce(value)
            value /= processes
    return {name: value.numpy() for name, value in found.items()}


alone = cache(step)


@pytest.mark.parametrize("rerank", [0, 3])
def test_two_processes_take_the_step_of_one(rerank):
    for found in on_pool(2, step, rerank):
        assert found.keys() == alone(rerank).keys() and len(found) > 20
        for name, value in found.items():
            np.testing.assert_allclose(value, alone(rerank)[name], rtol=1e-8, atol=1e-10, err_msg=name)


def looked(rerank: int) -> dict[str, float]:
    """What validation finds in all pictures, of which each process has every second."""
    processes, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    house, head = a_head(rerank)
    whole = a_batch()
    mine = [whole[place : place + 2] for place in range(2 * rank, len(whole), 2 * processes)]
    return measured(house, head, mine)


@pytest.mark.parametrize("rerank", [0, 3])
def test_two_processes_find_what_one_finds(rerank):
    told = looked(rerank)
    for found in on_pool(2, looked, rerank):
        assert found == pytest.approx(told)
