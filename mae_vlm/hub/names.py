"""Names of models on the Hugging Face hub: ``org/name`` where only a name can stand, ``hf://org/name[@revision]`` beside paths."""

from __future__ import annotations

import re
from pathlib import Path

PREFIX = "hf://"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_name(word: object) -> bool:
    """Whether a word means a model on the hub; only what begins with ``hf://`` does, so that a mistyped path never asks the network."""
    return isinstance(word, str) and word.startswith(PREFIX) and not word.startswith((f"{PREFIX}datasets/", f"{PREFIX}spaces/"))


def check_repo(word: str) -> str:
    """``org/name``, also of ``hf://org/name``.

    Raises:
        ValueError: it has another form.
    """
    name = word.removeprefix(PREFIX).strip("/")
    if not _NAME.fullmatch(name) or name.endswith((".git", ".ipynb")) or "--" in name or ".." in name or len(name) > 96:
        raise ValueError(f"{word!r} is no name of a repository; write org/name, or give a folder or s3://bucket/prefix as --to")
    return name


def fetched(word: str, *files: str) -> dict[str, Path]:
    """Files of ``hf://org/name[@revision]``, downloaded into the hub's own cache.

    Raises:
        ValueError: the name has another form, or the hub does not give one of them; the message holds the reason in one line.
    """
    name, _, revision = word.removeprefix(PREFIX).partition("@")
    repo = check_repo(name)
    from huggingface_hub import hf_hub_download

    from mae_vlm.hub.attempts import in_words, status_of

    found: dict[str, Path] = {}
    for file in files:
        try:
            found[file] = Path(hf_hub_download(repo, file, revision=revision or None))
        except Exception as problem:  # the client raises many kinds
            absent = status_of(problem) == 404
            why = f"there is none, it has no {file}, or your token may not read it" if absent else in_words(problem)
            raise ValueError(f"the hub did not give {file} of {word}: {why}; check the name, the network and your login") from None
    return found
