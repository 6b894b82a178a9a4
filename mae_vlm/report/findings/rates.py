"""Do the weights move, and not too far at once? Do the numbers stay numbers?"""

from __future__ import annotations

from mae_vlm.report.findings.base import FAULT, WARNING, Check, Finding, Untold, around, middle, needed, tail, travel
from mae_vlm.report.findings.learning import LEARNED, controlled
from mae_vlm.report.recorded import Recorded

_STEPS = 500  # a run of fewer may be short on purpose
_HARDLY = 0.05  # sum of the rates; scenes are learned well at 0.06
_RATE, _STEP, _WILD = 0.02, 0.03, 0.3  # a rate, and a share of the weights' norm, that no run which learned well came near
_UNCHANGED = 0.3  # share of weights that a step leaves as they are


def zero_learning_rate(run: Recorded) -> Finding | None:
    rates = needed(run, "optimizer/lr")
    if any(value > 0 for _, value in rates):
        return None
    base = run.setting("model.optimizer.base_lr")
    return Finding(
        "zero-learning-rate",
        FAULT,
        "The learning rate is zero: no weight has moved.",
        (f"optimizer/lr is 0 at all {len(rates)} recorded steps" + (f"; model.optimizer.base_lr is {base:g}" if base is not None else ""),),
        ("leave model.optimizer.base_lr out: a rate for the run's length is then chosen",),
        explains=("not-learning", "not-using-visible-patches", "learning-rate-too-low"),
    )


def learning_rate_too_high(run: Recorded) -> Finding | None:
    """Steps so large that nothing is learned, or that what was learned is lost again, on training pictures too."""
    rates, loss = needed(run, "optimizer/lr", 2), needed(run, "val/loss", 3)
    peak, updates = max(value for _, value in rates), run.curve("optimizer/update_ratio")
    step = max((value for _, value in updates), default=0.0)
    if max(peak / _RATE, step / _STEP) < 1:
        return None
    best_step, best = min(loss, key=lambda point: point[1])
    train = run.curve("train/loss")
    lost = loss[-1][1] > 1.1 * best and (len(train) < 5 or tail(train) > 1.05 * around(train, best_step))
    nothing = _nothing_learned(run)
    if not (lost or nothing or step > _WILD):
        return None
    told = (
        f"validation loss {loss[0][1]:.4f} before the first step, {best:.4f} at its best (step {best_step:,}), {loss[-1][1]:.4f} at the end"
    )
    return Finding(
        "learning-rate-too-high",
        FAULT,
        "The learning rate is too high: "
        + ("what was learned is lost again." if lost else "steps overshoot, and little or nothing is learned."),
        (
            told,
            f"the rate rises to {peak:.2g}",
            *(
                [f"a step changed the weights by up to {step:.1%} of their norm; about 0.1 % is usual, up to 2 % in the first steps"]
                if updates
                else []
            ),
        ),
        (
            "lower model.optimizer.base_lr ten times and more, or leave it out: a rate for the run's length is then chosen",
            "a longer warm-up (model.optimizer.warmup), and trainer.gradient_clip_val 1.0, help where it is only the start that breaks",
        ),
        explains=("not-learning", "not-using-visible-patches", "collapsing-features"),
    )


def _nothing_learned(run: Recorded) -> bool:
    try:
        name = controlled(run)
    except Untold:
        return False
    return tail(run.curve(f"val/{name}/masked_mse")) >= LEARNED * run.curve(f"val/{name}/predict_zero")[-1][1]


def learning_rate_too_low(run: Recorded) -> Finding | None:
    moved = travel(run)
    if moved is None:
        raise Untold("optimizer/lr was not recorded")
    if moved >= _HARDLY:
        return None
    if run.steps < _STEPS:
        raise Untold(f"too short to tell: {run.steps:,} steps, and a low rate shows after {_STEPS:,}")
    updates = run.curve("optimizer/update_ratio")
    return Finding(
        "learning-rate-too-low",
        FAULT,
        "The learning rate is so low that the weights can hardly have moved.",
        (
            f"the rates of all {run.steps:,} steps sum to {moved:.2g}, and AdamW moves a weight by about the rate in a step; "
            "new weights are about 0.1 in size",
            *([f"a step changes the weights by {middle(updates):.1e} of their norm"] if updates else []),
        ),
        (f"raise model.optimizer.base_lr about {min(1000, max(3, round(1 / max(moved, 1e-9)))):,} times, or leave it out",),
        explains=("not-learning", "not-using-visible-patches"),
    )


def updates_rounding_away(run: Recorded) -> Finding | None:
    unchanged, rates = needed(run, "optimizer/unchanged_fraction"), run.curve("optimizer/lr")
    if middle(unchanged) < _UNCHANGED or not any(value > 0 for _, value in rates):
        return None
    precision = str(run.fact("precision") or run.setting("trainer.precision") or "unknown")
    return Finding(
        "updates-rounding-away",
        FAULT,
        "Most steps are lost: the change of a weight is smaller than what its number format can tell apart.",
        (
            f"a step leaves {middle(unchanged):.0%} of the weights that have a gradient exactly as they were",
            f"trainer.precision is {precision}; bfloat16 keeps 8 bits: a weight of 0.1 cannot change by less than 0.0005",
        ),
        (
            "trainer.precision bf16-mixed: the same speed of matrix products, with weights kept in float32",
            "where weights must be bfloat16, a higher model.optimizer.base_lr loses fewer steps",
        ),
        explains=("not-learning", "not-using-visible-patches", "learning-rate-too-low"),
    )


def non_finite_steps(run: Recorded) -> Finding | None:
    bad = {int(line.get("step", 0)) for line in run.bad_steps if line.get("kind") == "not finite"}
    curve = run.curve("guard/skipped_steps")
    number = max(len(bad), int(curve[-1][1]) if curve else 0)
    if not number:
        if not curve and not run.bad_steps:
            raise Untold("guard/skipped_steps was not recorded")
        return None
    steps = ", ".join(f"{step:,}" for step in sorted(bad)[:6]) + (" and others" if len(bad) > 6 else "")
    return Finding(
        "non-finite-steps",
        FAULT if number > 0.01 * run.steps else WARNING,
        "Some steps had a gradient that is not a finite number; they were skipped and changed nothing.",
        (
            f"{number:,} of {run.steps:,} steps" + (f": {steps}" if steps else ""),
            "bad_steps.jsonl names their pictures, loss terms and learning rate",
        ),
        (
            "a lower model.optimizer.base_lr, or trainer.gradient_clip_val 1.0",
            "trainer.precision 32-true, or bf16-mixed in place of 16-mixed, to see whether it is the number format",
            "the same pictures in all bad steps: look at them (python -m data_prep check)",
        ),
    )


CHECKS = (
    Check("zero-learning-rate", "is the learning rate above zero?", zero_learning_rate),
    Check("updates-rounding-away", "is a step's change large enough for the number format?", updates_rounding_away),
    Check("learning-rate-too-low", "can the weights have moved far enough?", learning_rate_too_low),
    Check("learning-rate-too-high", "are the steps small enough?", learning_rate_too_high),
    Check("non-finite-steps", "was every gradient a finite number?", non_finite_steps),
)
