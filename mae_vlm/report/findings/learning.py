"""Does it learn, from what it sees, and for long enough?"""

from __future__ import annotations

from mae_vlm.report.findings.base import FAULT, WARNING, Check, Finding, Untold, around, at, needed, tail, travel
from mae_vlm.report.recorded import Recorded

# Adam moves a weight by about the rate in a step, so the sum of the rates tells how far weights can have come. Tiny models stood at the
# loss of predicting the mean until it was 0.02 (scenes) to 0.5 (smooth grey pictures), and only then used what they saw.
ENOUGH = 1.0
LEARNED = 0.98  # of a control's loss: a run below it has learned what the control cannot know


def controlled(run: Recorded) -> str:
    """The objective that has the controls of masked reconstruction, or Untold."""
    for name in run.objectives:
        if run.curve(f"val/{name}/predict_zero") and run.curve(f"val/{name}/masked_mse"):
            return name
    raise Untold("no validation loss with its controls was recorded (no validation pictures, or no reconstruction)")


def long_enough(run: Recorded) -> None:
    """Untold where the run was too short for its controls to tell anything."""
    moved = travel(run)
    if moved is None:
        raise Untold("optimizer/lr was not recorded")
    if moved < ENOUGH:
        raise Untold(f"too short to tell: the learning rates of its {run.steps:,} steps sum to {moved:.2g}, less than {ENOUGH}")


def not_learning(run: Recorded) -> Finding | None:
    name = controlled(run)
    loss, zero = needed(run, f"val/{name}/masked_mse", 2), needed(run, f"val/{name}/predict_zero")[-1][1]
    if tail(loss) < LEARNED * zero or zero <= 0:
        return None
    long_enough(run)
    return Finding(
        "not-learning",
        FAULT,
        "The model has learned nothing that predicting the mean would not give.",
        (
            f"validation loss {loss[-1][1]:.4f} after {run.steps:,} steps ({loss[0][1]:.4f} at the start)",
            f"{zero:.4f} is the loss of predicting zero",
        ),
        (
            "look at the pictures below: are they what you meant to train on?",
            "try a learning rate of a third and of three times (model.optimizer.base_lr); a larger patch makes an easier task",
        ),
    )


def not_using_visible_patches(run: Recorded) -> Finding | None:
    name = controlled(run)
    own, other = (needed(run, f"val/{name}/{term}", 2)[-1][1] for term in ("masked_mse", "other_picture"))
    if own < LEARNED * other or other <= 0:
        return None
    long_enough(run)
    return Finding(
        "not-using-visible-patches",
        FAULT,
        "What the model predicts does not depend on the picture that it sees.",
        (f"validation loss {own:.4f} against its own picture, {other:.4f} against another one ({own / other:.1%})",),
        (
            "train for longer: the mean of all pictures is learned first, what the visible patches tell comes after it",
            "show it more: a lower model.masking.ratio",
            "check that the pictures differ, and that hidden patches can be told from visible ones at all (model.encoder.patch)",
        ),
    )


def over_fitting(run: Recorded) -> Finding | None:
    loss, train = needed(run, "val/loss", 5), needed(run, "train/loss", 5)
    best_step, best = min(loss, key=lambda point: point[1])
    last, then, now = loss[-1][1], around(train, best_step), tail(train)
    if last < 1.05 * best or now > 0.98 * then:
        return None
    epochs = _epochs(run)
    return Finding(
        "over-fitting",
        WARNING,
        "The model learns its training pictures by heart: it gets better on them and worse on others.",
        (
            f"validation loss {best:.4f} at step {best_step:,}, {last:.4f} at the end ({last / best - 1:+.0%})",
            f"training loss {then:.4f} then, {now:.4f} at the end" + (f"; {epochs:,.0f} passes over the pictures" if epochs else ""),
        ),
        (
            "more pictures, or fewer steps (trainer.max_steps)",
            "stronger augmentation: data.crop_scale '[0.2, 1.0]', data.flip 0.5; a higher model.masking.ratio",
            f"the weights of about step {best_step:,} are better than the last, where checkpoint.keep_every kept them",
        ),
    )


def stopped_while_improving(run: Recorded) -> Finding | None:
    if run.fact("outcome") == "running":
        raise Untold("the run has not ended")
    loss, rates = needed(run, "val/loss", 4), needed(run, "optimizer/lr", 4)
    peak, last = max(value for _, value in rates), rates[-1][1]
    before, now = at(loss, 0.75), loss[-1][1]
    if peak <= 0 or last < 0.3 * peak or now > 0.99 * before:
        return None
    planned = f" of {run.max_steps:,}" if run.max_steps else ""
    return Finding(
        "stopped-while-improving",
        WARNING,
        "The run ended while its loss still fell, before its learning rate had come down.",
        (
            f"validation loss {before:.4f} after three quarters of the run, {now:.4f} at the end ({now / before - 1:+.1%})",
            f"learning rate {last:.2g} at step {run.steps:,}{planned}, {last / peak:.0%} of its peak",
        ),
        (
            f"go on: python -m mae_vlm fit --ckpt_path {run.folder}/checkpoints/last.ckpt with a larger trainer.max_steps or max_time",
            "or plan the steps that there is time for: the loss falls most while the rate comes down at the end",
        ),
    )


def too_few_pictures(run: Recorded) -> Finding | None:
    pictures, weights = run.fact("data.train"), run.fact("parameters.encoder") or _closed_form(run)
    if not pictures or not weights:
        raise Untold("the number of training pictures, or of the encoder's weights, was not recorded")
    train, held_out = tail(needed(run, "train/loss", 5)), tail(needed(run, "val/loss", 3))
    ratio, gap = weights / pictures, held_out / train - 1 if train > 0 else 0.0
    if ratio < 1000 or gap < 0.1:
        return None
    return Finding(
        "too-few-pictures",
        WARNING,
        "There are too few pictures for a model of this size.",
        (
            f"{weights:,} weights in the encoder for {pictures:,} training pictures: {ratio:,.0f} weights a picture",
            f"validation loss {held_out:.4f}, training loss {train:.4f} ({gap:+.0%})",
        ),
        (
            "a smaller encoder: model.encoder.width and model.encoder.depth, or a vit_small in place of a vit_base",
            "more pictures, of the same kind: they need no labels",
            "start from weights that were trained on more, and go on with these pictures",
        ),
        explains=("over-fitting",),
    )


def _closed_form(run: Recorded) -> int:
    """Weights of a transformer of the config's width and depth; 0 where it names a model of timm."""
    width, depth = run.setting("model.encoder.width"), run.setting("model.encoder.depth")
    return 12 * int(width) ** 2 * int(depth) if width and depth else 0


def _epochs(run: Recorded) -> float:
    pictures = run.fact("data.train")
    return run.steps * run.batch_size / pictures if pictures else 0.0


CHECKS = (
    Check("not-learning", "does it do better than predicting the mean?", not_learning),
    Check("not-using-visible-patches", "do its predictions depend on what it sees?", not_using_visible_patches),
    Check("over-fitting", "does it learn more than its training pictures by heart?", over_fitting),
    Check("too-few-pictures", "are there enough pictures for a model of its size?", too_few_pictures),
    Check("stopped-while-improving", "did it end after its learning rate had come down?", stopped_while_improving),
)
