"""What the first process decides, every process does."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

_VARIABLE = "MAE_VLM_DECIDED"
_kept: list[Any] = []


def agree(decide: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The value of ``decide()`` as computed by the first process, on every process of the job.

    Processes that Lightning starts on this machine inherit it through the environment; those that ``torchrun`` starts, or that
    have RANK, WORLD_SIZE and MASTER_ADDR, fetch it from the rendezvous store. The value must survive JSON.
    """
    inherited = os.environ.get(_VARIABLE)
    if inherited and os.environ.get("LOCAL_RANK", "0") != "0":
        return dict(json.loads(inherited))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ and "MASTER_ADDR" in os.environ:
        return _through_store(decide)
    decided = decide()
    os.environ[_VARIABLE] = json.dumps(decided)
    return decided


def _through_store(decide: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    from torch.distributed.rendezvous import rendezvous

    store, rank, _ = next(rendezvous("env://"))
    _kept.append(store)  # where this process hosts the store, it must live until the others have read
    if rank:
        answer = json.loads(store.get(_VARIABLE))
        if answer is None:
            sys.exit(1)  # the first process has said why
        return dict(answer)
    try:
        decided = decide()
    except BaseException:
        store.set(_VARIABLE, "null")  # the others must not wait for an answer that never comes
        raise
    store.set(_VARIABLE, json.dumps(decided))
    return decided
