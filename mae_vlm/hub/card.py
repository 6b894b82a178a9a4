"""The model card of a run: what it is, how to open it, what it saw, what it reached and what it cost."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mae_vlm.hub.metrics import EXTRACTION, head_task, metrics, results
from mae_vlm.hub.names import is_name
from mae_vlm.report.charts import number
from mae_vlm.report.cost import duration
from mae_vlm.report.recorded import Recorded

_PICTURES = {
    "reconstruction": "Original, what the encoder saw, what the model made of it, both together; validation pictures.",
    "attention": "Where the class token and a chosen patch look.",
    "features": "Patch features as colours (the first three principal components), whole and without what tells their place.",
    "neighbours": "A query, and the validation pictures whose features are nearest.",
}


@dataclass(frozen=True)
class Subject:
    """What a card is about.

    Attributes:
        run: as its folder tells it, its config without secrets.
        repo: org/name, or None for another target.
        step: of the weights; ``averaged``: they are the run's moving average.
        encoder: its timm config (``architecture``, ``num_features``, ``pretrained_cfg`` ...); a classifier has classes.
        names: all files that go along.
        version: of this tool.
    """

    run: Recorded
    repo: str | None
    step: int
    averaged: bool
    encoder: dict[str, Any]
    names: Collection[str]
    version: str

    @property
    def title(self) -> str:
        return self.repo.rpartition("/")[2] if self.repo else f"{self.run.folder.absolute().parent.name}-{self.run.folder.absolute().name}"


def card(subject: Subject, licence: str) -> str:
    """README.md, its metadata made and read back by the hub's own classes.

    Raises:
        ValueError: they refuse it.
    """
    from huggingface_hub import ModelCard, ModelCardData

    run = subject.run
    data, data_id = _data_name(run)
    weights = str(run.setting("model.weights") or "")
    classifies = bool(subject.encoder.get("num_classes"))
    found = results(metrics(run, subject.step), data, data_id)
    told = ModelCardData(
        license=licence,
        library_name="timm",
        pipeline_tag="image-classification" if classifies else EXTRACTION,
        tags=["timm", "mae_vlm", "vision-transformer", *(["masked-autoencoder"] if _is_pretraining(run) else [])],
        base_model=weights.removeprefix("hf://").partition("@")[0] if is_name(weights) else None,
        datasets=[data_id] if "/" in data_id else None,
        model_name=subject.title,
        eval_results=found or None,
    )
    text = f"---\n{told.to_yaml()}\n---\n\n{_body(subject, data)}"
    return str(ModelCard(text))


def _body(subject: Subject, data: str) -> str:
    sections = {
        "Use": _use(subject),
        "Data": _table(_data_rows(subject.run, data)),
        "Training": _table(_training_rows(subject)),
        "Curves": "![Losses and metrics over the optimizer step](curves.png)" if "curves.png" in subject.names else "",
        "Pictures": _pictures(subject),
        "Metrics": _metrics(subject),
        "Cost": _table(_cost_rows(subject.run)),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items() if text)
    return f"# {subject.title}\n\n{_lead(subject)}\n\n{body}\n\nWritten by mae_vlm {subject.version} from the files of the run.\n"


def _lead(subject: Subject) -> str:
    run, (channels, height, width) = subject.run, subject.encoder["pretrained_cfg"]["input_size"]
    task = head_task(run)
    made = f"fine-tuned for {task.replace('-', ' ')}" if task else f"pretrained ({', '.join(run.objectives)})"
    state = {"running": " The run was still going on.", "failed": " The run ended with an error.", "stopped": " The run was stopped early."}
    what = "classifier" if subject.encoder.get("num_classes") else "encoder"
    return (
        f"A vision transformer ({what}, {subject.encoder['num_features']} numbers a token, {channels} channels, {height} x {width} "
        f"pixels), {made}; {'averaged ' if subject.averaged else ''}weights after {subject.step:,} optimizer steps."
        + state.get(str(run.fact("outcome")), "")
    )


def _use(subject: Subject) -> str:
    name = f"hf-hub:{subject.repo}" if subject.repo else "local-dir:THIS_FOLDER"
    answer = "logits" if subject.encoder.get("num_classes") else "the mean of the normed patch tokens"
    lines = ["```python", "import timm", "", f'model = timm.create_model("{name}", pretrained=True).eval()']
    lines += ["data = timm.data.resolve_model_data_config(model)", f"# model(pictures) is {answer}"]
    if subject.repo and not subject.encoder.get("num_classes"):
        lines += ["", "from mae_vlm import load  # resizes and normalises by itself", f'load("hf://{subject.repo}").encode(["a.jpg"])']
    lines.append("```")
    if "words.safetensors" in subject.names:
        place = f"hf://{subject.repo}" if subject.repo else "THIS_FOLDER"
        lines += ["", f"Its towers of words are in `words.safetensors`: `python -m mae_vlm fit --model.weights {place}` takes them all."]
    bests = sorted({found[1] for name in subject.names if (found := re.fullmatch(r"(best\w*)/model\.safetensors", name))})
    if bests:
        lines += ["", f"The weights above are the newest; {', '.join(f'`{one}/`' for one in bests)} holds the best by validation."]
    if any(name.startswith("checkpoints/") for name in subject.names):
        lines += ["", "`checkpoints/` holds the run's state: download this repository and go on with `python -m mae_vlm fit --ckpt_path`."]
    return "\n".join(lines)


def _data_name(run: Recorded) -> tuple[str, str]:
    """(name to read, name on the hub or a word that is none): no folder's path leaves the machine."""
    path = str(run.fact("data.path") or run.setting("data.path") or "")
    if not path:
        return "generated scenes", "generated"
    if path.startswith("hf://datasets/"):
        name = path.removeprefix("hf://datasets/").partition("@")[0].strip("/")
        return name, name
    if "://" in path:
        return path, "other"
    return Path(path).name or "pictures", "other"


