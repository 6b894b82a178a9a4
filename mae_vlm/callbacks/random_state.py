"""The random state of every process, in and out of a checkpoint.

Order, crops and masks are pure functions of keys and need none of it; dropout, drop path and code of the user's own do.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
import torch.distributed as dist


def own_state() -> dict[str, Any]:
    """What Python, NumPy, PyTorch and this process's GPU draw from next: numbers and tensors only, so that no pickle is needed."""
    version, words, gauss = random.getstate()
    name, keys, place, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys, dtype=np.int64)), int(place), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def all_states(processes: int) -> list[dict[str, Any]]:
    """Those of all processes in the order of their ranks; every process must call it at the same step."""
    if processes == 1:
        return [own_state()]
    states: list[Any] = [None] * processes
    dist.all_gather_object(states, own_state())
    return states


def restore(states: list[dict[str, Any]], rank: int) -> None:
    """Go on drawing where process ``rank`` was; a process that was not there when the states were saved keeps its own."""
    if rank >= len(states):
        return
    state = states[rank]
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, place, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), place, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
