"""Promises of mae_vlm.heads.parts.cider and caption_scores, against values found by hand."""

from __future__ import annotations

import math

import pytest
from process_pool import on_pool
from torchmetrics import MetricCollection

from mae_vlm.heads.parts.caption_scores import CaptionScores, words_of
from mae_vlm.heads.parts.cider import cider_d


def likeness(said: list[str], written: list[list[str]]) -> list[float]:
    return cider_d([one.split() for one in said], [[one.split() for one in some] for some in written])


def test_words_are_letters_without_punctuation_and_chinese_stands_letter_by_letter():
    assert words_of("A dog's ball, 2 cats!") == ["a", "dog's", "ball", "2", "cats"]
    assert words_of("一只猫 on a_mat") == ["一", "只", "猫", "on", "a", "mat"]


def test_the_same_words_are_ten_where_all_lengths_of_phrases_occur():
    found = likeness(["a b c d", "e f g h"], [["a b c d"], ["e f g h"]])
    assert found == pytest.approx([10.0, 10.0])


def test_cider_is_what_is_found_by_hand():
    """Three pictures, written: "red dog", "red cat", "big cat". Of the words, red and cat stand in two pictures: weight ln 3/2; dog and
    big, and each pair, in one: ln 3. "red cat" of the first: its words (r, r) against (r, d): cosine r² / (√(2 r²) √(r² + d²)).
    Pairs: none in common. Longer phrases: none at all. So 10 / 4 of the cosine."""
    r, d = math.log(1.5), math.log(3)
    one = r * r / (math.sqrt(2 * r * r) * math.sqrt(r * r + d * d))
    found = likeness(["red cat", "red cat", "cat"], [["red dog"], ["red cat"], ["big cat"]])
    shorter = math.exp(-1 / 72) * r * r / (r * math.sqrt(r * r + d * d))
    assert found == pytest.approx([2.5 * one, 5.0, 2.5 * shorter])


def test_saying_a_word_oftener_than_it_is_written_wins_nothing_and_references_are_averaged():
    """Two pictures: every word of the first weighs l = ln 2. "dog dog" against "dog": min(2l, l) l / (2l l), and a word too long."""
    found = likeness(["dog dog", "x"], [["dog", "cow"], ["cat"]])
    assert found[0] == pytest.approx(10 / 4 * math.exp(-1 / 72) * 0.5 / 2) and found[1] == 0.0


def test_of_a_single_picture_all_phrases_weigh_nothing():
    assert likeness(["a b"], [["a b"]]) == [0.0]


def test_bleu_and_rouge_are_what_is_found_by_hand():
    """ "a b c d e" against "a b c d f": 4 of 5 words, 3 of 4 pairs, 2 of 3, 1 of 2; the longest common subsequence has 4 of 5 words."""
    metrics = MetricCollection({"captions": CaptionScores()})
    with pytest.warns(UserWarning, match="CIDEr of 1 pictures"):
        metrics.update(["A, b c d e.", "nothing is written of it"], [["x y", "a b c d F"], []])
        found = metrics.compute()
    assert found["bleu4"] == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    assert found["rouge_l"] == pytest.approx(0.8)


def test_no_captions_at_all_is_zero():
    metric = CaptionScores()
    metric.update(["a"], [[]])
    with pytest.warns(UserWarning):
        assert metric.compute()["cider"] == 0


SAID = ["a red dog", "a cat and a mouse", "什么 都 没有", "two birds sit on a branch", "a dog"]
WRITTEN = [("a red dog runs", "the dog"), ("a cat",), ("没有",), ("two birds sit on a tree", "birds"), ()]


def dealt(shares: list[list[int]]) -> dict[str, float]:
    """What each process finds when it has seen its share alone."""
    import torch.distributed as dist

    metric = CaptionScores()
    rank = dist.get_rank() if dist.is_initialized() else 0
    for number in shares[rank]:
        metric.update([SAID[number]], [WRITTEN[number]])
    return {name: float(value) for name, value in metric.compute().items()}


@pytest.mark.filterwarnings("ignore:CIDEr of")
@pytest.mark.parametrize("shares", [[[0, 1, 4], [2, 3]], [[4], [0, 1, 2, 3]]], ids=["both", "one has nothing"])
def test_captions_dealt_to_processes_are_measured_together(shares):
    whole = dealt([[0, 1, 2, 3]])
    assert on_pool(2, dealt, shares) == [pytest.approx(whole)] * 2 and all(whole.values())
