"""Automatic choices of a fine-tuning: the encoder it starts from, the classes to learn, the rates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.callbacks import Callback

from mae_vlm.callbacks.embeddings import Embeddings
from mae_vlm.callbacks.predictions import Predictions
from mae_vlm.cli import continuing, distilling
from mae_vlm.cli.chooser import Choice, Chooser
from mae_vlm.cli.console import say
from mae_vlm.convert import native, native_run, trust
from mae_vlm.convert.channels import adapted
from mae_vlm.convert.found import OTHERS, TIMM_VIT, VIT, encoder_class
from mae_vlm.data.summary import Summary
from mae_vlm.heads.base import Head
from mae_vlm.learners.finetune import Finetuner
from mae_vlm.learners.optim import default_finetuning_lr
from mae_vlm.learners.pretrain import Pretrainer

FINETUNER = "mae_vlm.learners.finetune.Finetuner"
EPOCHS = 100  # of MAE's fine-tuning of ViT-B (He et al. 2021, table 9)
_LACKING = {
    "classes": "labels to learn; put the pictures into a folder for each class, or name data.label_column",
    "object_classes": "boxes of named objects to learn; give them with data.annotations",
    "semantic_classes": "masks of named classes to learn; give them with data.annotations",
}
_NUMBERS = ("l1", "l2", "smooth_l1")
_SEEN = ("image_size", "channels", "mean", "std")  # of the data, too: said there, it wins


class Start(NamedTuple):
    """The towers to start from: their config (of the encoder, of text and fusion), their run, and which keys the user has set.

    ``decoder`` are the options of its pixel decoder, for a pretraining that goes on with it.
    """

    encoder: dict[str, Any]
    words: dict[str, Any]
    weights: str
    explicit: frozenset[str]
    decoder: dict[str, Any] | None = None


def start(config: dict[str, Any], explicit: Iterable[str]) -> Start | None:
    """Where a fine-tuning or a pretraining starts, by ``model.weights`` of its config; ``explicit`` are the keys that the user has set.

    Teachers that the config names get their encoders there.

    Raises:
        ValueError: there is none, or its towers of words are of a class that nobody vouches for.
    """
    distilling.complete(config)
    model = config.get("model") or {}
    weights = (model.get("init_args") or {}).get("weights")
    if model.get("class_path") not in (FINETUNER, continuing.PRETRAINER) or weights is None:
        return None
    said = [key for key in explicit if not (isinstance(explicit, Mapping) and explicit[key] in (None, "null", "None"))]  # null opens one
    stated, keys = native.stated_encoder(weights)[0], frozenset(key.replace(".init_args", "") for key in said)
    words = trust.check(native.stated_words(weights)[0], weights, explicit if isinstance(explicit, Mapping) else {})
    if model["class_path"] == FINETUNER:
        return Start(stated, words, str(weights), keys)
    decoder = native_run.read(weights).decoder
    return Start(stated, words, str(weights), keys, None if decoder is None else decoder.options)


def begin(model: Any, summary: Summary, verb: str, afresh: bool) -> None:
    """Before a run: see that the data fits the heads, and where it begins ``afresh`` take its trained weights, and its teachers'.

    Raises:
        ValueError: the data or the weights do not fit.
    """
    if verb == "test" and not summary.test:
        say("no test part: the figures of test are those of the validation pictures, by which the best checkpoint was chosen, too")
    if isinstance(model, Pretrainer) and afresh and model.weights is not None:
        say(continuing.adopt(model, model.weights))
    if afresh:
        for line in distilling.begin(model):
            say(line)
    if not isinstance(model, Finetuner):
        return
    if verb != "predict":
        model.check(summary)
    if afresh and model.weights is not None:
        say(adopt(model, model.weights))


def writer(model: Any, out: Path, source: str) -> Callback:
    """What ``predict`` leaves behind: a fine-tuned model's answers, a pretrained one's features, or where pictures lie beside texts."""
    answers = isinstance(model, Finetuner) and not all(head.embeds for head in model.heads.values())
    return Predictions(out, source) if answers else Embeddings(out)


def adopt(model: Finetuner, weights: str) -> str:
    """Let a Finetuner start from the encoder of a run; says in a line what became of its weights.

    Raises:
        ValueError: there is no checkpoint of ours, or its weights don't fit, with both sizes.
    """
    found = native_run.read(weights)
    state, told_channels = adapted(found.weights, model.towers.image.space.channels)
    if "vit.patch_embed.proj.weight" not in state and found.encoder["class_path"] not in OTHERS:
        raise ValueError(f"model.weights {weights}: its checkpoint holds no weights of an encoder; give a run that was trained here")
    try:
        filled = model.adopt(state, continuing.grid_of(found.encoder, state))
    except ValueError as problem:
        raise ValueError(f"model.weights {weights}: {problem}") from problem
    told = [continuing.in_words(found, filled), *([told_channels] if told_channels else [])]
    told += found.told() if found.kind != native_run.OURS else []
    if model.towers.text is not None:
        told += _adopt_words(model, weights)
    return "; ".join(told)


def _adopt_words(model: Finetuner, weights: str) -> list[str]:
    there = native.stated_words(weights)[1]
    try:
        filled = model.adopt_words(there)
    except ValueError as problem:
        raise ValueError(f"model.weights {weights}: {problem}") from problem
    missing = [f"missing there and new: {', '.join(filled.missing)}"] if filled.missing else []
    taken = sum(not name.startswith("image.") for name in there) - len(filled.unexpected)
    return [f"towers of words: {taken} weights taken", *missing]


def is_one(c: Chooser) -> bool:
    """Whether the config is of a fine-tuning."""
    return str(c.get("model.class_path")) == FINETUNER


def encoder_as(c: Chooser, start: Start) -> None:
    """The encoder's options as in the run it starts from, but for what the user has set here."""
    encoder = c.get("model.init_args.encoder")
    if isinstance(encoder, dict) and encoder.get("class_path") == VIT and start.encoder["class_path"] in (TIMM_VIT, *OTHERS):
        _become(encoder, start)
    if not isinstance(encoder, dict) or encoder.get("class_path") != start.encoder["class_path"]:
        return
    options, there = encoder.setdefault("init_args", {}), start.encoder["init_args"]
    channels = c.get("data.channels") if "data.channels" in start.explicit else options.get("channels")
    other = channels is not None and channels != (there.get("channels") or 3)
    for name, value in there.items():
        said = f"model.encoder.{name}" in start.explicit or (name in _SEEN and f"data.{name}" in start.explicit)
        if value is None or said or name in ("drop_path", "checkpoint_blocks") or options.get(name) == value:
            continue
        if other and name in ("channels", "mean", "std"):  # those of its channels say nothing of others
            continue
        options[name] = value
        c.choices.append(Choice(f"model.init_args.encoder.init_args.{name}", value, f"as in {start.weights}"))


