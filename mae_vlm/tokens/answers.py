"""Answers to questions in the form in which they are compared, and how many people must agree on one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")
_THOUSANDS = re.compile(r"\d,\d")
_ARTICLES = ("a", "an", "the")
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS)} | {"none": "0"}
_SHORT = {  # what stands before an apostrophe that may be left out, but where that gives another word (its)
    "n't": "ai are ca could did does do had has have is might must need ought sha should was were wo would",
    "'ve": "could i might must should they we would you",
    "'s": "he how let she that there what when where who why",
    "'ll": "how it that they what who you",
    "'d": "how it that they what where who why you",
    "'re": "they what you",
    "'m": "i",
}
_OPEN = {start + end for end, starts in _SHORT.items() for start in starts.split()} | {"o'clock", "ma'am", "y'all"}
_CONTRACTIONS = {word.replace("'", ""): word for word in sorted(_OPEN)}
_PEOPLE = 10  # who answer each question of VQA
_AGREE = 4  # that many of them, and each answer of theirs is wholly right


def normal(answer: str) -> str:
    """The form in which VQA's evaluation compares answers (arXiv 1505.00468): lower case, no punctuation but a decimal point, digits for
    number words, no articles, apostrophes in contractions.

    Unlike there an answer that is nothing but articles stays ("a" names a letter too), and the list of contractions is the usual ones.
    """
    text = " ".join(answer.lower().split())
    thousands = _THOUSANDS.search(text) is not None
    stripped = text
    for mark in _PUNCTUATION:
        beside = f"{mark} " in text or f" {mark}" in text or thousands
        stripped = stripped.replace(mark, "" if beside else " ")
    words = [_DIGITS.get(word, word) for word in _PERIOD.sub("", stripped).split()]
    words = [word for word in words if word not in _ARTICLES] or words
    return " ".join(_CONTRACTIONS.get(word, word) for word in words)


def people(given: Sequence[str]) -> list[str]:
    """What people answered; fewer than four answers count as if ten or more people had given them, each as often: any of them is right."""
    if not given or len(given) >= _AGREE:
        return list(given)
    return list(given) * -(-_PEOPLE // len(given))


def accuracy(said: str, given: Sequence[str]) -> float:
    """How right an answer is, 0 to 1: over the answers given, each left out in turn, the mean of min(1, equal ones / 3).

    So an answer that 3 of 10 people gave is worth .9. As in VQA's evaluation both sides are normed only where people disagree.
    """
    told = [answer.strip() for answer in people(given)]
    said = said.strip()
    if len(set(told)) > 1:
        told, said = [normal(answer) for answer in told], normal(said)
    equal = told.count(said)
    return sum(min(1.0, (equal - (answer == said)) / 3) for answer in told) / len(told) if told else 0.0


def commonest(given: Sequence[str]) -> str:
    """The normal form that most people gave, the first of several."""
    return Counter(normal(answer) for answer in given).most_common(1)[0][0]
