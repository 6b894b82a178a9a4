"""Captions and questions of a generated scene; every word in them is true of the picture."""

from __future__ import annotations

from mae_vlm.data.sources.parts.scene_drawing import COLOURS, Figure
from mae_vlm.types import Question

GROUND_WORDS = {
    "gradient": "a smooth",
    "stripes": "a striped",
    "checks": "a checked",
    "clouds": "a cloudy",
    "dots": "a dotted",
    "waves": "a wavy",
}
_COUNTS = ("no", "one", "two", "three", "four")


def _call(figure: Figure, size: bool = False) -> str:
    return f"{figure.size + ' ' if size else ''}{figure.colour} {figure.shape}"


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def relation(one: Figure, other: Figure) -> str:
    """Where ``one`` is, seen from ``other``, along the axis in which they are further apart."""
    across, down = one.x - other.x, one.y - other.y
    if abs(across) >= abs(down):
        return "left of" if across < 0 else "right of"
    return "above" if down < 0 else "below"


def captions(figures: list[Figure], ground: str) -> tuple[str, ...]:
    """Two captions or three: all shapes on their ground, the largest with its size, and a relation where there are two."""
    names = [_article(_call(figure)) for figure in figures]
    listed = names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
    largest = max(figures, key=lambda figure: figure.radius)
    texts = [
        f"{listed} on {GROUND_WORDS[ground]} ground",
        f"a picture of {_article(_call(largest, size=True))}",
    ]
    if len(figures) > 1:
        one, other = figures[0], figures[1]
        texts.append(f"{_article(_call(one))} {relation(one, other)} {_article(_call(other))}")
    return tuple(texts)


def questions(figures: list[Figure], number: float) -> tuple[Question, ...]:
    """Two to four questions with one answer each; ``number`` in [0, 1) chooses what is asked."""
    chosen = figures[int(number * len(figures))]
    asked = [
        ("how many shapes are there?", _COUNTS[len(figures)]),
        (f"what shape is {chosen.colour}?", chosen.shape),
    ]
    if sum(figure.shape == chosen.shape for figure in figures) == 1:
        asked.append((f"what colour is the {chosen.shape}?", chosen.colour))
    if len(figures) > 1:
        other = next(figure for figure in figures if figure is not chosen)
        swap = number * 7 % 1 < 0.5
        first, second = (other, chosen) if swap else (chosen, other)
        truth = relation(chosen, other)
        asked.append((f"is the {_call(first)} {truth} the {_call(second)}?", "no" if swap else "yes"))
    else:
        names = list(COLOURS)
        other_colour = names[int(number * len(names))]
        asked.append((f"is the {chosen.shape} {other_colour}?", "yes" if other_colour == chosen.colour else "no"))
    return tuple(Question(text, (answer,)) for text, answer in asked)