def _become(encoder: dict[str, Any], start: Start) -> None:
    """Let the config's plain encoder be the encoder whose weights it takes; of its options those stay that the other has, too.

    Raises:
        ValueError: the user has set a size, which the weights decide.
    """
    kind = start.encoder["class_path"]
    taken = signature(encoder_class(kind)).parameters
    for key in sorted(start.explicit):
        where, _, name = key.rpartition(".")
        if where == "model.encoder" and name not in (*taken, "class_path"):
            raise ValueError(f"{key} given, but the encoder of {start.weights} is a {kind}, with sizes of its own; leave it out")
    said = {key.removeprefix("model.encoder.") for key in start.explicit if key.startswith("model.encoder.")}
    encoder["class_path"] = kind
    encoder["init_args"] = {name: value for name, value in (encoder.get("init_args") or {}).items() if name in said}


def words_as(c: Chooser, start: Start) -> None:
    """The towers of words as in the run it starts from, where a head looks at them and nobody has named others."""
    kinds = [_class_of(head) for head in (c.get("model.init_args.heads") or {}).values()]
    parts = list((c.get("model.init_args.heads") or {}).values())
    views = {view for kind, part in zip(kinds, parts, strict=True) if kind is not None for view in kind.looks(_options(part))}
    for tower, wanted in (("text", {"text", "fused"}), ("fusion", {"fused"}), ("regions", {"fused"})):
        if views & wanted and tower in start.words:
            c.fill(f"model.init_args.{tower}", partial(_as_there, start.words[tower], start.weights))
    for name, kind in zip(c.get("model.init_args.heads") or {}, kinds, strict=True):
        if kind is not None and {"width", "pool"} <= signature(kind).parameters.keys() and "joint" in start.words:
            options = c.get("model.init_args.heads")[name].setdefault("init_args", {})
            for option, value in start.words["joint"].items():  # of the space that pictures and texts share there
                options.setdefault(option, None)
                c.fill(f"model.init_args.heads.{name}.init_args.{option}", partial(_as_there, value, start.weights))


