"""Nearest neighbours vote as a plain loop over all pairs says."""

from __future__ import annotations

import math

import pytest
import torch

from mae_vlm.heads.parts import nearest
from mae_vlm.heads.parts.nearest import nearest_neighbours


def by_hand(train, labels, scored, answers, neighbours, temperature):
    right = 0
    for picture, answer in zip(scored.tolist(), answers.tolist(), strict=True):
        pairs = []
        for other, label in zip(train.tolist(), labels.tolist(), strict=True):
            dot = sum(a * b for a, b in zip(picture, other, strict=True))
            pairs.append((dot / math.hypot(*picture) / math.hypot(*other), label))
        votes: dict[int, float] = {}
        for cosine, label in sorted(pairs, reverse=True)[:neighbours]:
            votes[label] = votes.get(label, 0.0) + math.exp(cosine / temperature)
        right += max(votes, key=votes.get) == answer
    return right / len(answers)


def a_set(count, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    centres = torch.randn(classes, 6, generator=torch.Generator().manual_seed(9))
    return centres[labels] + 1.2 * torch.randn(count, 6, generator=generator), labels


@pytest.mark.parametrize(("neighbours", "temperature"), [(20, 0.07), (1, 0.07), (5, 1.0), (50, 10.0)])
def test_the_vote_is_that_of_a_plain_loop(neighbours, temperature):
    (train, labels), (scored, answers) = a_set(80), a_set(60, seed=1)
    expected = by_hand(train, labels, scored, answers, neighbours, temperature)
    assert 0.2 < expected < 0.98
    assert nearest_neighbours(train, labels, scored, answers, neighbours, temperature) == pytest.approx(expected)


def test_memory_is_bounded_and_the_answer_is_the_same(monkeypatch):
    (train, labels), (scored, answers) = a_set(80), a_set(61, seed=1)
    whole = nearest_neighbours(train, labels, scored, answers)
    sizes = []
    matmul = torch.Tensor.__matmul__
    monkeypatch.setattr(nearest, "_CELLS", 800)
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: sizes.append(len(a) * b.shape[1]) or matmul(a, b))
    assert nearest_neighbours(train, labels, scored, answers) == whole
    assert max(sizes) <= 800 and len(sizes) == 7


def test_lengths_do_not_matter():
    (train, labels), (scored, answers) = a_set(80), a_set(60, seed=1)
    factor = torch.rand(80, 1, generator=torch.Generator().manual_seed(3)) + 0.1
    assert nearest_neighbours(train * factor, labels, 7 * scored, answers) == nearest_neighbours(train, labels, scored, answers)


def test_fewer_pictures_than_neighbours_all_vote():
    train, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]]), torch.tensor([4, 900, 900])
    assert nearest_neighbours(train, labels, torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([4, 900])) == 1.0


def test_a_class_that_was_never_seen_is_wrong():
    train, labels = a_set(50, 2)
    assert nearest_neighbours(train, labels, train, torch.full_like(labels, 7)) == 0.0


def test_features_in_bfloat16_are_compared_in_float32():
    (train, labels), (scored, answers) = a_set(80), a_set(60, seed=1)
    rounded = nearest_neighbours(train.bfloat16().float(), labels, scored.bfloat16().float(), answers)
    assert nearest_neighbours(train.bfloat16(), labels, scored.bfloat16(), answers) == rounded


def test_nothing_to_compare_with_is_refused():
    with pytest.raises(ValueError, match="0 pictures to compare with and 3 to score"):
        nearest_neighbours(torch.zeros(0, 2), torch.zeros(0), torch.zeros(3, 2), torch.zeros(3))
