"""Promises of mae_vlm.pairing.recall."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from process_pool import on_pool
from torch.nn import functional

from mae_vlm.pairing import recall as recall_module
from mae_vlm.pairing.recall import Recall, ranks

EYE = torch.eye(4)
ALL = torch.ones(4, dtype=torch.bool)


def who(*pairs: tuple[int, int]) -> torch.Tensor:
    return torch.tensor(pairs)


OWN = who((0, 0), (1, 1), (2, 2), (3, 3))


def measured(images, texts, named=OWN, counts=ALL, ranks=(1,)) -> dict[str, float]:
    metric = Recall(ranks)
    metric.update(images, texts, named, counts)
    return {name: value.item() for name, value in metric.compute().items()}


def test_each_near_its_own_is_found_and_near_anothers_is_not():
    assert measured(EYE, EYE) == {"text_to_image_r1": 1, "image_to_text_r1": 1}
    assert measured(EYE, EYE.roll(1, 0)) == {"text_to_image_r1": 0, "image_to_text_r1": 0}


def test_both_ways_are_told_apart():
    texts = functional.normalize(torch.tensor([[1.0, 0.1, 0, 0], [0.9, 0.3, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), dim=-1)
    # text 1 is nearest to picture 0; picture 0 still has text 0 the nearest, and picture 1 has text 1
    assert measured(EYE, texts) == {"text_to_image_r1": 0.75, "image_to_text_r1": 1}


def test_ties_count_against():
    same = torch.ones(4, 4) / 2
    assert measured(same, same) == {"text_to_image_r1": 0, "image_to_text_r1": 0}
    assert measured(same, same, ranks=(3, 4)) == {
        "text_to_image_r3": 0,
        "image_to_text_r3": 0,
        "text_to_image_r4": 1,
        "image_to_text_r4": 1,
    }


def test_any_of_a_pictures_captions_counts_and_so_does_another_picture_of_the_same_words():
    texts = EYE[[1, 0, 2, 3]]  # each of the first two has the other's place
    assert measured(EYE, texts)["text_to_image_r1"] == 0.5
    for named in (who((0, 0), (0, 1), (2, 2), (3, 3)), who((0, 7), (1, 7), (2, 2), (3, 3))):  # one picture twice; twice the same words
        assert measured(EYE, texts, named) == {"text_to_image_r1": 1, "image_to_text_r1": 1}


def test_rows_that_do_not_count_are_neither_asked_nor_found():
    counts = torch.tensor([True, True, False, True])
    images = EYE.clone()
    images[2] = EYE[0]  # would be nearer to text 0 by a tie
    assert measured(images, EYE)["text_to_image_r1"] == 0.5
    assert measured(images, EYE, counts=counts) == {"text_to_image_r1": 1, "image_to_text_r1": 1}


def test_nothing_measured_is_nothing_found():
    assert measured(EYE, EYE, counts=~ALL) == {"text_to_image_r1": 0, "image_to_text_r1": 0}
    assert Recall().compute()["text_to_image_r1"] == 0


def test_ranks_count_what_is_nearer(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(9, 5, generator=draw), torch.randn(9, 5, generator=draw)
    named = torch.stack([torch.arange(9), torch.arange(9)], 1)
    near = query @ gallery.T
    wanted = [(near[row] > near[row, row]).sum().item() for row in range(9)]
    assert ranks(query, gallery, named, named).tolist() == wanted and max(wanted) > 2
    monkeypatch.setattr(recall_module, "_AT_ONCE", 4)
    assert ranks(query, gallery, named, named).tolist() == wanted


def dealt(shares: list[list[int]]) -> dict[str, float]:
    """Each process has seen the rows of its share."""
    images, texts = noisy()
    rows = torch.tensor(shares[dist.get_rank()], dtype=torch.int64)
    metric = Recall((1, 2))
    for some in rows.split(2) if len(rows) else (rows,):
        metric.update(images[some], texts[some], torch.stack([some, some], 1), torch.ones(len(some), dtype=torch.bool))
    return {name: value.item() for name, value in metric.compute().items()}


def noisy() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    images = torch.randn(8, 6, generator=draw)
    return functional.normalize(images, dim=-1), functional.normalize(images + torch.randn(8, 6, generator=draw), dim=-1)


@pytest.mark.parametrize("shares", [[[0, 1, 2], [3, 4, 5, 6, 7]], [[0, 1, 2, 3, 4, 5, 6, 7], []]], ids=["unequal", "one has none"])
def test_processes_put_their_rows_together(shares):
    images, texts = noisy()
    numbers = torch.arange(8)
    alone = measured(images, texts, torch.stack([numbers, numbers], 1), torch.ones(8, dtype=torch.bool), (1, 2))
    assert 0 < alone["text_to_image_r1"] < 1
    assert on_pool(2, dealt, shares) == [alone, alone]
