"""All runs of an ablation side by side: the spread of every number for each choice, what may be compared, and who won."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from mae_vlm.ablation.meaning import loss_reasons, score_reasons
from mae_vlm.ablation.outcomes import BLOCK, KNN, LINEAR, LOSS, Outcome
from mae_vlm.ablation.statistics import Difference, Spread, paired, spread

SCORES = (LINEAR, "val/top1", "val/image_text/text_to_image_r1")  # what ranks, the first that every finished run has; higher is better
_LEAST = 100  # pictures of the probes of the shortest run
SECONDS, SPEED = "seconds", "images/s"


@dataclass(frozen=True)
class Comparison:
    """What the outcomes say together.

    Attributes:
        choices: labels in the order they were given.
        score: the tag that ranks, None where there is none; ``no_score`` then says why.
        columns: number -> choice -> spread over the finished seeds, for the score, probe/linear, probe/knn, val/loss, seconds, images/s.
        scores: choice -> seed -> score.
        no_loss: why val/loss is left out, empty where it is not; no_winner: why nobody is named, empty where somebody is.
        best: the choice with the highest mean score, over the seeds that all have, or None; against: every other choice -> best minus it.
        winner: ``best``, where it is told apart from every other choice.
    """

    outcomes: list[Outcome]
    choices: list[str]
    score: str | None
    columns: dict[str, dict[str, Spread]]
    scores: dict[str, dict[int, float]]
    no_loss: list[str]
    no_winner: str
    best: str | None
    against: dict[str, Difference | None]
    winner: str | None

    def finished(self, choice: str) -> list[Outcome]:
        return [one for one in self.outcomes if one.choice == choice and one.state == "finished"]

    def asked(self, choice: str) -> int:
        return sum(one.choice == choice for one in self.outcomes)


def compare(outcomes: list[Outcome], by: str | None = None) -> Comparison:
    """Rank the choices by the tag ``by``, or else by the first of ``SCORES`` that every finished run has."""
    choices = list(dict.fromkeys(one.choice for one in outcomes))
    finished = [one for one in outcomes if one.state == "finished"]
    configs, asked = _configs(finished), tuple(key for key, _ in outcomes[0].job.choice.options)
    no_loss = loss_reasons(configs, asked) if configs else []
    score = next((tag for tag in ([by] if by else SCORES) if finished and all(tag in one.last for one in finished)), None)
    columns = {
        tag: _column(finished, tag) for tag in dict.fromkeys((score or LINEAR, LINEAR, KNN, BLOCK, LOSS)) if not (tag == LOSS and no_loss)
    }
    columns[SECONDS] = _spreads(finished, {id(one): one.seconds for one in finished})
    columns[SPEED] = _spreads(finished, {id(one): one.speed for one in finished})
    scores = {choice: {one.job.seed: one.last[score] for one in finished if one.choice == choice} for choice in choices} if score else {}
    scores = {choice: by_seed for choice, by_seed in scores.items() if by_seed}
    unfair = [*score_reasons(configs, asked), *_probed_otherwise(finished, score)] if configs else []
    best, against = _best(scores) if not unfair else (None, {})
    no_winner = _no_score(finished, by) if score is None else _unfair(unfair) if unfair else _undecided(score, best, against)
    return Comparison(outcomes, choices, score, columns, scores, no_loss, no_winner, best, against, None if no_winner else best)


def _configs(finished: list[Outcome]) -> list[dict[str, object]]:
    """One resolved config for each choice, all of one seed where there is one that all have."""
    by_choice: dict[str, dict[int, dict[str, object]]] = {}
    for one in finished:
        if one.config:
            by_choice.setdefault(one.choice, {})[one.job.seed] = one.config
    if not by_choice:
        return []
    shared = set.intersection(*(set(seeds) for seeds in by_choice.values()))
    return [seeds[min(shared or seeds)] for seeds in by_choice.values()]


def _column(finished: list[Outcome], tag: str) -> dict[str, Spread]:
    return _spreads(finished, {id(one): one.last.get(tag) for one in finished})


def _spreads(finished: list[Outcome], values: Mapping[int, float | None]) -> dict[str, Spread]:
    found: dict[str, list[float]] = {}
    for one in finished:
        value = values[id(one)]
        if value is not None:
            found.setdefault(one.choice, []).append(value)
    return {choice: measured for choice, numbers in found.items() if (measured := spread(numbers)) is not None}


def _best(scores: dict[str, dict[int, float]]) -> tuple[str | None, dict[str, Difference | None]]:
    shared = set.intersection(*(set(by_seed) for by_seed in scores.values())) if scores else set()
    means = {choice: fmean(by_seed[seed] for seed in shared or by_seed) for choice, by_seed in scores.items()}
    best = max(means, key=means.__getitem__, default=None)
    if best is None:
        return None, {}
    return best, {choice: paired(scores[best], by_seed) for choice, by_seed in scores.items() if choice != best}


def _no_score(finished: list[Outcome], by: str | None) -> str:
    if not finished:
        return "no run has finished"
    if by is not None:
        return f"not every finished run has {by} in its metrics.csv"
    if all(one.labelled is False for one in finished):
        return "the pictures have neither labels nor captions: nothing tells which features are better, and a lower loss does not"
    return f"no score is in metrics.csv of every finished run ({', '.join(SCORES)}): the probes need labels or captions, and have to be on"


def _probed_otherwise(finished: list[Outcome], score: str | None) -> list[str]:
    """Why probes of runs of several lengths do not measure alike; empty where they do."""
    images = {one.images for one in finished if one.images is not None}
    if len(images) < 2 or score not in (LINEAR, KNN):
        return []
    options = [one.config.get("probes") or {} for one in finished]
    pictures, share = (min(float(one.get(name) or 0) for one in options) for name in ("pictures", "time_share"))
    counts = sorted({probed(one, int(pictures), share) for one in images})
    if len(counts) < 2:
        return []
    return [
        f"data: the shorter runs are probed with {counts[0]:,} pictures, the longer ones with {counts[-1]:,}; --probes.pictures {counts[0]}"
    ]


def probed(images: float, pictures: int, share: float) -> int:
    """Pictures that a run over ``images`` training pictures is probed with at most: ``count_for`` of callbacks/probes.py."""
    return min(pictures, max(_LEAST, int(share * images / 4)))


def _unfair(reasons: list[str]) -> str:
    return f"the score cannot be compared ({'; '.join(reasons)})"


def _undecided(score: str, best: str | None, against: dict[str, Difference | None]) -> str:
    """Why the best by the mean is no winner; empty where it is told apart from all others."""
    if not against:
        return "only one choice has finished runs"
    seeds = min(difference.seeds if difference else 0 for difference in against.values())
    if seeds < 2:
        return (
            "one seed shows no spread: what differs may be chance; --seeds 3 or more tells more" if seeds else "the choices share no seed"
        )
    close = [choice for choice, difference in against.items() if difference is None or not difference.above]
    return f"{score} of {best}, the highest mean, is not told apart from {' and '.join(close)} with {seeds} seeds" if close else ""
