"""The answers that a collection's questions have: what a classifier of answers chooses from."""

from __future__ import annotations

from collections import Counter, defaultdict

from mae_vlm.data.captions import MOST
from mae_vlm.data.sources.base import Source
from mae_vlm.tokens.answers import commonest, normal

VQA = 3129  # answers that VQA's classifiers choose from


def common(source: Source, least: int = 1, most: int = VQA, pictures: int = MOST) -> list[str]:
    """The answers that are the commonest one of at least ``least`` questions, at most ``most``, the most frequent first.

    Answers of one normal form are one, spelled as most people did. At most ``pictures`` are asked, spread evenly; none is decoded.

    Raises:
        ValueError: there are fewer than two.
    """
    counts: Counter[str] = Counter()
    spellings: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for index in range(0, len(source), max(1, -(-len(source) // pictures))):
        try:
            questions = source.worded(index).questions
        except (ValueError, OSError):  # broken ones are told of by the run itself
            continue
        for question in questions:
            if question.answers:
                counts[commonest(question.answers)] += 1
            for answer in question.answers:
                spellings[normal(answer)][" ".join(answer.split())] += 1
    ranked = sorted((-count, form) for form, count in counts.items() if count >= least and form)[:most]
    if len(ranked) < 2:
        raise ValueError(
            f"the collection's questions have {len(ranked)} answers given {least} times or more, and two are needed;"
            " name data.question_column and data.answer_column, or set least lower"
        )
    return [max(sorted(spellings[form]), key=spellings[form].__getitem__) for _, form in ranked]
