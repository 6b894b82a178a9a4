"""Promises of mae_vlm.objectives.matching. Letters as there."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from captioned import CAPTIONS, a_batch, towers

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.fusion.cross import CrossAttention
from mae_vlm.encoders.fusion.early import Early
from mae_vlm.encoders.joint import Embedded
from mae_vlm.encoders.towers import Towers
from mae_vlm.objectives.matching import Matching
from mae_vlm.pairing.matched import _drawn, _negatives
from mae_vlm.pairing.pairs import pairs


def house(fusion=CrossAttention, joined: bool = True, **options) -> Towers:
    found = towers(fusion, **({"depth": 1, "heads": 2} if fusion is CrossAttention else {}), **options)
    if joined:
        found.join(8, "full", "first")
        found.joint.double()
    return found


def with_keys(batch, start: int):
    return replace(batch, keys_B=torch.arange(start, start + len(batch)))


def test_negatives_are_never_of_the_same_picture_words_or_without_a_caption():
    towers_, ids = house(joined=False).train(), [f"picture {number // 2}" for number in range(16)]  # each picture is there twice
    seen = set()
    for start in range(0, 3200, 16):
        features = Features(towers_, replace(with_keys(a_batch(), start), ids=ids))
        for found in _negatives(features, pairs(features), scale=0.0):
            for own, other in enumerate(found.index_B.tolist()):
                if found.there_B[own]:
                    assert features.texts[own] and features.texts[other]
                    assert ids[own] != ids[other] and features.texts[own] != features.texts[other]
                    seen.add((own, other))
                else:
                    assert not features.texts[own]
    has = [number for number, captions in enumerate(CAPTIONS) if captions]
    assert {own for own, _ in seen} == set(has) and len(seen) > 40


def test_negatives_are_drawn_in_proportion_to_the_softmax_of_their_nearness():
    near = torch.tensor([[0.0, 1.0, 2.0, 0.5]], dtype=torch.float64).expand(40_000, -1)
    wrong = torch.tensor([[True, True, True, False]]).expand(40_000, -1)
    drawn = _drawn(near, wrong, torch.arange(40_000), 31)
    share = torch.bincount(drawn.index_B, minlength=4) / 40_000
    wanted = torch.cat([near[0, :3].softmax(0), torch.zeros(1)])
    assert drawn.there_B.all() and (share - wanted).abs().max() < 0.01 and share[3] == 0


def test_extreme_similarities_break_nothing():
    for value in (1e4, -1e4, 0.0):
        near = torch.full((3, 3), value)
        drawn = _drawn(near, ~torch.eye(3, dtype=torch.bool), torch.arange(3), 31)
        assert drawn.there_B.all() and (drawn.index_B != torch.arange(3)).all()


def test_half_precision_draws_the_same_ones():
    """Chance in bfloat16 is 1 in one of 500 cases, which would beat any similarity: of many pairs none would be drawn for its own."""
    towers_ = house()
    features = Features(towers_, a_batch([(f"{number} a red square",) for number in range(64)]))
    features.embedded  # noqa: B018  # seen alike by both
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mae_vlm.pairing.matched._drawn", lambda near_BA, *more: (seen.append(near_BA), _drawn(near_BA, *more))[1])
        for half in (False, True):
            features.__dict__["embedded"] = Embedded(*(part.float() for part in features.embedded))
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                _negatives(features, pairs(features), scale=100.0)
    assert seen[2].dtype == torch.float32 and torch.equal(seen[0], seen[2]) and torch.equal(seen[1], seen[3])


def test_harder_ones_are_drawn_more_where_an_objective_trains_the_similarity():
    towers_ = house()
    captions = [(f"a {colour} {shape}",) for colour in ("red", "blue") for shape in ("square", "ring", "circle", "star")]
    features = Features(towers_, a_batch(captions))
    texts, images = _negatives(features, pairs(features), scale=1e6)
    image_BE, text_BE = features.embedded
    other = (image_BE @ text_BE.T).masked_fill(torch.eye(8, dtype=torch.bool), -math.inf)
    assert torch.equal(texts.index_B, other.argmax(1))
    other = (text_BE @ image_BE.T).masked_fill(torch.eye(8, dtype=torch.bool), -math.inf)
    assert torch.equal(images.index_B, other.argmax(1))
    plain = house(joined=False)
    others = [Features(plain, with_keys(a_batch(captions), start)) for start in (0, 50)]
    by_chance = [_negatives(one, pairs(one), scale=1000.0)[0].index_B for one in others]
    assert not torch.equal(*by_chance)


def test_the_similarity_is_not_trained_by_it():
    towers_ = house().train()
    objective = Matching(towers_).double()
    features = Features(towers_, a_batch())
    objective(features, features.batch).value.backward()
    assert all(weight.grad is None for weight in towers_.joint.parameters())


def test_the_loss_is_the_cross_entropy_over_right_pairs_and_one_wrong_of_each_kind():
    """Written out: each pair through the fusion tower by itself."""
    towers_ = house()
    objective = Matching(towers_).double().eval()
    features = Features(towers_, a_batch())
    texts, images = _negatives(features, pairs(features), objective.scale)
    terms = []
    for own in range(16):
        if features.texts[own]:
            of_own, row = features.text.rows(torch.tensor([own])), torch.tensor([own])
            for text, image, right in (
                (of_own, row, 1),
                (features.text.rows(texts.index_B[own][None]), row, 0),
                (of_own, images.index_B[own][None], 0),
            ):
                scores = objective.head(features.fuse(text, features.seen.rows(image)).pooled_BD)[0]
                terms.append(torch.logsumexp(scores, 0) - scores[right])
    loss = objective(features, features.batch)
    assert len(terms) == 3 * 8 == int(loss.terms["cross_entropy"].count)
    assert torch.allclose(loss.value, torch.stack(terms).mean(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("captions", "count"),
    [
        (CAPTIONS, 24),
        ([("a ring",)], 1),
        ([("a ring",)] * 5, 5),
        ([()] * 3, 0),
        ([("a ring",), (), ("a red square",)], 6),
        ([("a ring",), ()], 1),
    ],
    ids=["many", "one", "equal", "none", "two", "one of two"],
)
@pytest.mark.parametrize("fusion", [CrossAttention, Early])
def test_any_batch_has_a_finite_loss_of_as_many_items_as_were_told_before(captions, count, fusion):
    towers_ = house(fusion).train()
    objective = Matching(towers_).double()
    features = Features(towers_, a_batch(captions))
    told = objective.counts(features)
    loss = objective(features, features.batch)
    assert {name: float(one) for name, one in told.items()} == {name: float(term.count) for name, term in loss.terms.items()}
    assert float(told["cross_entropy"]) == count and loss.value.isfinite() and 0 <= loss.logs["accuracy"] <= 1
    loss.value.backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in objective.parameters())
    assert (objective.head.weight.grad != 0).any() == (count > 0)


def test_only_passes_that_run_are_stated():
    assert Matching(house()).views == ("full", "text", "fused")
    assert Matching(house(Early)).views == ("text", "fused")


def test_mistakes_are_told_in_one_line():
    for act, says in (
        (lambda: Matching(towers()), "needs a fusion tower"),
        (lambda: Matching(house(), scale=-1.0), "scale -1.0 given, allowed is 0"),
    ):
        with pytest.raises(ValueError, match=says) as told:
            act()
        assert "\n" not in str(told.value)
