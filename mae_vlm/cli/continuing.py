"""A pretraining that goes on from trained weights: of a run, or of any format that can be read."""

from __future__ import annotations

from typing import Any

from timm.layers import resample_abs_pos_embed
from torch import Tensor

from mae_vlm.cli.chooser import Choice, Chooser
from mae_vlm.convert import native, native_run
from mae_vlm.convert.channels import adapted
from mae_vlm.convert.found import OTHERS, Decoder, Found, encoder_class
from mae_vlm.encoders.text.base import TextTower
from mae_vlm.encoders.weights import Filled
from mae_vlm.learners.pretrain import Pretrainer
from mae_vlm.objectives.pixels import Pixels
from mae_vlm.tokens.words import read
from mae_vlm.types import sides

PRETRAINER = "mae_vlm.learners.pretrain.Pretrainer"
PIXELS = "mae_vlm.objectives.pixels.Pixels"
BASE_LR = 1.5e-4  # the MAE paper's, of long runs: what is trained already must not be thrown about by the rates of short ones


def decoder_as(c: Chooser, decoder: dict[str, Any], weights: str, explicit: frozenset[str]) -> None:
    """The pixel decoders' options as in the model they start from, but for what the user has set."""
    for name, objective in (c.get("model.init_args.objectives") or {}).items():
        if not isinstance(objective, dict) or objective.get("class_path") != PIXELS:
            continue
        options = objective.setdefault("init_args", {})
        for option, value in decoder.items():
            if f"model.objectives.{name}.{option}" not in explicit and options.get(option) != value:
                options[option] = value
                c.choices.append(Choice(f"model.init_args.objectives.{name}.init_args.{option}", value, f"as in {weights}"))


def words_as(c: Chooser, words: dict[str, Any], weights: str, explicit: frozenset[str]) -> None:
    """In a pretraining with words its towers of words as there, with their vocabulary.

    The config's own wins where it is of another class, or the user has set an option of it; which one wins is said.
    """
    if str(c.get("model.class_path")) != PRETRAINER:
        return
    for tower in ("text", "fusion"):
        own, there = c.get(f"model.init_args.{tower}"), words.get(tower)
        if not isinstance(own, dict) or there is None or own == there:
            continue
        if own.get("class_path") != there["class_path"]:
            why = f"named here, and wins over the {_name(there)} of {weights}, whose weights stay behind; name that class to take them"
        elif said := _set_otherwise(tower, own, there, explicit):
            why = f"with its options set here, which win over those of {weights} as {said[0]} is set; set none to take them"
        else:
            c.config["model"]["init_args"][tower], why = there, f"with its options and vocabulary as in {weights}"
        c.choices.append(Choice(f"model.init_args.{tower}", c.get(f"model.init_args.{tower}")["class_path"], why))


def _set_otherwise(tower: str, own: dict[str, Any], there: dict[str, Any], explicit: frozenset[str]) -> list[str]:
    """The options of a tower that the user has set to something else than they are there."""
    options, theirs = own.get("init_args") or {}, there.get("init_args") or {}
    set_here = {key for key in explicit if key.startswith(f"model.{tower}.") and key != f"model.{tower}.class_path"}
    return sorted(key for key in set_here if options.get(name := key.split(".")[2]) != theirs.get(name))


def _name(stated: dict[str, Any]) -> str:
    """The name of a config's class without its module."""
    return str(stated["class_path"]).rpartition(".")[2]


def adopt(model: Pretrainer, weights: str) -> str:
    """Let a Pretrainer start from a model's encoder, and from its decoder where both have one; says in a line what became of its weights.

    Raises:
        ValueError: there is no such model, or the encoder's weights don't fit, with both sizes.
    """
    found = native_run.read(weights)
    state, told_channels = adapted(found.weights, model.towers.image.space.channels)
    if "vit.patch_embed.proj.weight" not in state and found.encoder["class_path"] not in OTHERS:
        raise ValueError(f"model.weights {weights}: it holds no weights of an encoder")
    there = grid_of(found.encoder, state)
    try:
        filled = model.adopt(state, there)
    except ValueError as problem:
        raise ValueError(f"model.weights {weights}: {problem}") from problem
    told = [in_words(found, filled), told_channels, _adopt_decoders(model, found.decoder, there), _adopt_words(model, weights)]
    return "; ".join(filter(None, [*told, *found.told()]))


