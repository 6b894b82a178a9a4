"""Which settings change what a number means, so that it must not be compared between the choices."""

from __future__ import annotations

import re
from typing import Any

Config = dict[str, Any]

_PIXELS = "mae_vlm.objectives.pixels.Pixels"
_PER_PICTURE = {_PIXELS}  # objectives whose loss of a picture does not depend on the other pictures of its batch
_SIZES = ("width", "depth", "heads")  # of an objective's own network: they change how well it does, not what is asked

# what another value does to the validation loss, by the key in a run's resolved config
_LOSS = (
    (r"model\.class_path", "another learner has another loss"),
    (r"model\.init_args\.masking\.", "another mask hides other patches, and the loss is taken over the hidden ones"),
    (r"model\.init_args\.encoder\.init_args\.(patch|image_size|channels)", "another patch or picture is another target"),
    (r"(data|model\.init_args\.encoder\.init_args)\.(mean|std)", "the pixels to predict are scaled otherwise"),
    (r"data\.(image_size|channels|bits|value_range)", "other pixels are to be predicted"),
    (r"model\.init_args\.text\.", "another text tower may see the words cut otherwise"),
)
# and what changes the held-out pictures, or the probe: neither loss nor score can be compared then
_HELD_OUT = (
    (
        r"data\.(path|format|annotations|val_path|val_fraction|mixture|val_scenes|seed|(image|label|caption|question|answer|split)_column)",
        "the held-out pictures are others",
    ),
    (r"trainer\.limit_val_batches", "another part of the held-out pictures is looked at"),
)
_PROBE = ((r"probes\.", "the probe itself measures otherwise"),)
_ALWAYS_DIFFERS = {"seed_everything", "name", "ckpt_path", "data.seed", "data.num_workers", "trainer.default_root_dir"}


def differing(configs: list[Config], asked: tuple[str, ...] = ()) -> list[str]:
    """Dotted keys whose value is not the same in all configs; what every run has of its own only where it was ``asked`` for."""
    flat = [flatten(config) for config in configs]
    keys = sorted(set().union(*flat))
    ignored = _ALWAYS_DIFFERS - set(asked)
    return [key for key in keys if key not in ignored and any(one.get(key) != flat[0].get(key) for one in flat)]


def flatten(config: Config, prefix: str = "") -> Config:
    """Leaves by dotted key; lists are leaves."""
    leaves: Config = {}
    for key, value in config.items():
        leaves |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + str(key): value}
    return leaves


def loss_reasons(configs: list[Config], asked: tuple[str, ...] = ()) -> list[str]:
    """Why ``val/loss`` cannot be compared between runs of these resolved configs; empty where it can."""
    keys = differing(configs, asked)
    reasons = _matching(keys, (*_LOSS, *_HELD_OUT))
    patches = {_named_patch(config) for config in configs}
    if len(patches) > 1:
        reasons.append("model.init_args.encoder.init_args.name: another patch is another target")
    return reasons + _objectives(keys, configs) + _batch(keys, configs)


def score_reasons(configs: list[Config], asked: tuple[str, ...] = ()) -> list[str]:
    """Why probes and recall cannot be compared either; empty where they can."""
    return _matching(differing(configs, asked), (*_HELD_OUT, *_PROBE))


def _matching(keys: list[str], rules: tuple[tuple[str, str], ...]) -> list[str]:
    """One reason for each rule that a key meets, with the first such key."""
    met = ((next((key for key in keys if re.match(rf"{pattern}($|\.|(?<=\.))", key)), None), why) for pattern, why in rules)
    return [f"{key}: {why}" for key, why in met if key is not None]


def _objectives(keys: list[str], configs: list[Config]) -> list[str]:
    names = [set(_parts(config)) for config in configs]
    if any(one != names[0] for one in names):
        return ["model.init_args.objectives: the loss is a sum of other terms"]
    reasons = []
    for key in keys:
        found = re.match(r"model\.init_args\.objectives\.([^.]+)\.(?:init_args\.)?(.*)", key)
        if found is None or found[2] in _SIZES:
            continue
        why = {"class_path": "another objective is another loss", "weight": "an objective's weight scales the loss"}
        reasons.append(f"{key}: {why.get(found[2], 'an option of the objective that may change its target')}")
    return reasons


def _batch(keys: list[str], configs: list[Config]) -> list[str]:
    if "data.batch_size" not in keys:
        return []
    classes = {name: str((part or {}).get("class_path")) for config in configs for name, part in _parts(config).items()}
    others = [name for name, path in classes.items() if path not in _PER_PICTURE]
    if not others:
        return []
    return [f"data.batch_size: {' and '.join(others)} may compare the pictures of a batch, and more of them are harder to tell apart"]


def _parts(config: Config) -> Config:
    model = (config.get("model") or {}).get("init_args") or {}
    return dict(model.get("objectives") or {})


def _named_patch(config: Config) -> str:
    """The patch that a timm name tells, as 16 of ``vit_base_patch16_224``; the key ``patch`` itself is compared elsewhere."""
    name = str(flatten(config).get("model.init_args.encoder.init_args.name") or "")
    found = re.search(r"patch(\d+)", name)
    return found[1] if found else ""
