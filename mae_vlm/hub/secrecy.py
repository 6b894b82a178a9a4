"""Nothing secret leaves the machine: passwords and home folders are taken out of configs, and files that hold a token stay here."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# option names whose text is a secret; tokens of text (mask_token, eos_token) are none
NAME = re.compile(
    r"(^|[._-])(password|passwd|passphrase|secret|api[_-]?key|access[_-]?key|secret[_-]?key|private[_-]?key|authorization"
    r"|((hf|hub|auth|access|api|bearer|refresh|session|secret|github|gitlab|wandb|user)[_-])token)$|(^|\.)token$",
    re.IGNORECASE,
)
VARIABLE = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|ACCESS_KEY_ID)$")
SHORTEST = 8  # characters of a variable's value; a shorter one may stand in any text
# a user before the host; or a user and a password, which may hold slashes where a port does not
USER = re.compile(r"([a-z][a-z0-9+.-]*://)([^/@\s?#]+@|[^/@\s:]*:(?!\d+(/|$))[^@\s]*@)", re.IGNORECASE)
QUERY = re.compile(
    r"([?&](?:token|access_token|auth|key|api_?key|password|secret|sig|signature|x-(?:amz|goog)-(?:signature|credential))=)[^&#\s]*", re.I
)


def secrets(environment: Mapping[str, str] | None = None) -> list[str]:
    """The secrets of this process: variables whose name says so, and the token of the hub's login."""
    given = os.environ if environment is None else environment
    found = {value for name, value in given.items() if VARIABLE.search(name) and len(value) >= SHORTEST}
    if environment is None:
        from huggingface_hub import get_token

        found |= {token for token in [get_token()] if token and len(token) >= SHORTEST}
    return sorted(found, key=len, reverse=True)


def redacted(text: str) -> str:
    """``text`` with stars in place of every secret."""
    for secret in secrets():
        text = text.replace(secret, "***")
    return USER.sub(r"\1***@", QUERY.sub(r"\1***", text))


def cleaned(value: Any, name: str = "") -> Any:
    """A config without its secrets: values under a secret's name are None, addresses lose user, password and signature, home is ``~``."""
    if isinstance(value, dict):
        return {key: cleaned(part, str(key)) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [cleaned(part, name) for part in value]
    if isinstance(value, str):
        return None if _secret_by_name(name, value) else _without_home(redacted(value))
    return value


def has_secrets(value: Any) -> bool:
    """Whether :func:`cleaned` would take something out of a config, home folders aside."""
    if isinstance(value, dict):
        return any(_secret_by_name(str(key), part) or has_secrets(part) for key, part in value.items())
    if isinstance(value, list | tuple):
        return any(has_secrets(part) for part in value)
    return isinstance(value, str) and redacted(value) != value


def holding(files: Mapping[str, Path], hidden: Iterable[str] | None = None) -> list[str]:
    """The names of those files that hold a secret of this process, byte by byte."""
    wanted = [secret.encode() for secret in (secrets() if hidden is None else hidden)]
    return [name for name, file in files.items() if any(_holds(file, secret) for secret in wanted)]


def _secret_by_name(name: str, value: Any) -> bool:
    return isinstance(value, str) and bool(value) and NAME.search(name) is not None and not re.fullmatch(r"[0-9]{1,4}", value)


def _without_home(text: str) -> str:
    home = str(Path.home())
    return re.sub(rf"{re.escape(home)}(?=/|$)", "~", text) if len(home) > 1 else text


def _holds(file: Path, secret: bytes) -> bool:
    if not file.stat().st_size:
        return False
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(secret) >= 0
