"""Is there something to learn in the pictures, and do they come fast enough?"""

from __future__ import annotations

from typing import Any

from mae_vlm.report.findings.base import FAULT, WARNING, Check, Finding, Untold, middle, needed
from mae_vlm.report.recorded import Recorded

_NOISE = 0.7  # von Neumann's ratio: 0.02 to 0.45 in ten collections of photographs and drawings, 1.0 in white noise
_WAIT = 0.05  # seconds a step: handing over a batch takes some milliseconds, which only shows in models of toy size
_COPIES = 1.2  # of each picture, on the average


def _sampled(run: Recorded, key: str) -> Any:
    if key not in run.sampled:
        raise Untold("no pictures were sampled at the start of the run (sampled.json)")
    return run.sampled[key]


def constant_pictures(run: Recorded) -> Finding | None:
    share = _sampled(run, "constant")
    if share < 0.1:
        return None
    return Finding(
        "constant-pictures",
        FAULT if share > 0.5 else WARNING,
        "Pictures are of one colour: there is nothing in them to predict.",
        (f"in {share:.0%} of {run.sampled['looked_at']} sampled training pictures every channel deviates by less than 2 of 255 levels",),
        (
            "look at them: python -m data_prep check on data.path lists them; remove them, or repair what wrote them",
            "pictures of more than 8 bits need data.bits 16, or data.value_range to spread their levels",
        ),
        explains=("noise-targets", "not-learning", "not-using-visible-patches", "collapsing-features"),
    )


def noise_targets(run: Recorded) -> Finding | None:
    noise = _sampled(run, "patch_noise")
    if noise < _NOISE:
        return None
    deviation, flat = run.sampled["patch_deviation"], run.sampled["flat_patches"]
    normalised = any(run.setting(f"model.objectives.{name}.normalise") for name in run.objectives)
    blown_up = normalised and deviation < 4 / 255
    return Finding(
        "noise-targets",
        FAULT,
        "What the model is to predict looks like noise"
        + (": normalising blows up the faint noise of flat patches." if blown_up else ": the pictures themselves are noisy."),
        (
            f"neighbouring pixels in a patch differ by {noise:.0%} of what independent ones would (photographs: 2 to 45 %)",
            f"the median patch deviates by {255 * deviation:.1f} of 255 levels, {flat:.0%} of patches by less than 2",
            *(["targets are normalised, so that each patch's noise counts as much as another's content"] if normalised else []),
        ),
        (
            *(("model.objectives.pixels.normalise false: the loss then weighs what can be seen",) if normalised else ()),
            "a larger model.encoder.patch, or larger pictures shrunk to this size: both average noise away",
            "spread the levels that the pictures use: data.value_range",
        ),
        explains=("not-learning", "not-using-visible-patches", "collapsing-features"),
    )


def duplicates(run: Recorded) -> Finding | None:
    read, distinct, pairs, total = (_sampled(run, key) for key in ("read", "distinct", "pairs", "total"))
    if read < 20:
        raise Untold(f"{read} pictures were compared, too few to tell")
    copies = 1 + pairs * total / (read * (read - 1) / 2)  # expected in the whole set, as random pairs of the sample are equal so often
    if pairs < 3 or copies < _COPIES:
        return None
    return Finding(
        "duplicates",
        FAULT if copies >= 3 else WARNING,
        "The set holds the same pictures again and again.",
        (
            f"{distinct:,} different files among {read:,} training pictures compared by their bytes (of {total:,})",
            f"each picture comes about {copies:,.1f} times",
        ),
        (
            "python -m data_prep check on data.path shows them; python -m data_prep split keeps copies of a picture in one part",
            "where validation pictures were split off this set, copies of them are trained on: the validation loss looks better than it is",
        ),
        explains=("too-few-pictures",),
    )


def loader_bound(run: Recorded) -> Finding | None:
    curve = needed(run, "throughput/data_wait_fraction", 2)
    share = middle(curve[1:])  # workers start in the first stretch
    speed = run.curve("throughput/images_per_second")
    hours = share * run.fact("seconds", 0) / 3600
    step = share * run.batch_size / middle(speed[1:]) if len(speed) > 1 and middle(speed[1:]) > 0 else 0.0
    if not (share > 0.5 and step > _WAIT) and not (share > 0.2 and hours > 0.1):
        return None
    rate = f"{middle(speed[1:]):,.0f} images/s" if len(speed) > 1 else "the speed"
    workers = run.setting("data.num_workers")
    return Finding(
        "loader-bound",
        WARNING,
        "The run waits for its pictures: the loader is slower than the model.",
        (
            f"{share:.0%} of the time between steps is spent on the next batch"
            + (f", {hours:.1f} hours of this run" if hours > 0.1 else ""),
            f"{rate} as it is; the model alone would take about {middle(speed[1:]) / (1 - min(share, 0.999)):,.0f}"
            if len(speed) > 1
            else rate,
        ),
        (
            f"more data.num_workers (now {workers}), up to the number of cores",
            "pictures much larger than data.image_size: shrink them once, python -m data_prep shards SRC DST --short-side N",
            "python -m mae_vlm doctor with the same options measures both, and names the one setting to change",
        ),
    )


CHECKS = (
    Check("constant-pictures", "is there something in the pictures?", constant_pictures),
    Check("noise-targets", "can what is to be predicted be told from noise?", noise_targets),
    Check("duplicates", "are the pictures different ones?", duplicates),
    Check("loader-bound", "does the loader keep up with the model?", loader_bound),
)
