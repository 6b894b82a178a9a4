"""New attempts where a fault may pass, and a line in plain words where it does not."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from mae_vlm.hub.secrecy import redacted

PAUSES = (2.0, 4.0, 8.0, 16.0, 32.0)  # seconds before each new attempt; the clients have their own, shorter ones inside
_PASSING = (408, 409, 412, 425, 429)  # of the 4xx: slow, busy, or somebody else was faster
_LONGEST = 300  # characters of a foreign message

_WORDS = {
    401: "the token is missing or not valid (401); log in with `hf auth login`, or set HF_TOKEN",
    402: "the account's plan does not allow it (402)",
    403: "no permission to write there (403); give a token with write access to it",
    413: "it is too large for the target (413); leave the resume state out, or ask the target's keeper for more room",
    429: "the target asks for fewer requests (429)",
}

T = TypeVar("T")


class NotDelivered(ValueError):
    """An upload failed for good; the message is one line without secrets."""


def patiently(call: Callable[[], T], what: str, say: Callable[[str], None], pauses: tuple[float, ...] | None = None) -> T:
    """What ``call`` gives, after as many new attempts as there are pauses where the fault may pass; each is told in a line.

    Raises:
        NotDelivered: it did not pass, or was none that could.
    """
    pauses = PAUSES if pauses is None else pauses
    for number, pause in enumerate([*pauses, None], start=1):
        try:
            return call()
        except Exception as problem:
            why = in_words(problem)
            if pause is None or not may_pass(problem):
                tried = f" after {number} attempts" if number > 1 else ""
                raise NotDelivered(f"{what} failed{tried}: {why}") from None  # the chain could show a header
            say(f"{what}: {why}; attempt {number + 1} of {len(pauses) + 1} in {pause:g} s")
            time.sleep(pause)
    raise AssertionError


def may_pass(problem: BaseException) -> bool:
    """Whether a new attempt could go better."""
    status = status_of(problem)
    if status is not None:
        return status >= 500 or status in _PASSING
    kinds = {type(one).__name__ for one in _chain(problem)}
    if kinds & {"NoCredentialsError", "PartialCredentialsError", "OfflineModeIsEnabled"}:
        return False
    if "JSONDecodeError" in kinds:  # a page of a proxy or of a server that is down, in the place of an answer
        return True
    return not isinstance(problem, ValueError | ImportError | PermissionError | FileNotFoundError | IsADirectoryError | NotADirectoryError)


def in_words(problem: BaseException) -> str:
    """One line on what went wrong, without secrets."""
    status = status_of(problem)
    if status in _WORDS:
        return _WORDS[status]
    if status is not None and status >= 500:
        return f"the target is out of order ({status})"
    kinds = {type(one).__name__ for one in _chain(problem)}
    if "OfflineModeIsEnabled" in kinds:
        return "HF_HUB_OFFLINE forbids the network; unset it"
    if kinds & {"NoCredentialsError", "PartialCredentialsError"}:
        return "no credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
    if "JSONDecodeError" in kinds:
        return "the target's answer makes no sense (a proxy, or a server that is down)"
    line = redacted(next((line.strip() for line in str(problem).splitlines() if line.strip()), ""))[:_LONGEST]
    if type(problem) is ValueError:
        return line
    if isinstance(problem, PermissionError):
        return f"no permission to write there ({line})"
    if any(re.search(r"Connect|Timeout|Network|RemoteProtocol|ReadError|WriteError|Reset|BrokenPipe", kind) for kind in kinds):
        return f"the target cannot be reached, or the connection broke ({line or type(problem).__name__})"
    return f"{type(problem).__name__}: {line}" if line else type(problem).__name__


def status_of(problem: BaseException) -> int | None:
    """The HTTP status behind an exception of any of the clients; None where it has none."""
    for one in _chain(problem):
        response = getattr(one, "response", None)
        found = getattr(response, "status_code", None)
        if found is None and isinstance(response, dict):  # botocore
            found = (response.get("ResponseMetadata") or {}).get("HTTPStatusCode")
        if isinstance(found, int):
            return found
    return None


def _chain(problem: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = problem
    for _ in range(10):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__ or seen.__context__
