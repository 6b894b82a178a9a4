"""Promises of mae_vlm.heads.parts.beam_search."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from mae_vlm.heads.parts.beam_search import Beams, beam_search

PAD, BEGIN, END = 0, 1, 2
TOKENS = 7
FREE = Beams(3, 0, 3, END, PAD, (PAD, BEGIN, END))


def a_model(seed: int, sharp: float = 2.0):
    """The next token by all before it: a table for every beginning, whatever its length."""
    tables = {}

    def after(ids_RT):
        rows = []
        for ids in ids_RT.tolist():
            key = tuple(ids)
            if key not in tables:
                draw = torch.Generator().manual_seed(hash((seed, key)) % 2**31)
                tables[key] = sharp * torch.randn(TOKENS, generator=draw)
            rows.append(tables[key])
        return torch.stack(rows)

    return after


def mean_log_probability(after, begun, found) -> float:
    ids, total = list(begun), 0.0
    allowed = torch.arange(TOKENS)
    for token in found:
        total += float(after(torch.tensor([ids])).log_softmax(-1)[0, allowed][token])
        ids.append(token)
    return total / len(found)


def likeliest(after, begun, longest: int, shortest: int = 0) -> list[int]:
    """By trying every text."""
    words = [token for token in range(TOKENS) if token not in (PAD, BEGIN, END)]
    texts = [[*some, END] for size in range(shortest, longest + 1) for some in product(words, repeat=size)]
    return max(texts, key=lambda text: mean_log_probability(after, begun, text))


def text_of(ids: list[int]) -> list[int]:
    return ids[: ids.index(END) + 1]


@pytest.mark.parametrize("seed", range(4))
def test_with_room_for_every_text_the_likeliest_is_found(seed):
    after, given = a_model(seed), [BEGIN, 3 + seed % 4]
    found = beam_search(after, torch.tensor([given]), FREE._replace(width=200))
    best = likeliest(after, given, 3)
    assert text_of(found.ids_BT[0, 2:].tolist()) == best
    assert found.score_B[0] == pytest.approx(mean_log_probability(after, given, best), abs=1e-4)


def test_a_wider_search_finds_what_a_greedy_one_misses():
    table = {(BEGIN,): [0, 0, 0, 0.6, 0.4, 0, 0], (BEGIN, 3): [0, 0, 0.34, 0.33, 0.33, 0, 0], (BEGIN, 4): [0, 0, 0.99, 0.01, 0, 0, 0]}
    sure = [0, 0, 1.0, 0, 0, 0, 0]

    def after(ids_RT):
        return torch.tensor([table.get(tuple(ids), sure) for ids in ids_RT.tolist()]).clamp(min=1e-9).log()

    given = torch.tensor([[BEGIN]])
    assert text_of(beam_search(after, given, FREE._replace(width=1)).ids_BT[0].tolist()) == [BEGIN, 3, END]
    assert text_of(beam_search(after, given, FREE._replace(width=2)).ids_BT[0].tolist()) == [BEGIN, 4, END]


@pytest.mark.parametrize("seed", range(3))
def test_one_beam_takes_the_likeliest_token_each_time(seed):
    after = a_model(seed)
    found = text_of(beam_search(after, torch.tensor([[BEGIN]]), FREE._replace(width=1, longest=6)).ids_BT[0].tolist())
    ids = [BEGIN]
    while ids[-1] != END and len(ids) < 7:
        ids.append(int(after(torch.tensor([ids]))[0].index_fill(0, torch.tensor([PAD, BEGIN]), -torch.inf).argmax()))
    assert found == (ids if ids[-1] == END else [*ids, END])


@pytest.mark.parametrize("early", [True, False])
def test_each_text_of_a_batch_is_what_it_is_alone_and_repeats_itself(early):
    after = a_model(5)
    given = torch.tensor([[BEGIN, 3], [BEGIN, 5], [BEGIN, 6]])
    together, again = beam_search(after, given, FREE, early), beam_search(after, given, FREE, early)
    assert torch.equal(together.ids_BT, again.ids_BT) and torch.equal(together.score_B, again.score_B)
    for row in range(3):
        alone = beam_search(after, given[row : row + 1], FREE)
        assert text_of(alone.ids_BT[0].tolist()) == text_of(together.ids_BT[row].tolist())
        torch.testing.assert_close(alone.score_B[0], together.score_B[row])


def test_lengths_are_kept_and_what_is_barred_is_never_said():
    after = a_model(1, sharp=6.0)
    given = torch.tensor([[BEGIN]])
    for shortest, longest in ((0, 0), (2, 2), (3, 5)):
        ids = text_of(beam_search(after, given, Beams(3, shortest, longest, END, PAD, (PAD, BEGIN, END, 4))).ids_BT[0, 1:].tolist())
        assert shortest <= len(ids) - 1 <= longest and not {PAD, BEGIN, 4} & set(ids)
