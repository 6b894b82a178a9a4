"""A run of ours as a model with its decoder or classifier, and the other way: a run folder out of another format's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from mae_vlm import __version__, storage
from mae_vlm.convert import native
from mae_vlm.convert.found import Classifier, Decoder, Found, Text
from mae_vlm.encoders.vit import Vit
from mae_vlm.hub.names import is_name
from mae_vlm.tokens import words
from mae_vlm.types import CHECKPOINT_FORMAT, CHECKPOINT_KEY

_PIXELS, _CLASSIFY = "mae_vlm.objectives.pixels.Pixels", "mae_vlm.heads.classify.Classify"
OURS = "a run of ours"
CONVERTED = "converted"  # in the config that a checkpoint keeps: what it was made of, and that no training has left a state in it


def read(source: str | Path, weights: str = "raw") -> Found:
    """A model out of anything that can be read: a run or checkpoint of ours, a name on the hub, or another format.

    Raises:
        ValueError: see :func:`mae_vlm.convert.native.stated_encoder`; or averaged weights wanted of what has none.
    """
    found = native.elsewhere(source)
    if found is not None:
        if weights != "raw":
            raise ValueError(f"{source} is no run of ours: it has no averaged weights; leave --weights out")
        return found
    encoder, tower = native.stated_encoder(source, weights)
    if is_name(source):
        return Found(OURS, str(source), encoder, tower)
    config, state = native.read(source, weights)
    options = config["model"]["init_args"]
    decoder, left = _decoder(options.get("objectives") or {}, state)
    classifier, more = _classifier(options.get("heads") or {}, state)
    left += [*more, *(name for name in ("text", "fusion") if options.get(name) is not None)]
    notes = [f"left behind: {', '.join(left)}"] if left else []
    ratio = ((options.get("masking") or {}).get("init_args") or {}).get("ratio", 0.75)
    may_lack = ("vit.norm.weight", "vit.norm.bias") if "vit.norm.weight" not in tower else ()
    return Found(OURS, str(source), encoder, tower, decoder, classifier, ratio=ratio, notes=tuple(notes), may_lack=may_lack)


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _decoder(objectives: dict[str, Any], state: dict[str, Tensor]) -> tuple[Decoder | None, list[str]]:
    """The first pixel decoder, and the names of the objectives that stay behind."""
    pixels = [name for name, one in objectives.items() if isinstance(one, dict) and one.get("class_path") == _PIXELS]
    left = [f"objectives.{name}" for name in objectives if name not in pixels[:1]]
    if not pixels:
        return None, left
    own, options = _part(state, f"objectives.{pixels[0]}.decoder."), dict(objectives[pixels[0]].get("init_args") or {})
    if "decoder_embed.weight" not in own:  # a checkpoint that somebody has thinned out
        return None, left
    width = options.get("width") or len(own["decoder_embed.weight"])
    depth = 1 + max((int(name.split(".")[1]) for name in own if name.startswith("decoder_blocks.")), default=-1)
    sizes = {"width": width, "depth": depth, "heads": options.get("heads") or max(1, width // 32)}
    return Decoder(sizes | {"normalise": bool(options.get("normalise", True))}, own), left


def _classifier(heads: dict[str, Any], state: dict[str, Tensor]) -> tuple[Classifier | None, list[str]]:
    """The only head, where it names classes, and the names of the heads that stay behind."""
    options = {
        name: dict(one.get("init_args") or {})
        for name, one in heads.items()
        if isinstance(one, dict) and one.get("class_path") == _CLASSIFY
    }
    kept = [name for name, one in options.items() if one.get("loss", "cross_entropy") in ("cross_entropy", "binary")]
    if len(heads) != 1 or len(kept) != 1:
        return None, [f"heads.{name}" for name in heads]
    own = {name: value for name, value in _part(state, f"heads.{kept[0]}.").items() if name.startswith(("norm.", "linear."))}
    classes = options[kept[0]].get("classes")
    return Classifier([str(one) for one in classes] if isinstance(classes, list) else len(own["linear.bias"]), own), []


def write(found: Found, encoder: Vit, folder: Path) -> list[Path]:
    """Write a run folder: ``checkpoints/last.ckpt`` with its checksum, and the config.yaml that it holds, to start from or to look with.

    It has no state of an optimizer: ``--model.weights DIR`` starts from it, ``--ckpt_path DIR`` validates and predicts.
    """
    state = {f"towers.image.{name}": value for name, value in encoder.state_dict().items()}
    model = _finetuner(found, state) if found.classifier is not None else _pretrainer(found, state)
    space = encoder.space
    data = {"image_size": [space.height, space.width], "channels": space.channels}
    mark: dict[str, Any] = {"format": CHECKPOINT_FORMAT}
    if found.text is not None:
        mark["text"] = _text(found.text, model, state)
    origin = f"{found.kind}: {found.place}"
    config = {"seed_everything": 0, "model": model, "data": data}
    content = {
        CHECKPOINT_KEY: mark | {"config": _yaml(config | {CONVERTED: origin}), "made_by": f"mae_vlm {__version__} convert", "from": origin},
        "state_dict": {name: value.detach().contiguous().clone() for name, value in state.items()},
        "epoch": 0, "global_step": 0, "pytorch-lightning_version": "2.6.6", "optimizer_states": [], "lr_schedulers": [],
    }  # fmt: skip
    file = folder / "checkpoints" / storage.LAST
    storage.write_whole(file, lambda stream: torch.save(content, stream), step=0)
    (folder / "config.yaml").write_text(_yaml(config))
    return [file, folder / "config.yaml"]


def _yaml(config: dict[str, Any]) -> str:
    return yaml.safe_dump(config, sort_keys=False)


def _pretrainer(found: Found, state: dict[str, Tensor]) -> dict[str, Any]:
    objectives: dict[str, Any] = {}
    if found.decoder is not None:
        objectives["pixels"] = {"class_path": _PIXELS, "init_args": found.decoder.options}
        state |= {f"objectives.pixels.decoder.{name}": value for name, value in found.decoder.weights.items()}
    mask = {"class_path": "mae_vlm.tokens.masking.RandomMask", "init_args": {"ratio": found.ratio}}
    options = {
        "encoder": found.encoder,
        "masking": mask,
        "objectives": objectives,
        "optimizer": {"class_path": "mae_vlm.learners.optim.AdamW"},
    }
    return {"class_path": "mae_vlm.learners.pretrain.Pretrainer", "init_args": options}


def _finetuner(found: Found, state: dict[str, Tensor]) -> dict[str, Any]:
    assert found.classifier is not None
    head = {"class_path": _CLASSIFY, "init_args": {"classes": found.classifier.classes}}
    state |= {f"heads.classify.{name}": value for name, value in found.classifier.weights.items()}
    options = {"encoder": found.encoder, "heads": {"classify": head}, "optimizer": {"class_path": "mae_vlm.learners.optim.AdamW"}}
    return {"class_path": "mae_vlm.learners.finetune.Finetuner", "init_args": options}


def _text(text: Text, model: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Any]:
    """What the checkpoint must hold of the text tower; its config names the classes, the weights go to the rest."""
    options = dict(text.stated["init_args"])
    vocabulary = words.read(options.pop("vocabulary")).json
    model["init_args"]["text"] = {"class_path": text.stated["class_path"], "init_args": options}
    if text.fusion is not None:
        model["init_args"]["fusion"] = text.fusion
    state |= {f"towers.{name}": value for name, value in text.weights.items()}
    return {"vocabulary": vocabulary, "config": options["config"]}
