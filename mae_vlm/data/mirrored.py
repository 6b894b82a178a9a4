"""What is said of a picture, once it is mirrored left to right."""

from __future__ import annotations

import re
from dataclasses import replace

from mae_vlm.types import Question, Sample

_SIDES = re.compile(r"\b(left|right)(?=(?:most|wards?|-hand)?\b)", re.IGNORECASE)
_OTHER = {"left": "right", "right": "left"}


def mirrored(sample: Sample) -> Sample:
    """The same sample with "left" and "right" swapped in its captions, questions and answers, so that they stay true.

    English words alone; "right" is always taken for the side.
    """
    questions = tuple(map(_asked, sample.questions))
    captions, phrases = tuple(map(swap, sample.captions)), tuple(map(swap, sample.box_captions))
    return replace(sample, captions=captions, questions=questions, box_captions=phrases)


def _asked(one: Question) -> Question:
    return one._replace(text=swap(one.text), answers=tuple(map(swap, one.answers)), choices=tuple(map(swap, one.choices)))


def swap(text: str) -> str:
    """A text that tells of the mirrored picture."""
    return _SIDES.sub(lambda found: _as(found[1], _OTHER[found[1].lower()]), text)


def _as(written: str, word: str) -> str:
    """``word`` in capital letters where ``written`` has them."""
    return word.upper() if written.isupper() else word.capitalize() if written[0].isupper() else word
