"""Promises of mae_vlm.objectives.masked_language."""

from __future__ import annotations

import pytest
import torch
from captioned import CAPTIONS, a_batch, towers
from torch.nn import functional

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.fusion.cross import CrossAttention
from mae_vlm.encoders.fusion.late import Late
from mae_vlm.objectives.masked_language import MaskedLanguage


def built(fusion=CrossAttention, **options):
    house = towers(fusion, **({"depth": 1, "heads": 2} if fusion is CrossAttention else {}))
    return house, MaskedLanguage(house, **{"share": 0.4} | options).double()


@pytest.mark.parametrize("picture", [True, False])
@pytest.mark.parametrize("captions", [CAPTIONS, [()] * 4, [("a ring",)]], ids=["some", "none", "one"])
def test_the_loss_is_the_mean_over_hidden_tokens_as_many_as_told_before(picture, captions):
    house, objective = built(picture=picture)
    features = Features(house, a_batch(captions))
    told = objective.counts(features)
    loss = objective.train()(features, features.batch)
    assert {name: float(one) for name, one in told.items()} == {name: float(term.count) for name, term in loss.terms.items()}
    masked = objective._masked(features)
    assert float(told["cross_entropy"]) == int(masked.hidden_BS.sum())
    text = features.read(masked.words)
    tokens_BTD = features.fuse(text).tokens_BTD if picture else text.tokens_BTD
    terms = [
        functional.cross_entropy(objective.head(tokens_BTD[row, place], house.text.word_table.weight), truth)
        for row in range(len(captions))
        for place, truth, hidden in zip(masked.slots_BS[row], masked.truth_BS[row], masked.hidden_BS[row], strict=True)
        if hidden
    ]
    wanted = torch.stack(terms).mean() if terms else torch.zeros((), dtype=torch.float64)
    assert torch.allclose(loss.value, wanted, rtol=0, atol=1e-12) and 0 <= loss.logs["accuracy"] <= 1
    loss.value.backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in objective.parameters())


def test_a_head_that_knows_the_words_is_right():
    """Its bias says one word: the accuracy is that word's share of the hidden ones."""
    house, objective = built(share=0.9)
    features = Features(house, a_batch([("a ring",), ("a red ring",)]))
    masked = objective._masked(features)
    truth = masked.truth_BS[masked.hidden_BS]
    with torch.no_grad():
        objective.head.bias[truth[0]] = 1e6
    loss = objective.train()(features, features.batch)
    assert float(loss.logs["accuracy"]) == pytest.approx(float((truth == truth[0]).float().mean())) and float(loss.logs["accuracy"]) > 0


def test_validation_holds_it_against_the_picture_of_another_pair():
    house, objective = built()
    features = Features(house, a_batch())
    loss = objective.eval()(features, features.batch)
    assert loss.terms["other_picture"].weight == 0 and set(loss.logs) == {"cross_entropy", "accuracy", "other_picture"}
    blind = built(picture=False)[1].eval()
    assert set(blind(features, features.batch).logs) == {"cross_entropy", "accuracy"}
    partners = []
    fuse = features.fuse
    features.fuse = lambda text, image=None, causal=False: partners.append(image) or fuse(text, image, causal)
    objective(features, features.batch)
    assert torch.equal(partners[1].tokens_BTD, features.seen.tokens_BTD[torch.arange(16) ^ 1])


def test_a_validation_batch_of_an_odd_number_or_of_one_picture_has_partners_too():
    house, objective = built()
    for count in (1, 3):
        features = Features(house, a_batch(CAPTIONS[:count]))
        assert objective.eval()(features, features.batch).value.isfinite()


def test_the_picture_counts_where_it_is_shown_and_not_where_it_is_not():
    for picture in (True, False):
        house, objective = built(picture=picture)
        losses = []
        for turn in (0, 1):
            batch = a_batch()
            batch.images_BCHW = batch.images_BCHW.roll(turn, 0)
            features = Features(house, batch)
            losses.append(objective.train()(features, batch).value)
        assert (losses[0] != losses[1]) == picture


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"share": 0.0}, "share 0.0 of hidden words given, allowed is a share between 0 and 1"),
        ({"share": 1.0}, "share 1.0 of hidden words given"),
        ({"fusion": Late}, "this fusion tower keeps no tokens, of which masked language needs each"),
    ],
)
def test_wrong_options_are_told_in_one_line(options, says):
    with pytest.raises(ValueError, match=says) as told:
        built(**options)
    assert "\n" not in str(told.value)


def test_a_picture_needs_a_fusion_tower_and_words_a_mask():
    with pytest.raises(ValueError, match="needs a fusion tower"):
        MaskedLanguage(towers())
    house = towers()
    house.text.vocabulary.mask = None
    with pytest.raises(ValueError, match="vocabulary has no mask token"):
        MaskedLanguage(house, picture=False)
