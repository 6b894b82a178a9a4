"""What a checkpoint remembers of its run, and which checkpoint a word on the command line means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mae_vlm.convert import native

# What describes a collection: of no use for another one. Its look (size, channels, mean) belongs to the weights and stays.
_COLLECTION = ("path", "format", "val_path", "val_fraction", "image_column", "label_column", "scenes", "val_scenes")
_LENGTH = ("max_steps", "max_epochs", "max_time")


def find_checkpoint(word: str, root: Path, name: str) -> Path:
    """The file that ``word`` means: a checkpoint, a run folder, or ``last``, the newest of ``root/name``.

    Raises:
        ValueError: there is none.
    """
    if word == "last":
        found = sorted((root / name).glob("version_*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise ValueError(
                f"--ckpt_path last: no checkpoint under {root / name}; begin without it, or set --name and --trainer.default_root_dir"
            )
        return found[-1]
    return native.find_checkpoint(word)


def base_config(stored: dict[str, Any], verb: str, explicit: dict[str, Any]) -> dict[str, Any]:
    """The part of a stored config that a new run starts from, below whatever is explicit (flat dotted keys)."""
    base: dict[str, Any] = {name: stored[name] for name in ("seed_everything", "model", "data") if name in stored}
    base["data"] = dict(base.get("data") or {})
    base["data"].pop("num_workers", None)  # belongs to the machine
    if "data.path" in explicit:
        for name in _COLLECTION:
            base["data"].pop(name, None)
    if verb == "fit":
        batch, given = base["data"].get("batch_size"), explicit.get("data.batch_size")
        if given is not None and str(given) != str(batch):
            raise ValueError(f"a run goes on with its batch_size {batch}, {given} given: its place in the order is counted in such batches")
        trainer = dict(stored.get("trainer") or {})
        kept = (
            "precision",
            "accumulate_grad_batches",
            "gradient_clip_val",
            "gradient_clip_algorithm",
            "val_check_interval",
            "check_val_every_n_epoch",
        )
        base["trainer"] = {name: trainer[name] for name in kept if trainer.get(name) is not None}
        if not any(f"trainer.{name}" in explicit for name in _LENGTH):
            base["trainer"] |= {name: trainer[name] for name in _LENGTH if trainer.get(name) is not None}
        if "val_check_interval" in base["trainer"] and trainer.get("check_val_every_n_epoch") is None:
            base["trainer"]["check_val_every_n_epoch"] = None
    return base
