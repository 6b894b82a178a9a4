"""Teachers of a distillation: what they are, of which encoder and heads, and their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from lightning import LightningModule
from torch import Tensor

from mae_vlm.convert import native, native_run, trust
from mae_vlm.convert.found import Found, encoder_class
from mae_vlm.encoders.vit import Vit
from mae_vlm.learners.finetune import Finetuner
from mae_vlm.learners.pretrain import Pretrainer
from mae_vlm.learners.teaching import Teaching
from mae_vlm.objectives.distil import Distil

DISTIL = "mae_vlm.objectives.distil.Distil"
CLASSIFY, SEGMENT = "mae_vlm.heads.classify.Classify", "mae_vlm.heads.segment.Segment"
_TRAINING_ALONE = ("drop_path", "checkpoint_blocks")


def complete(config: dict[str, Any]) -> None:
    """Let a config (changed in place) name the encoders and heads of the models that its objectives or heads learn from.

    Raises:
        ValueError: there is no such model, or it has no head that could teach one here.
    """
    options = (config.get("model") or {}).get("init_args") or {}
    for name, part in (options.get("objectives") or {}).items():
        own = (part.get("init_args") or {}) if isinstance(part, dict) and part.get("class_path") == DISTIL else {}
        if own.get("teacher") is not None and own.get("encoder") is None:
            own["encoder"] = _stated(_read(f"model.objectives.{name}.teacher", own["teacher"]))
    teacher = options.get("teacher")
    own = (teacher.get("init_args") or {}) if isinstance(teacher, dict) else {}
    if own.get("weights") is not None and own.get("encoder") is None:
        own["encoder"] = _stated(_read("model.teacher.weights", own["weights"]))
        own["heads"] = {name: stated for name, (stated, _) in _heads(own["weights"], options.get("heads") or {}).items()}


def begin(model: LightningModule) -> list[str]:
    """Fill the teachers of a model that begins afresh; says in a line each what became of their weights.

    Raises:
        ValueError: there is no such model, or its weights don't fit.
    """
    if isinstance(model, Finetuner) and model.teacher is not None and model.teacher.weights is not None:
        return [_adopt_heads(model.teacher, model.teacher.weights)]
    if not isinstance(model, Pretrainer):
        return []
    parts = {name: part for name, part in model.objectives.items() if isinstance(part, Distil) and part.source is not None}
    return [_adopt(f"model.objectives.{name}.teacher", part) for name, part in parts.items()]


def _adopt(option: str, part: Distil) -> str:
    found = _read(option, str(part.source))
    _check(option, found, part.teacher)
    part.adopt(found.weights)
    return _told(found, part.teacher)


def _adopt_heads(teaching: Teaching, weights: str) -> str:
    found, encoder = _read("model.teacher.weights", weights), teaching.towers.image
    _check("model.teacher.weights", found, encoder)
    encoder.load_state_dict(found.weights, strict=False)
    wanted = {name: {"class_path": f"{type(head).__module__}.{type(head).__qualname__}"} for name, head in teaching.heads.items()}
    for name, (_, state) in _heads(weights, wanted).items():
        try:
            teaching.heads[name].load_state_dict(state)
        except RuntimeError as problem:
            raise ValueError(
                f"model.teacher.weights {weights}: its head {name} does not fit: {' '.join(str(problem).split())}"
            ) from problem
    teaching.adopted = True
    return f"{_told(found, encoder)}; teaches {', '.join(teaching.heads)}"


def _read(option: str, teacher: str) -> Found:
    try:
        found = native_run.read(teacher)
        encoder_class(found.encoder["class_path"])  # a file that somebody hands over names no class but an encoder of ours
    except ValueError as problem:
        raise ValueError(f"{option} {teacher}: {problem}") from problem
    return found


def _stated(found: Found) -> dict[str, Any]:
    """Class and options of the teacher's encoder, but for those of its training."""
    options = {name: value for name, value in found.encoder["init_args"].items() if name not in _TRAINING_ALONE}
    return {"class_path": found.encoder["class_path"], "init_args": options}


def _check(option: str, found: Found, encoder: Any) -> None:
    try:
        found.check(cast(Vit, encoder))
    except ValueError as problem:
        raise ValueError(f"{option}: {problem}") from problem


def _told(found: Found, encoder: Any) -> str:
    count = sum(weight.numel() for weight in encoder.parameters())
    notes = found.told() if found.kind != native_run.OURS else []
    return "; ".join([f"teacher: encoder of {found.place} ({found.kind}), width {encoder.width}, {count:,} weights", *notes])


def _heads(weights: str, wanted: dict[str, Any]) -> dict[str, tuple[dict[str, Any], dict[str, Tensor]]]:
    """For each head here that can be taught, by its name, the config and weights of the teacher's of that name, or else of its class.

    Raises:
        ValueError: there is none at all.
    """
    there, found = _taught_by(weights), {}
    for name, part in wanted.items():
        kind = part.get("class_path") if isinstance(part, dict) else None
        same = {one: stated for one, stated in there.items() if kind in (CLASSIFY, SEGMENT) and stated[0].get("class_path") == kind}
        if same:
            found[name] = same.get(name) or next(iter(same.values()))
    if not found:
        has = ", ".join(f"{name} ({str(stated.get('class_path')).rpartition('.')[2]})" for name, (stated, _) in there.items()) or "none"
        raise ValueError(f"model.teacher.weights {weights}: its heads are {has}; one that is a Classify or a Segment, as here, can teach")
    return found


def _taught_by(weights: str) -> dict[str, tuple[dict[str, Any], dict[str, Tensor]]]:
    """Config and weights of each head of a model; of another format's, its classifier."""
    if not Path(weights).exists() or native.elsewhere(weights) is not None:
        classifier = native_run.read(weights).classifier
        stated = {} if classifier is None else {"class_path": CLASSIFY, "init_args": {"classes": classifier.classes}}
        return {} if classifier is None else {"classify": (stated, classifier.weights)}
    config, state = native.read(weights, words=False)
    heads = trust.check({"heads": (config["model"].get("init_args") or {}).get("heads") or {}}, weights, {})["heads"]
    return {name: (stated, _below(state, f"heads.{name}.")) for name, stated in heads.items() if isinstance(stated, dict)}


def _below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
