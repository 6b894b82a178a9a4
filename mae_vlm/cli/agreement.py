"""What the first process decides, every process does."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

_VARIABLE = "MAE_VLM_DECIDED"
_kept: list[Any] = []


def agree(topic: str, decide: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The value of ``decide()``, which is about ``topic``, as computed by the first process, on every process of the job.

    Processes that Lightning starts on this machine inherit it through the environment; those that ``torchrun`` starts, or that
    have RANK, WORLD_SIZE and MASTER_ADDR, fetch it from the rendezvous store. The value must survive JSON.
    """
    variable = f"{_VARIABLE}_{topic.upper()}"
    inherited = os.environ.get(variable)
    if inherited and os.environ.get("LOCAL_RANK", "0") != "0":
        return dict(json.loads(inherited))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ and "MASTER_ADDR" in os.environ:
        return _through_store(variable, decide)
    decided = decide()
    os.environ[variable] = json.dumps(decided)
    return decided


def _through_store(key: str, decide: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    from torch.distributed.rendezvous import rendezvous

    if not _kept:  # once: where this process hosts the store, it must live until the others have read
        _kept.extend(next(rendezvous("env://"))[:2])
    store, rank = _kept
    if rank:
        answer = json.loads(store.get(key))
        if answer is None:
            sys.exit(1)  # the first process has said why
        return dict(answer)
    try:
        decided = decide()
    except BaseException:
        store.set(key, "null")  # the others must not wait for an answer that never comes
        raise
    store.set(key, json.dumps(decided))
    return decided
