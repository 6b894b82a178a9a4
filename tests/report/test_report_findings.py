"""The verdict on recorded runs: each fault by its name, nothing on healthy ones, and no judgement where there is too little to judge."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from thin import RECORDED

from mae_vlm.report.findings.verdict import CHECKS, judge
from mae_vlm.report.recorded import Recorded, read

# runs that were made faulty on purpose (tests/faults/test_seeded_faults.py makes most of them anew), and what is to be found
FAULTS = {
    "zero": "zero-learning-rate",
    "hot": "learning-rate-too-high",
    "hot_wide": "learning-rate-too-high",
    "cold": "learning-rate-too-low",
    "constant": "constant-pictures",
    "noise": "noise-targets",
    "collapse": "collapsing-features",
    "mask99": "mask-ratio-extreme",
    "big": "loader-bound",
    "copies": "duplicates",
    "poison": "non-finite-steps",
    "bf16": "updates-rounding-away",
    "overfit": "too-few-pictures",
    "cut": "stopped-while-improving",
}
HEALTHY = sorted(path.name for path in RECORDED.iterdir() if path.is_dir() and path.name not in FAULTS)


def run(name, **changes):
    return replace(read(RECORDED / name), **changes)


def with_curves(name, **curves):
    """A recorded run with other curves, told as ``val__pixels__x={step: value}``."""
    recorded = read(RECORDED / name)
    added = {tag.replace("__", "/"): sorted(points.items()) for tag, points in curves.items()}
    steps = max(recorded.steps, *(points[-1][0] for points in added.values()))
    return replace(recorded, curves=recorded.curves | added, facts=recorded.facts | {"step": steps})


def untold(verdict):
    return {check.name: why for check, why in verdict.untold}


@pytest.mark.parametrize("name, finding", FAULTS.items())
def test_a_fault_is_found_by_its_name_and_nothing_else_is(name, finding):
    verdict = judge(run(name))
    assert verdict.names == [finding]
    (found,) = verdict.findings
    assert found.title and found.advice and any(any(letter.isdigit() for letter in line) for line in found.evidence)


def test_there_are_ten_healthy_runs_at_least():
    assert len(HEALTHY) >= 10


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_found_in_a_healthy_run(name):
    assert judge(run(name)).names == []


@pytest.mark.parametrize("name", [*FAULTS, *HEALTHY])
def test_every_check_has_an_outcome(name):
    verdict = judge(run(name))
    follows = [one for ones in verdict.follows.values() for one in ones]
    outcomes = [*verdict.names, *(one.name for one in follows), *(one.name for one in verdict.clear), *untold(verdict)]
    assert sorted(outcomes) == sorted(check.name for check in CHECKS)


def test_an_empty_run_is_not_judged():
    verdict = judge(Recorded(RECORDED))
    assert verdict.names == [] and len(verdict.untold) == len(CHECKS)


def test_a_short_run_is_too_short_to_tell():
    short = with_curves("short", val__pixels__masked_mse={0: 1.3, 20: 1.2}, val__loss={0: 1.3, 5: 1.28, 10: 1.25, 20: 1.2})
    verdict = judge(short)
    assert verdict.names == []
    assert "too short to tell" in untold(verdict)["not-learning"] and "too short" in untold(verdict)["learning-rate-too-low"]


# --- findings that no tiny run shows in a minute: a recorded run with the curves of one that went on for longer

LONG = {0: 1e-3, 10_000: 1e-3}


def test_a_long_run_at_the_loss_of_predicting_the_mean_has_learned_nothing():
    stuck = with_curves("scenes", val__pixels__masked_mse={0: 1.3, 5_000: 0.99, 10_000: 0.989}, optimizer__lr=LONG)
    assert "not-learning" in judge(stuck).names
    assert "not-learning" not in judge(with_curves("scenes", optimizer__lr=LONG)).names


def test_a_long_run_that_predicts_any_picture_alike_does_not_use_what_it_sees():
    def blind(last):
        return {"val__pixels__masked_mse": {0: 1.3, last: 0.78}, "val__pixels__other_picture": {0: 1.3, last: 0.785}}

    assert "not-using-visible-patches" in judge(with_curves("scenes", optimizer__lr=LONG, **blind(10_000))).names
    short = judge(with_curves("scenes", **blind(119)))
    assert short.names == [] and "too short to tell" in untold(short)["not-using-visible-patches"]


def test_too_few_pictures_for_the_model_explain_over_fitting():
    verdict = judge(run("overfit"))
    assert verdict.names == ["too-few-pictures"] and [one.name for one in verdict.follows["too-few-pictures"]] == ["over-fitting"]
    assert verdict.describe() == "too-few-pictures (hence over-fitting)"


def test_over_fitting_of_a_model_of_fair_size_is_told_as_such():
    facts = read(RECORDED / "overfit").facts
    (found,) = judge(run("overfit", facts=facts | {"data": facts["data"] | {"train": 10_000}})).findings
    assert found.name == "over-fitting" and "step 74" in found.evidence[0]


def test_a_loss_that_rises_on_training_pictures_too_is_no_over_fitting():
    lost = {0: 1.3, 30: 0.7, 60: 0.9, 90: 1.2, 119: 1.3}
    names = judge(with_curves("scenes", val__loss=lost, train__loss=lost, optimizer__update_ratio={0: 0.05, 119: 0.04})).names
    assert "learning-rate-too-high" in names and "over-fitting" not in names


def test_a_run_that_still_goes_on_was_not_stopped():
    facts = read(RECORDED / "cut").facts
    assert "stopped-while-improving" not in judge(run("cut", facts=facts | {"outcome": "running"})).names


def test_some_pictures_of_one_colour_are_a_warning():
    sampled = read(RECORDED / "scenes").sampled
    (found,) = judge(run("scenes", sampled=sampled | {"constant": 0.2})).findings
    assert found.name == "constant-pictures" and found.severity == "warning"


@pytest.mark.parametrize(
    "total, read_, pairs, names",
    [
        (400, 400, 0, []),
        (400, 400, 5, []),  # a few copies in 400 are no matter
        (400, 400, 80, ["duplicates"]),  # 1.4 of each
        (1_000_000, 2000, 2, []),  # two chance pairs tell nothing yet
        (1_000_000, 2000, 20, ["duplicates"]),  # so many pairs in so small a part: each comes 11 times
    ],
)
def test_duplicates_are_told_from_a_sample(total, read_, pairs, names):
    sampled = read(RECORDED / "scenes").sampled | {"total": total, "read": read_, "pairs": pairs, "distinct": read_ - pairs}
    assert judge(run("scenes", sampled=sampled)).names == names


# --- words: no recorded run has captions yet, so image-text curves are laid beside a healthy run's pixels


def captioned(loss, recall, steps=400, batch=64, pictures=500, term="contrast", kind="SoftmaxContrast"):
    facts = read(RECORDED / "scenes").facts
    recorded = run(
        "scenes", facts=facts | {"batch_size": batch, "step": steps, "data": facts["data"] | {"val": pictures, "captions": True}}
    )
    config = recorded.config | {"model": {"objectives": {"pixels": {}, "image_text": {"class_path": kind}}}}
    at = [steps * part // 9 for part in range(10)]
    curves = {
        f"train/image_text/{term}": [(step, loss(step / steps)) for step in at],
        "val/image_text/text_to_image_r1": [(step, recall(step / steps)) for step in at],
    }
    return replace(recorded, config=config, curves=recorded.curves | curves)


def test_captions_in_another_order_than_their_pictures_are_found():
    for term in ("contrast", "loss"):
        verdict = judge(captioned(lambda part: math.log(64) + 0.02 - 0.03 * part, lambda part: 0.002 + 0.001 * (part > 0.5), term=term))
        assert verdict.names == ["shuffled-captions"]
        assert f"train/image_text/{term}" in verdict.findings[0].evidence[1] and "ln(64) = 4.159" in verdict.findings[0].evidence[1]


def test_a_sigmoid_contrast_is_judged_by_what_it_retrieves_alone():
    verdict = judge(captioned(lambda part: 2.0 - part, lambda part: 0.002, kind="SigmoidContrast"))
    assert verdict.names == ["shuffled-captions"] and "ln(" not in verdict.findings[0].evidence[1]
    assert "shuffled-captions" not in judge(captioned(lambda part: 2.0, lambda part: 0.05, kind="SigmoidContrast")).names


def test_captions_of_a_head_that_retrieves_are_judged_too():
    told = captioned(lambda part: math.log(64), lambda part: 0.002)
    curves = {
        "train/retrieve/contrast": told.curves["train/image_text/contrast"],
        "val/text_to_image_r1": told.curves["val/image_text/text_to_image_r1"],
    }
    assert "shuffled-captions" in judge(replace(told, config={}, curves=curves)).names


@pytest.mark.parametrize(
    "loss, recall",
    [
        (lambda part: math.log(64) * (1 - 0.5 * part), lambda part: 0.002 + 0.1 * part),  # learns
        (lambda part: math.log(64) * (1 - 0.8 * part), lambda part: 0.002),  # learned by heart, retrieves nothing: not the order's fault
        (lambda part: math.log(64), lambda part: 0.002 + 0.05 * part),  # retrieves: words and pictures go together
    ],
)
def test_captions_that_go_with_their_pictures_are_not_blamed(loss, recall):
    assert "shuffled-captions" not in judge(captioned(loss, recall)).names


def test_captions_are_not_judged_after_a_few_steps():
    verdict = judge(captioned(lambda part: math.log(64), lambda part: 0.002, steps=130))
    assert "shuffled-captions" not in verdict.names and "too short" in untold(verdict)["shuffled-captions"]
