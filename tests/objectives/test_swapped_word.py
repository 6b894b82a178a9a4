"""Promises of mae_vlm.objectives.swapped_word, swapped_contrast and mae_vlm.pairing.swapped. Letters as there."""

from __future__ import annotations

import math
from functools import cache, partial

import numpy as np
import pytest
import torch
import word_steps
from captioned import CAPTIONS, a_batch, towers
from process_pool import on_pool

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.fusion.cross import CrossAttention
from mae_vlm.objectives.swapped_contrast import SwappedContrast
from mae_vlm.objectives.swapped_word import SwappedWord
from mae_vlm.pairing.matched import Longest
from mae_vlm.pairing.swapped import swapped, told_wrong
from mae_vlm.tokens.words import learn

SAID = ["a red ring on the left", "a blue ring on the left", "a blue star on the right", "a green star on the right", "nothing like it"]
VOCABULARY = learn(SAID, 200)
LONGEST = Longest(16, VOCABULARY.pad)


def said(texts, key: int = 0) -> tuple[list[str], list[bool]]:
    keys_B = torch.arange(key, key + len(texts))
    found = swapped(VOCABULARY.encode(texts, 16), keys_B, LONGEST)
    return [VOCABULARY.decode(ids) for ids in found.words.ids_BT.tolist()], found.there_B.tolist()


def differing(one: str, other: str) -> list[tuple[str, str]]:
    return [pair for pair in zip(one.split(), other.split(), strict=True) if pair[0] != pair[1]]


def test_one_word_becomes_another_that_stands_between_the_same_two():
    seen = set()
    for key in range(0, 2000, 8):
        texts, there = said([*SAID, None], key)
        assert there == [True] * 4 + [False] * 2 and texts[4:] == [SAID[4], ""]
        for before, after in zip(SAID[:4], texts, strict=False):
            (change,) = differing(before, after)
            seen.add(change)
    colours = {("red", "blue"), ("blue", "red"), ("blue", "green"), ("green", "blue")}  # before a ring, before a star
    assert seen == colours | {("ring", "star"), ("star", "ring"), ("left", "right"), ("right", "left")}


def test_every_other_word_is_as_likely():
    texts = [f"a {colour} ring" for colour in ("red", "blue", "green")]
    drawn = said(texts * 2000)[0][::3]
    assert {*drawn} == set(texts[1:]) and abs(drawn.count(texts[1]) - 1000) < 100


def test_what_is_drawn_depends_on_the_key_and_not_on_the_padding():
    one, other = VOCABULARY.encode(SAID, 16), VOCABULARY.encode(SAID, 16).padded(14, VOCABULARY.pad)
    keys_B = torch.arange(5)
    left, right = swapped(one, keys_B, LONGEST), swapped(other, keys_B, LONGEST)
    width = min(one.ids_BT.shape[1], 14)
    assert torch.equal(left.words.ids_BT[:, :width], right.words.ids_BT[:, :width]) and torch.equal(left.there_B, right.there_B)
    assert any(said(SAID, key)[0] != said(SAID)[0] for key in range(100, 110))


@pytest.mark.parametrize("kind", [SwappedWord, SwappedContrast])
@pytest.mark.parametrize("captions", [CAPTIONS, [("a ring",)], [()] * 3, [("a ring",), ("a square",), ()]], ids=str)
def test_any_batch_has_a_finite_loss_of_as_many_items_as_were_told_before(captions, kind):
    house = towers(CrossAttention, depth=1, heads=2).train()
    objective = kind(house).double()
    house.double()
    features = Features(house, a_batch(captions))
    told = objective.counts(features)
    loss = objective(features, features.batch)
    assert {name: float(one) for name, one in told.items()} == {name: float(term.count) for name, term in loss.terms.items()}
    assert loss.value.isfinite() and 0 <= loss.logs["accuracy"] <= 1
    loss.value.backward()
    trained = [*objective.parameters(), *(house.joint.parameters() if house.joint else ())]
    assert trained and all(weight.grad is not None and weight.grad.isfinite().all() for weight in trained)


def test_the_loss_is_the_cross_entropy_over_right_pairs_and_swapped_ones():
    house = towers(CrossAttention, depth=1, heads=2)
    objective = SwappedWord(house).double().eval()
    features = Features(house, a_batch())
    wrong = told_wrong(features, objective.longest)
    terms = []
    for row in wrong.there_B.nonzero()[:, 0]:
        for words, right in ((features.words, 1), (wrong.words, 0)):
            scores = objective.head(features.fuse(features.read(words.rows(row[None])), features.seen.rows(row[None])).pooled_BD)[0]
            terms.append(torch.logsumexp(scores, 0) - scores[right])
    assert len(terms) >= 4
    assert torch.allclose(objective(features, features.batch).value, torch.stack(terms).mean(), rtol=0, atol=1e-12)


def test_the_contrast_is_that_of_two_captions_by_their_similarity():
    house = towers()
    objective = SwappedContrast(house, width=8, scale=5.0)
    house.double()
    features = Features(house, a_batch())
    wrong = told_wrong(features, objective.longest)
    image_BE, text_BE = (part.detach() for part in features.embedded)
    wrong_BE = house.joint.of_text(features.read(wrong.words)).detach()
    terms = []
    for row in wrong.there_B.nonzero()[:, 0].tolist():
        right, other = (math.exp(5 * float(image_BE[row] @ text[row])) for text in (text_BE, wrong_BE))
        terms.append(-math.log(right / (right + other)))
    assert len(terms) >= 2
    assert float(objective(features, features.batch).value) == pytest.approx(sum(terms) / len(terms), abs=1e-12)


KINDS = {"swapped word": SwappedWord, "swapped contrast": partial(SwappedContrast, width=8)}


def a_step(name: str, chunks: int) -> dict[str, np.ndarray]:
    """A step of either on this process's share of a batch."""
    word_steps.OBJECTIVES.update(KINDS)
    word_steps.FUSED = (*word_steps.FUSED, "swapped word")
    return word_steps.step((name,), chunks)


alone = cache(lambda name: a_step(name, 1))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("processes", "chunks"), [(1, 4), (2, 1), (4, 1)])
def test_processes_and_parts_change_no_loss_and_no_gradient(name, processes, chunks):
    for found in on_pool(processes, a_step, name, chunks) if processes > 1 else [a_step(name, chunks)]:
        assert found.keys() == alone(name).keys() and found["loss"] > 0.05
        for part, value in alone(name).items():
            np.testing.assert_allclose(found[part], value, rtol=0, atol=1e-10, err_msg=part)


def test_it_tells_what_it_lacks():
    with pytest.raises(ValueError, match="needs a fusion tower"):
        SwappedWord(towers())
    with pytest.raises(ValueError, match=r"scale 0\.0 given, allowed is more than 0"):
        SwappedContrast(towers(), scale=0.0)
