"""Recall at k is what sorting every list by hand gives, with any number of captions a picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mae_vlm.heads.parts import retrieval
from mae_vlm.heads.parts.retrieval import recall


def some(pictures=40, sentences=100, seed=0):
    generator = torch.Generator().manual_seed(seed)
    picture_of = torch.randint(0, pictures, (sentences,), generator=generator)
    images = torch.randn(pictures, 8, generator=generator)
    return images, images[picture_of] + 1.5 * torch.randn(sentences, 8, generator=generator), picture_of


def by_hand(images, texts, picture_of, k):
    images, texts = (x.numpy() / np.linalg.norm(x.numpy(), axis=1, keepdims=True) for x in (images, texts))
    cosine, owner = images @ texts.T, picture_of.numpy()
    asking = [picture for picture in range(len(images)) if picture in owner]
    sentences = [picture in owner[np.argsort(-cosine[picture])[:k]] for picture in asking]
    pictures = [owner[text] in np.argsort(-cosine[:, text])[:k] for text in range(len(texts))]
    return np.mean(sentences), np.mean(pictures)


@pytest.mark.parametrize("k", [1, 5, 10])
def test_recall_is_that_of_sorted_lists(k):
    expected = by_hand(*some(), k)
    assert all(0.05 < value < 1 for value in expected)
    found = recall(*some(), at=(k,))
    assert (found[f"sentences@{k}"], found[f"pictures@{k}"]) == pytest.approx(expected)


def test_any_caption_of_a_picture_counts():
    images = torch.eye(2)
    texts = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.1, 1.0]])  # the first sentence of picture 0 is wrong, the second right
    assert recall(images, texts, torch.tensor([0, 0, 1]), at=(1,)) == {"sentences@1": 0.5, "pictures@1": pytest.approx(2 / 3)}


def test_more_than_there_is_finds_everything():
    assert set(recall(*some(), at=(200,)).values()) == {1.0}


def test_a_picture_without_a_sentence_asks_nothing_but_can_be_taken_for_another():
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 1.0]])
    found = recall(images, torch.tensor([[1.0, 0.0], [0.9, 1.0]]), torch.tensor([0, 1]), at=(1, 2))
    assert found == {"sentences@1": 1.0, "sentences@2": 1.0, "pictures@1": 0.5, "pictures@2": 1.0}


def test_features_that_are_all_the_same_find_nothing():
    assert set(recall(torch.ones(30, 4), torch.ones(60, 4), torch.arange(60) % 30).values()) == {0.0}


def test_memory_is_bounded_and_the_answer_is_the_same(monkeypatch):
    whole = recall(*some())
    monkeypatch.setattr(retrieval, "_CELLS", 300)
    assert recall(*some()) == whole


@pytest.mark.parametrize("picture_of", [[], [0, 3], [-1, 0]])
def test_a_sentence_of_no_picture_is_refused(picture_of):
    with pytest.raises(ValueError, match="must belong to one of the pictures"):
        recall(torch.eye(3), torch.ones(len(picture_of), 3), torch.tensor(picture_of, dtype=torch.int64))
