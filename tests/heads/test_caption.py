"""Promises of mae_vlm.heads.caption, mae_vlm.objectives.caption and what they share."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from captioned import CAPTIONS, a_batch, an_image, stirred, towers
from torch.nn import functional

from mae_vlm.data.summary import Summary
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.fusion.cross import CrossAttention
from mae_vlm.encoders.fusion.early import Early
from mae_vlm.encoders.fusion.late import Late
from mae_vlm.encoders.towers import Towers
from mae_vlm.heads.caption import Caption
from mae_vlm.objectives.caption import Caption as Objective
from mae_vlm.pairing.captioning import begun


def a_house(**text):
    return towers(partial(CrossAttention, depth=2, heads=2), text=text)


def a_head(house=None, **options):
    house = house or a_house()
    return house, stirred(Caption(house, **options).double())


def told(house, head, batch):
    house.train(head.training)
    return head(Features(house, batch))


def test_the_loss_is_the_smoothed_cross_entropy_of_the_next_tokens_and_plain_in_validation():
    house, head = a_head()
    batch = a_batch(CAPTIONS[:4])
    for training, smoothing in ((True, 0.1), (False, 0.0)):
        answer = told(house, head.train(training), batch)
        words = Features(house, batch).words
        truth_BS = words.ids_BT[:, 1:].masked_fill(~(words.real_BT[:, 1:] & words.has_B[:, None]), -100)
        expected = functional.cross_entropy(answer["logits"].flatten(0, 1), truth_BS.flatten(), label_smoothing=smoothing)
        torch.testing.assert_close(head.loss(answer, batch).value, expected)
        assert head.counts(batch)["cross_entropy"] == (truth_BS >= 0).sum()


@pytest.mark.parametrize("fusion", [partial(CrossAttention, depth=2, heads=2), Early], ids=["cross", "early"])
def test_no_word_is_told_from_itself_or_those_after_it(fusion):
    house = towers(fusion, text={"depth": 2})
    _, head = a_head(house)
    batch = a_batch([("a large green triangle below a small yellow star",)])
    head.eval(), house.eval()
    features, one = Features(house, batch), head.captioning.told(["a large green triangle below a small yellow star"], torch.device("cpu"))
    logits_SV = head.captioning(features, one)[0]
    for place in (3, 6):
        other = replace(one.words, ids_BT=one.words.ids_BT.clone())
        other.ids_BT[0, place:-1] = (other.ids_BT[0, place:-1] + 7) % len(head.captioning.vocabulary)
        found_SV = head.captioning(features, replace(one, words=other))[0]
        assert torch.equal(found_SV[:place], logits_SV[:place]), "what is told of a token depends on those before it alone"
        assert not torch.allclose(found_SV[place], logits_SV[place], atol=1e-4)


def test_a_prompt_is_given_and_counts_nothing():
    house, plain = a_head()
    _, head = a_head(house, prompt="a picture of")
    batch = a_batch([("a red square",), ()])
    one, without = head._told(batch), plain._told(batch)
    prompt = len(head.captioning.vocabulary.encode(["a picture of"], 24).real_BT[0].nonzero()) - 2
    assert head.captioning.begins == prompt + 1 and prompt >= 3
    assert one.counts_BS.sum() == without.counts_BS.sum()
    assert one.truth_BS[one.counts_BS].tolist() == without.truth_BS[without.counts_BS].tolist()
    answer = told(house, head.eval(), batch)
    start = head.captioning.vocabulary.encode(["a picture of"], 24).ids_BT[0, : prompt + 1].tolist()
    assert answer["said"][:, : prompt + 1].tolist() == [start] * 2
    assert "picture" not in head.predictions(answer, batch)[0].said[0].text or prompt == 0


@pytest.mark.parametrize("captions", [[()] * 3, []], ids=["none", "no list"])
@pytest.mark.parametrize("training", [True, False])
def test_without_any_caption_all_is_finite_and_every_weight_has_a_gradient(captions, training):
    house, head = a_head()
    batch = replace(a_batch([()] * 3), captions=captions)
    loss = head.loss(told(house, head.train(training), batch), batch)
    loss.value.backward()
    weights = [*head.parameters(), *(weight for weight in house.parameters() if weight.requires_grad)]
    assert loss.value == 0 and all(weight.grad is not None and weight.grad.isfinite().all() for weight in weights)
    assert head.counts(batch)["cross_entropy"] == 0


def test_captions_are_said_for_every_real_picture_and_measured_with_all_that_is_written():
    house, head = a_head(shortest=2, longest=6)
    batch, metrics = a_batch(CAPTIONS[:4]), head.metrics()
    batch.real_B[2] = False
    answer = told(house, head.eval(), batch)
    found = head.predictions(answer, batch)
    assert [one.id for one in found] == ["picture 0", "picture 1", "picture 3"]
    assert all(len(one.said) == 1 and one.said[0].text and 0 < one.said[0].score < 1 for one in found)
    head.measure(metrics, answer, batch)
    with pytest.warns(UserWarning, match="CIDEr of 2 pictures"):
        assert metrics.compute().keys() == {"cider", "bleu4", "rouge_l"}


def test_what_is_said_is_the_same_alone_and_in_a_batch_and_never_longer_than_the_text_tower():
    house, head = a_head(longest=500, shortest=0)
    head.eval()
    batch = a_batch(CAPTIONS[:4])
    together = head._texts(told(house, head, batch))
    alone = [head._texts(told(house, head, batch[row : row + 1]))[0] for row in range(4)]
    assert together == alone
    assert told(house, head, batch)["said"].shape[1] <= 24
    _, long = a_head(house, longest=500, shortest=22)
    assert told(house, long.eval(), batch)["said"].shape[1] == 24


def test_a_step_of_the_search_is_what_training_sees():
    """The tokens said, read as a caption, have the log-probabilities that the search gave them."""
    house, head = a_head(longest=6, beams=2, shortest=1)
    head.eval()
    batch = a_batch([()] * 2)
    answer = told(house, head, batch)
    for row in range(2):
        ids = answer["said"][row].tolist()
        ids = ids[: ids.index(head.beams.end) + 1]
        words = begun(torch.tensor([ids]))
        features = Features(house, batch[row : row + 1])
        log_SV = head.captioning.after(features, words, features.seen)[0, :-1].log_softmax(-1)
        mean = log_SV.gather(1, torch.tensor(ids[1:])[:, None]).mean()
        assert answer["score"][row].item() == pytest.approx(mean.exp().item(), rel=1e-4)


def test_the_blind_twin_says_the_same_of_every_picture():
    house, head = a_head(picture=False)
    batch = a_batch([("a ring",)] * 4)
    answer = told(house, head.eval(), batch)
    assert torch.equal(answer["logits"], answer["logits"][:1].expand_as(answer["logits"]))
    assert len({one.said for one in head.predictions(answer, batch)}) == 1
    head.train().loss(told(house, head, batch), batch).value.backward()
    assert all(weight.grad is not None for weight in house.parameters() if weight.requires_grad)


def test_pictures_show_what_is_said_and_what_is_written():
    house, head = a_head()
    sheet = head.pictures(told(house, head.eval(), a_batch(CAPTIONS[:3])), a_batch(CAPTIONS[:3]))["captions"]
    assert sheet.shape[0] == 3 and sheet.min() >= 0 and sheet.max() == 1


def test_the_objective_has_the_same_loss_and_weighs_two():
    house, head = a_head()
    objective = Objective(house).double()
    objective.captioning.load_state_dict(head.captioning.state_dict())
    batch = a_batch()
    house.train()
    features = Features(house, batch)
    torch.testing.assert_close(objective.train()(features, batch).value, head.train().loss(head(features), batch).value)
    assert {name: int(count) for name, count in objective.counts(features).items()} == {
        name: int(count) for name, count in head.counts(batch).items()
    }
    assert objective.weight == 2.0


@pytest.mark.parametrize(
    "options, told",
    [
        ({"beams": 0}, "beams 0, shortest 5 given"),
        ({"shortest": 30}, "a shortest from 0 to 22"),
        ({"smoothing": 1.0}, "smoothing 1.0 given"),
        ({"prompt": "a red square " * 20}, "leaves no room for a caption in the 24 tokens"),
    ],
    ids=str,
)
def test_a_mistake_is_told(options, told):
    with pytest.raises(ValueError, match=told):
        a_head(**options)


def test_towers_and_data_that_are_missing_are_told():
    with pytest.raises(ValueError, match="needs a text tower"):
        Caption(Towers(an_image()))
    with pytest.raises(ValueError, match="needs a fusion tower"):
        Caption(towers())
    with pytest.raises(ValueError, match="cannot keep a word from seeing those after it"):
        Caption(towers(Late))
    summary = Summary("pictures", "list", 10, 5, 0, 16, 16, 3, classes=None, split="", known=frozenset())
    with pytest.raises(ValueError, match=r"pictures has no captions; name data\.caption_column"):
        a_head()[1].check(summary)
