"""What the stand-in hub knows: repositories with their commits, large files, faults to order; and how a client is pointed at it."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

TOKEN, READER = "hf_cAnArY7f3d9b51writes", "hf_cAnArY7f3d9b51reads"


@dataclass
class Repo:
    private: bool
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)  # (commit, all files), the newest last
    messages: list[str] = field(default_factory=list)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][1]

    @property
    def head(self) -> str:
        return self.commits[-1][0]

    def commit(self, files: dict[str, bytes], message: str) -> str:
        text = f"{len(self.commits)} {message}"
        self.commits.append((hashlib.sha1(text.encode()).hexdigest(), files))
        self.messages.append(message)
        return self.head


@dataclass
class Fault:
    """Answer the next ``times`` requests whose "METHOD path" matches ``where`` with ``status``, or break off: half, mute, lost, slow."""

    where: str
    status: int | str
    times: int = 1


class Hub:
    """What the server knows; tests look at it and order faults."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.others: list[tuple[str, Callable[[], object]]] = []
        self.requests: list[str] = []
        self.lock = threading.RLock()
        self.url = ""

    def fail(self, where: str, status: int | str, times: int = 1) -> None:
        self.faults.append(Fault(where, status, times))

    def meanwhile(self, where: str, do: Callable[[], object]) -> None:
        """Let somebody else ``do`` something just before the next such request is served."""
        self.others.append((where, do))

    def make(self, name: str, files: dict[str, bytes] | None = None, private: bool = True) -> Repo:
        repo = self.repos[name] = Repo(private)
        repo.commit({".gitattributes": b"*.safetensors filter=lfs\n", **(files or {})}, "initial commit")
        return repo

    def fault(self, request: str) -> int | str | None:
        with self.lock:
            self.requests.append(request)
            for other in [one for one in self.others if re.search(one[0], request)]:
                self.others.remove(other)
                other[1]()
            for one in self.faults:
                if one.times and re.search(one.where, request):
                    one.times -= 1
                    return one.status
        return None


def point_at(patch: pytest.MonkeyPatch, hub: Hub, home: Path) -> None:
    """Let huggingface_hub, of this process and of those it starts, talk to ``hub`` alone, with a token, an empty cache and no pauses."""
    from huggingface_hub import close_session, constants
    from huggingface_hub.utils import _http

    told = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    for name, value in told.items():
        patch.setenv(name, value)
    patch.setattr(constants, "ENDPOINT", hub.url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    patch.setattr(_http, "time", SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None}))
    close_session()
