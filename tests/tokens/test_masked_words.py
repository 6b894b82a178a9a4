"""Promises of mae_vlm.tokens.masked_words."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer

from mae_vlm.tokens.masked_words import mask_words, ordinary
from mae_vlm.tokens.words import Vocabulary, Words, learn

WORDS = [
    "red",
    "green",
    "blue",
    "yellow",
    "square",
    "circle",
    "star",
    "ring",
    "cross",
    "above",
    "below",
    "left",
    "right",
    "of",
    "a",
    "the",
    "large",
    "small",
]
MANY = 4000
# of letters alone: a word is as many tokens as it has letters
LETTERS = learn([*"abcdefgh", "ab", "ba"], 60)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return learn([" ".join(WORDS)], 400)


def texts(count: int = MANY, words: int = 12) -> list[str]:
    draw = torch.Generator().manual_seed(0)
    return [" ".join(WORDS[number] for number in row) for row in torch.randint(len(WORDS), (count, words), generator=draw).tolist()]


def pieces(lengths: list[list[int]]) -> Words:
    """Texts whose words are of so many tokens each."""
    word = [[number for number, length in enumerate(row) for _ in range(length)] for row in lengths]
    across = max(map(len, word)) + 2
    word_BT = torch.tensor([[-1, *row, -1] + [-1] * (across - len(row) - 2) for row in word])
    real_BT = torch.tensor([[place < len(row) + 2 for place in range(across)] for row in word])
    ids_BT = torch.where(word_BT >= 0, 10 + torch.arange(across) % 5, torch.where(real_BT, 2, 0))
    return Words(ids_BT, real_BT, word_BT, torch.ones(len(word), dtype=torch.bool))


@pytest.mark.parametrize(("share", "within"), [(0.15, 0.005), (0.3, 0.012)])  # of .3, half a percent would be over half of a text
def test_the_share_of_hidden_tokens_is_what_was_asked_for(vocabulary, share, within):
    words = vocabulary.encode(texts(), 32)
    masked = mask_words(words, torch.arange(MANY), vocabulary, share)
    found = masked.hidden_BS.sum() / (words.word_BT >= 0).sum()
    assert abs(float(found) - share) < within


def test_eight_of_ten_become_the_mask_one_another_token_and_one_stays(vocabulary):
    words = vocabulary.encode(texts(), 32)
    masked = mask_words(words, torch.arange(MANY), vocabulary, 0.3)
    shown_BS = masked.words.ids_BT.gather(1, masked.slots_BS)[masked.hidden_BS]
    truth = masked.truth_BS[masked.hidden_BS]
    assert len(truth) > 10_000
    assert abs(float((shown_BS == vocabulary.mask).float().mean()) - 0.8) < 0.015
    stays = float((shown_BS == truth).float().mean())
    assert abs(stays - 0.1 - 0.1 / len(ordinary(vocabulary, truth.device))) < 0.012
    others = shown_BS[(shown_BS != vocabulary.mask) & (shown_BS != truth)]
    assert not set(others.tolist()) & set(vocabulary.special)
    assert len(set(others.tolist())) > 0.9 * (len(vocabulary) - len(vocabulary.special))  # from all of the vocabulary


def test_slots_hold_exactly_the_hidden_tokens_and_nothing_else_has_changed(vocabulary):
    words = vocabulary.encode(texts(50), 32)
    masked = mask_words(words, torch.arange(50), vocabulary, 0.3)
    at_BT = torch.zeros_like(words.ids_BT).scatter(1, masked.slots_BS, masked.hidden_BS.long()).bool()
    assert int(at_BT.sum()) == int(masked.hidden_BS.sum())
    assert torch.equal(masked.words.ids_BT[~at_BT], words.ids_BT[~at_BT])
    assert torch.equal(masked.truth_BS, words.ids_BT.gather(1, masked.slots_BS))
    assert torch.equal(masked.words.real_BT, words.real_BT)


def test_words_are_hidden_whole_or_not_at_all():
    draw = torch.Generator().manual_seed(0)
    words = pieces([torch.randint(1, 5, (int(torch.randint(1, 9, (1,), generator=draw)),), generator=draw).tolist() for _ in range(400)])
    masked = mask_words(words, torch.arange(400), LETTERS, 0.4)
    hidden_BT = torch.zeros_like(words.ids_BT).scatter(1, masked.slots_BS, masked.hidden_BS.long()).bool()
    several = 0
    for word, hidden in zip(words.word_BT.tolist(), hidden_BT.tolist(), strict=True):
        for number in range(max(word) + 1):
            parts = {hide for one, hide in zip(word, hidden, strict=True) if one == number}
            assert len(parts) == 1
            several += parts == {True} and word.count(number) > 1
    assert several > 50


def test_at_most_half_of_a_text_is_hidden():
    for lengths in ([1] * 9, [3, 3, 3], [8], [1]):
        words = pieces([lengths] * 300)
        masked = mask_words(words, torch.arange(300), LETTERS, 0.95)
        assert int(masked.hidden_BS.sum(1).max()) <= (sum(lengths) + 1) // 2
    assert masked.hidden_BS.any()  # the only word of a text may be hidden


def test_more_padding_changes_nothing(vocabulary):
    words = vocabulary.encode(texts(200), 32)
    keys = torch.arange(200)
    masked = mask_words(words, keys, vocabulary, 0.3)
    longer = mask_words(words.padded(30, vocabulary.pad), keys, vocabulary, 0.3)
    across = words.ids_BT.shape[1]
    assert torch.equal(longer.words.ids_BT[:, :across], masked.words.ids_BT)
    slots = masked.slots_BS.shape[1]
    assert torch.equal(longer.hidden_BS[:, :slots], masked.hidden_BS) and not longer.hidden_BS[:, slots:].any()
    kept = masked.hidden_BS
    assert torch.equal(longer.slots_BS[:, :slots][kept], masked.slots_BS[kept]) and torch.equal(
        longer.truth_BS[:, :slots][kept], masked.truth_BS[kept]
    )


def test_begin_end_and_padding_are_never_hidden_and_texts_that_are_not_there_neither(vocabulary):
    words = vocabulary.encode(["a red ring", None, "", "a large blue star above the ring"] * 50, 32)
    masked = mask_words(words, torch.arange(200), vocabulary, 0.9)
    assert not set(masked.truth_BS[masked.hidden_BS].tolist()) & set(vocabulary.special)
    assert masked.hidden_BS.view(50, 4, -1).any(-1).any(0).tolist() == [True, False, False, True]
    nothing = mask_words(vocabulary.encode([None], 32), torch.arange(1), vocabulary)
    assert nothing.slots_BS.shape == (1, 4) and not nothing.hidden_BS.any()


def test_chance_is_of_the_key_alone(vocabulary):
    words = vocabulary.encode(texts(60), 32)
    keys = torch.arange(60)
    whole = mask_words(words, keys, vocabulary, 0.3)
    turned = torch.arange(59, -1, -1)
    back = mask_words(words.rows(turned), keys[turned], vocabulary, 0.3)
    assert torch.equal(back.words.ids_BT[turned], whole.words.ids_BT)
    assert not torch.equal(mask_words(words, keys + 60, vocabulary, 0.3).words.ids_BT, whole.words.ids_BT)


def test_a_vocabulary_without_a_mask_is_refused(vocabulary):
    without = Vocabulary(Tokenizer.from_str(vocabulary.json.replace("[MASK]", "[HIDE]")))
    with pytest.raises(ValueError, match="the vocabulary has no mask token") as told:
        mask_words(vocabulary.encode(["a"], 8), torch.arange(1), without)
    assert "\n" not in str(told.value)