def _data_rows(run: Recorded, data: str) -> list[tuple[str, str]]:
    facts = run.fact("data", {})
    parts = {"train": "to train on", "val": "to validate on", "test": "to test on"}
    size = f"{facts['height']} x {facts['width']} pixels" if facts.get("height") else ""
    return [
        ("collection", data),
        ("format", str(facts.get("format") or "")),
        ("pictures", ", ".join(f"{facts[part]:,} {name}" for part, name in parts.items() if facts.get(part))),
        ("size, median (height x width)", size),
        ("channels", str(facts.get("channels") or "")),
        ("classes", str(facts.get("classes") or "none") if facts else ""),
        ("captions", ("yes" if facts.get("captions") else "none") if facts else ""),
        ("not readable, replaced", f"{len(run.quarantined):,}" if run.quarantined else ""),
    ]


def _training_rows(subject: Subject) -> list[tuple[str, str]]:
    run = subject.run
    weights = str(run.setting("model.weights") or "")
    heads = run.setting("model.heads")
    started = weights if is_name(weights) else Path(weights).name and "/".join(Path(weights).parts[-2:])
    return [
        ("started from", started or "random weights"),
        ("objectives", ", ".join(run.objectives) if not heads else ""),
        ("heads", ", ".join(heads) if isinstance(heads, dict) else ""),
        ("architecture", str(subject.encoder["architecture"]) + (", other sizes" if subject.encoder.get("model_args") else "")),
        ("towers of words", ", ".join(filter(None, (_short(run.setting(f"model.{name}")) for name in ("text", "fusion"))))),
        ("steps", f"{subject.step:,}" + (f" of {run.max_steps:,}" if run.max_steps > subject.step else "")),
        ("pictures in a step", f"{run.batch_size:,}" if run.batch_size else ""),
        ("learned at", _pixels(subject)),
        ("precision", str(run.fact("precision") or run.setting("trainer.precision") or "")),
        ("every option", "[config.yaml](config.yaml)"),
    ]


def _short(stated: Any) -> str:
    """The class that a config names, without its module."""
    return str(stated.get("class_path") or "").rpartition(".")[2] if isinstance(stated, dict) else ""


def _pixels(subject: Subject) -> str:
    _, height, width = subject.encoder["pretrained_cfg"]["input_size"]
    return f"{height} x {width} pixels"


def _pictures(subject: Subject) -> str:
    shown = []
    for name in sorted(subject.names, key=lambda name: (not name.startswith("pictures/reconstruction"), name)):
        kind = Path(name).stem
        if name.startswith("pictures/"):
            note = next((text for word, text in _PICTURES.items() if kind.startswith(word)), "")
            shown.append(f"**{kind.replace('_', ' ')}**. {note}\n\n![{kind}]({name})")
    return "\n\n".join(shown)


def _metrics(subject: Subject) -> str:
    rows = [(f"`{one.tag}`", f"{number(one.value)} (step {one.step:,})") for one in metrics(subject.run, subject.step)]
    notes = "Measured by the run on its validation pictures." if rows else ""
    return f"{notes}\n\n{_table(rows)}" if rows else ""


def _cost_rows(run: Recorded) -> list[tuple[str, str]]:
    processes, seconds = run.fact("world_size", 1), run.fact("seconds")
    return [
        ("time", " = ".join(dict.fromkeys([duration(seconds), f"{seconds:,.0f} s"])) if seconds else ""),
        ("device", f"{run.fact('device') or ''}" + (f", {processes} processes" if processes > 1 else "")),
        ("pictures seen", f"{run.fact('images_seen'):,}" if run.fact("images_seen") else ""),
        ("weights of the encoder", f"{run.fact('parameters.encoder'):,}" if run.fact("parameters.encoder") else ""),
    ]


def _is_pretraining(run: Recorded) -> bool:
    return "pixels" in run.objectives and not run.setting("model.heads")


def _table(rows: list[tuple[str, str]]) -> str:
    kept = [(name, value.replace("|", "\\|").replace("\n", " ")) for name, value in rows if value]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in kept)]) if kept else ""
