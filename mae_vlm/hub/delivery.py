"""An upload from its first look at the target to its last byte, tried again where a fault may pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from mae_vlm.hub.attempts import patiently
from mae_vlm.hub.place import Place
from mae_vlm.hub.record import to_remove
from mae_vlm.hub.repository import Repository
from mae_vlm.hub.secrecy import holding

Target = Repository | Place


def target_of(repo: str | None, to: str | None, public: bool = False) -> Target:
    """The repository ``repo`` (org/name) or the place ``to``; no network is asked.

    Raises:
        ValueError: none or both are given, or one has another form.
    """
    if bool(repo) == bool(to):
        raise ValueError("give one target: --repo org/name on the hub, or --to a folder or s3://bucket/prefix")
    return Repository(repo, public) if repo else Place(to or "")


def look(target: Target, names: set[str], force: bool, say: Callable[[str], None]) -> None:
    """See that ``target`` can be reached and would take files of these names; writes nothing.

    Raises:
        ValueError: it would not; in one line.
    """
    patiently(lambda: to_remove(str(target), target.held(), names, force), f"upload to {target}", say)


def deliver(target: Target, files: Mapping[str, Path], step: int, force: bool, say: Callable[[str], None]) -> str:
    """Upload ``files`` (name there to file here) and take away what an earlier push of ours had beside them; returns the address.

    ``say`` hears a line of each attempt that failed.

    Raises:
        ValueError: a file holds a token or password, or it failed for good; in one line.
    """
    if held_back := holding(files):
        raise ValueError(f"{held_back[0]} holds a token or password of this session; nothing was uploaded: take it out of the run's config")

    def once() -> str:
        return target.put(files, to_remove(str(target), target.held(), set(files), force), step)

    return patiently(once, f"upload to {target}", say)