def _options(part: Any) -> dict[str, Any]:
    return dict((part.get("init_args") if isinstance(part, dict) else None) or {})


def _as_there(value: Any, weights: str) -> tuple[Any, str]:
    return value, f"as in {weights}"


def heads(c: Chooser) -> None:
    """Classes of the heads that need them.

    Raises:
        ValueError: the collection has no labels.
    """
    for name, head in (c.get("model.init_args.heads") or {}).items():
        kind = _class_of(head)
        learns = "" if kind is None else kind.learned(head.get("init_args") or {})
        if learns and learns != "answers":  # those are looked for apart, in all questions
            options = head.setdefault("init_args", {})
            number = options.get("loss") in _NUMBERS
            options.setdefault("classes", None)
            if number and c.summary.numbers and kind is not None and "centre" in signature(kind).parameters:
                for option, values in zip(("centre", "spread"), c.summary.numbers, strict=True):
                    options.setdefault(option, None)
                    c.fill(f"model.init_args.heads.{name}.init_args.{option}", partial(_told, values))
            c.fill(f"model.init_args.heads.{name}.init_args.classes", partial(_classes, c, learns, number))
            if learns == "object_classes" and kind is not None:
                _objects(c, f"model.init_args.heads.{name}.init_args", options, signature(kind).parameters)


def _objects(c: Chooser, at: str, options: dict[str, Any], taken: Iterable[str]) -> None:
    """The collection's own numbers of the classes, and which are stuff, for a head that takes them."""
    told = {"ids": c.summary.object_ids, "stuff": c.summary.stuff if options.get("task") == "panoptic" else None}
    for option, value in told.items():
        if option in taken and value is not None and options["classes"] == c.summary.object_classes:
            options.setdefault(option, None)
            c.fill(f"{at}.{option}", partial(_categories, value))


def _categories(values: list[Any]) -> tuple[list[Any], str]:
    return list(values), "of the training data's categories"


def _class_of(head: Any) -> type[Head] | None:
    """The class that a config names; None where it is not one of ours, which the parser tells."""
    module, _, name = str(head.get("class_path") if isinstance(head, dict) else "").rpartition(".")
    if not module.startswith("mae_vlm.heads."):
        return None
    try:
        kind = getattr(import_module(module), name, None)
    except ImportError:
        return None
    return kind if isinstance(kind, type) and issubclass(kind, Head) else None


def _told(values: list[float]) -> tuple[list[float], str]:
    return values, "of up to 64 training pictures' numbers"


def _classes(c: Chooser, learns: str, number: bool) -> tuple[Any, str]:
    if number:
        count = len(c.summary.numbers[0]) if c.summary.numbers else 1
        return count, "numbers to learn"
    names = getattr(c.summary, learns)
    if names is None:
        where = c.summary.path or "the collection"
        raise ValueError(f"{where} has no {_LACKING[learns]}")
    return list(names), "of the training data"


def rates(c: Chooser) -> None:
    """Base rate and layer decay, by whether the encoder is trained already."""
    at, weights = "model.init_args.optimizer.init_args", c.get("model.init_args.weights")
    why = "from trained weights" if weights else "from scratch"
    c.fill(f"{at}.base_lr", lambda: (default_finetuning_lr(weights is not None), why))
    if weights and not c.get("model.init_args.lora"):  # adapters all begin with nothing
        c.fill(f"{at}.layer_decay", lambda: (0.75, f"{why}: lower layers learn less; 1.0 for none"))
