"""What a checkpoint remembers of its run, and which checkpoint a word on the command line means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mae_vlm.convert import native
from mae_vlm.convert.native_run import CONVERTED

# What describes a collection: of no use for another one. Its look (size, channels, mean) belongs to the weights and stays.
_COLLECTION = (
    *("path", "format", "annotations", "val_path", "val_fraction", "mixture", "scenes", "val_scenes", "allow_changes"),
    *("image_column", "label_column", "caption_column", "question_column", "answer_column", "split_column", "order"),
)
_LENGTH = ("max_steps", "max_epochs", "max_time")


def find_checkpoint(word: str, root: Path, name: str) -> Path | None:
    """The file that ``word`` means: a checkpoint, a run folder, or ``last``: the newest whole one of the runs ``root/name``.

    ``auto`` is ``last`` where there is one, else None: the run starts afresh.

    Raises:
        ValueError: there is none.
    """
    if word not in ("last", "auto"):
        return native.find_checkpoint(word)
    runs = {file.parent.parent for file in (root / name).glob("version_*/checkpoints/*.ckpt")}
    refused = ""
    for run in sorted(runs, key=_saved_at, reverse=True):
        try:
            return native.newest_whole(run)
        except ValueError as problem:
            refused = f" ({problem})"
    if word == "auto" and not refused:
        return None
    raise ValueError(
        f"--ckpt_path {word}: no checkpoint under {root / name}{refused}; begin without it, or set --name and --trainer.default_root_dir"
    )


def _saved_at(run: Path) -> float:
    return max(file.lstat().st_mtime for file in (run / "checkpoints").glob("*.ckpt"))


def base_config(stored: dict[str, Any], verb: str, explicit: dict[str, Any]) -> dict[str, Any]:
    """The part of a stored config that a new run starts from, below whatever is explicit (flat dotted keys).

    Raises:
        ValueError: another batch size than the run's, or weights alone, where a training is to go on.
    """
    if verb == "fit" and (origin := stored.get(CONVERTED)) is not None:
        raise ValueError(
            f"--ckpt_path {explicit.get('ckpt_path')} was converted ({origin}) and holds no state of a training to go on with; "
            f"start from its weights by --model.weights {explicit.get('ckpt_path')}"
        )
    base: dict[str, Any] = {name: stored[name] for name in ("seed_everything", "model", "data") if name in stored}
    base["data"] = dict(base.get("data") or {})
    base["data"].pop("num_workers", None)  # belongs to the machine
    base["data"].pop("allow_changes", None)  # said anew for each change
    if "data.path" in explicit or any(name.startswith("data.mixture") for name in explicit):
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
