"""Tiny runs that know words, or do not. Shared by the tests of index and zeroshot."""

from __future__ import annotations

from pathlib import Path

from tiny_runs import MACHINE, REPOSITORY, in_process

WORDS = [
    *["--config", REPOSITORY / "configs" / "finetune" / "quick_retrieve.yaml", *MACHINE, "--data.scenes", "32", "--data.val_scenes", "8"],
    *["--data.image_size", "32", "--data.batch_size", "8", "--model.encoder.width", "32", "--model.encoder.depth", "1"],
    *["--model.encoder.heads", "2", "--model.text.width", "32", "--model.text.depth", "1", "--model.text.heads", "2"],
    *["--model.heads.retrieve.width", "16", "--pictures.count", "2", "--name", "words"],
]


def fit(root: Path, name: str, *options) -> Path:
    assert in_process("fit", *options, "--trainer.max_steps", "2", "--trainer.default_root_dir", root) == 0
    return root / name / "version_0"
