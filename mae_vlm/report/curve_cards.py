"""Which curves the page shows, under which title and in which unit; what nobody foresaw stands at the end."""

from __future__ import annotations

import re

from mae_vlm.report.charts import Chart, Line, chart
from mae_vlm.report.recorded import Recorded

_CONTROLS = {"predict_zero": "predicting zero", "other_picture": "against another picture"}
_SHARES = re.compile(r"(_r\d+|accuracy|top\d|recall|_acc)$")
_HIDDEN = {"epoch", "hp_metric"}
_WAYS = {"text_to_image": "picture by its words", "image_to_text": "words by their picture"}
_RARE = {"Steps with bad numbers"}  # shown only where there are any

# title, unit, note, log axis, axis from 0, tags with their names in the legend
_FIXED: list[tuple[str, str, str, bool, bool, dict[str, str]]] = [
    ("Learning rate", "of the first group", "", False, True, {"optimizer/lr": "learning rate"}),
    ("Gradient norm", "before clipping", "", True, False, {"optimizer/grad_norm": "all weights"}),
    (
        "Size of a step",
        "change of the weights over their norm",
        "About 0.001 in a run that goes well.",
        True,
        False,
        {"optimizer/update_ratio": "update ratio"},
    ),
    (
        "Weights that a step leaves unchanged",
        "share",
        "Near 0; high where the number format rounds updates away.",
        False,
        True,
        {"optimizer/unchanged_fraction": "unchanged"},
    ),
    (
        "Probes of the best block",
        "share right, held-out pictures",
        "kNN understates masked autoencoders: go by the linear probe, and by fine-tuning.",
        False,
        False,
        {"probe/linear": "linear probe", "probe/knn": "kNN"},
    ),
    (
        "Retrieval",
        "share found, validation",
        "Of all captions and pictures; the number is how many of the first may hold the right one.",
        False,
        True,
        {f"val/{way}_r{k}": f"{words}, {k}" for way, words in _WAYS.items() for k in (1, 5, 10)},
    ),
    (
        "Median rank of retrieval",
        "1: found at once",
        "",
        True,
        False,
        {f"val/{way}_median_rank": words for way, words in _WAYS.items()},
    ),
    (
        "Effective rank of the features",
        "dimensions",
        "An alarm against this run's own start, not a score.",
        False,
        True,
        {"features/effective_rank": "effective rank"},
    ),
    (
        "Deviation of the features",
        "1: spread evenly",
        "Falls to 0 when features collapse.",
        False,
        True,
        {"features/deviation": "deviation"},
    ),
    (
        "Uniformity of the features",
        "0: all alike",
        "Rises to 0 when features collapse.",
        False,
        False,
        {"features/uniformity": "uniformity"},
    ),
    ("Throughput", "images/s, all processes", "", False, True, {"throughput/images_per_second": "images/s"}),
    (
        "Where the time goes",
        "share",
        "",
        False,
        True,
        {
            "throughput/data_wait_fraction": "waiting for data",
            "throughput/peak_fraction": "of the device's peak",
            "probe/time_fraction": "spent on probes",
        },
    ),
    ("Memory", "GiB", "", False, True, {"memory/device_gib": "device", "memory/host_gib": "host"}),
    ("Steps with bad numbers", "so far", "", False, True, {"guard/skipped_steps": "skipped", "guard/spikes": "spikes"}),
]


def curve_cards(run: Recorded) -> str:
    """All charts of a run, as cards in a grid."""
    charts = [*_losses(run), *_gradients(run)]
    for title, unit, note, log, zero, tags in _FIXED:
        lines = [Line(name, run.curve(tag), place) for place, (tag, name) in enumerate(tags.items())]
        if title in _RARE and not any(value for line in lines for _, value in line.curve):
            continue
        charts.append(Chart(title, unit, lines, note, log, zero))
    body = "".join(chart(one, run.steps) for one in charts)
    rest = "".join(chart(one, run.steps) for one in _rest(run, charts))
    more = f'<details><summary>Everything else that was recorded</summary><div class="charts">{rest}</div></details>' if rest else ""
    return f'<div class="charts">{body}</div>{more}' if body else "<p>No curve was recorded yet.</p>"


def _losses(run: Recorded) -> list[Chart]:
    charts = []
    names = run.objectives
    if len(names) != 1:
        total = [Line("validation", run.curve("val/loss"), 0), Line("training", run.curve("train/loss"), 1)]
        averaged = Line("validation, averaged weights", run.curve("ema/loss"), 2)
        charts.append(Chart("Loss, all objectives", "weighted sum", [*total, averaged]))
    for name in names:
        charts += _objective(run, name)
    return charts


def _objective(run: Recorded, name: str) -> list[Chart]:
    """One chart of an objective's losses with their controls, one of the shares that it gets right."""
    terms = sorted({tag.split("/", 2)[2] for tag in run.curves if re.match(rf"(train|val|ema)/{re.escape(name)}/", tag)})
    losses: list[Line] = []
    controls: list[Line] = []
    shares: list[Line] = []
    for term in terms:
        for stage, word in (("val", "validation"), ("ema", "averaged weights"), ("train", "training")):
            curve = run.curve(f"{stage}/{name}/{term}")
            if not curve:
                continue
            if term in _CONTROLS:
                if stage == "val":
                    controls.append(Line(_CONTROLS[term], curve, 5 + len(controls), dashed=True))
                continue
            target = shares if _SHARES.search(term) else losses
            many = len([one for one in terms if one not in _CONTROLS and bool(_SHARES.search(one)) == (target is shares)]) > 1
            target.append(Line(f"{term}, {word}" if many else word, curve, len(target) % 5))
    unit = ("normalised pixels" if run.setting(f"model.objectives.{name}.normalise") else "pixels") if controls else ""
    told = f"mean squared error of hidden patches, {unit}" if controls else "loss"
    note = "A model that uses what it sees is clearly below both dashed controls." if controls else ""
    return [Chart(name, told, [*losses, *controls], note), Chart(f"{name}: right answers", "share", shares, zero=True)]


def _gradients(run: Recorded) -> list[Chart]:
    names = [name for name in run.objectives if any(run.curve(f"gradients/{name}/{kind}") for kind in ("norm", "share", "cosine"))]
    if len(names) < 2:  # one objective has all of the gradient
        return []
    kinds = (
        ("norm", "Gradient of each objective", "norm on the shared encoder", True),
        ("share", "Share of each objective", "of the gradient on the shared encoder", False),
        ("cosine", "Do the objectives agree?", "cosine with the sum of the others", False),
    )
    return [
        Chart(title, unit, [Line(name, run.curve(f"gradients/{name}/{kind}"), place % 8) for place, name in enumerate(names)], log=log)
        for kind, title, unit, log in kinds
    ]


def _rest(run: Recorded, charts: list[Chart]) -> list[Chart]:
    shown = [line.curve for one in charts for line in one.lines if line.curve]
    single = {"train/loss", "val/loss"} if len(run.objectives) == 1 else set()
    tags = [tag for tag in sorted(run.curves) if tag not in _HIDDEN | single and not tag.startswith("probe/block_") and run.curve(tag)]
    return [Chart(tag, "", [Line(tag.split("/")[-1], run.curve(tag), 0)]) for tag in tags if run.curve(tag) not in shown]