def _adopt_words(model: Pretrainer, weights: str) -> str:
    """Take the towers of words where both have them, of the same class and with the same vocabulary.

    Raises:
        ValueError: they are of another size, with both sizes.
    """
    if model.towers.text is None:
        return ""
    stated, there = native.stated_words(weights)
    if "text" not in stated or not any(name.startswith("text.") for name in there):
        return "towers of words: none there, begin anew"
    if why := _strange(model.towers.text, stated["text"]):
        return f"towers of words: begin anew, as {why}"
    own, other = model.towers.fusion, stated.get("fusion")
    if own is not None and other is not None and not _is_of(own, other):
        there = {name: value for name, value in there.items() if not name.startswith("fusion.")}
    try:
        filled = model.adopt_words(there)
    except ValueError as problem:
        raise ValueError(f"model.weights {weights}: {problem}") from problem
    new = f", missing there and new: {', '.join(filled.missing)}" if filled.missing else ""
    taken = sum(not name.startswith("image.") for name in there) - len(filled.unexpected)
    useless = filled.unexpected
    left = f", {len(useless)} of no use here, such as {', '.join(useless[:3])}" if useless else ""
    return f"towers of words: {taken} weights taken{new}{left}"


def _strange(own: TextTower, there: dict[str, Any]) -> str:
    """Why the weights of a text tower say nothing to another one; empty where they do."""
    if not _is_of(own, there):
        return f"the text tower there is a {_name(there)}"
    place = (there.get("init_args") or {}).get("vocabulary")
    same = place is None or read(place).tokenizer.get_vocab() == own.vocabulary.tokenizer.get_vocab()
    return "" if same else "the vocabulary there is another; leave model.text's options open to take both"


def _is_of(own: object, there: dict[str, Any]) -> bool:
    return f"{type(own).__module__}.{type(own).__name__}" == str(there["class_path"])


def grid_of(stated: dict[str, Any], state: dict[str, Tensor]) -> tuple[int, int]:
    """Rows and columns of patches that an encoder's weights were trained on."""
    if stated["class_path"] in OTHERS:  # whose patches its weights do not tell
        space = encoder_class(stated["class_path"])(**stated["init_args"]).space
        return int(space.rows), int(space.columns)
    patch = state["vit.patch_embed.proj.weight"].shape[-1]
    height, width = sides(stated["init_args"].get("image_size") or 224)
    return height // patch, width // patch


def in_words(found: Found, filled: Filled) -> str:
    """What became of an encoder's weights."""
    told = [f"encoder of {found.place} ({found.kind}): {len(found.weights) - len(filled.unexpected)} weights taken"]
    told += [filled.resampled] if filled.resampled else []
    told += [f"missing there and new: {', '.join(filled.missing)}"] if filled.missing else []
    told += [f"of no use here: {', '.join(filled.unexpected)}"] if filled.unexpected else []
    return "; ".join(told)


def _adopt_decoders(model: Pretrainer, decoder: Decoder | None, there: tuple[int, int]) -> str:
    parts = {name: part for name, part in model.objectives.items() if isinstance(part, Pixels)}
    if not parts:
        return ""
    if decoder is None:
        return "decoder: none there, begins anew"
    return "; ".join(_adopt_decoder(name, part, decoder, there) for name, part in parts.items())


def _adopt_decoder(name: str, part: Pixels, decoder: Decoder, there: tuple[int, int]) -> str:
    """Take whatever fits, and name what does not: a decoder is only the means, and learns again."""
    own, given = part.decoder.state_dict(), dict(decoder.weights)
    here, table, resampled = (part.space.rows, part.space.columns), given.get("decoder_pos_embed"), ""
    if table is not None and there != here and table.shape[-1] == own["decoder_pos_embed"].shape[-1]:
        given["decoder_pos_embed"] = resample_abs_pos_embed(table, list(here), list(there), num_prefix_tokens=part.decoder.prefix)
        resampled = f", positions resampled from {there[0]} x {there[1]} to {here[0]} x {here[1]}"
    fits = {key: value for key, value in given.items() if key in own and own[key].shape == value.shape}
    part.decoder.load_state_dict(fits, strict=False)
    other = [key for key in own if key not in fits]
    new = f", new as of another shape or not there: {', '.join(other)}" if other else ""
    return f"decoder of {name}: {len(fits)} of {len(given)} weights taken{resampled}{new}"
