"""What the first process decides, every process does."""

from __future__ import annotations

import atexit
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

_VARIABLE = "MAE_VLM_DECIDED"
_LONGEST = 32_000  # Linux starts no process with a variable of 128 KiB and more, and Windows none of 32 KiB
_kept: list[Any] = []


def agree(topic: str, decide: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The value of ``decide()``, which is about ``topic``, as computed by the first process, on every process of the job.

    Processes that Lightning starts on this machine inherit it through the environment. Those that ``torchrun`` or ``srun`` start, those
    that have RANK, WORLD_SIZE and MASTER_ADDR, and the first ones of several machines (NODE_RANK, MASTER_ADDR and MASTER_PORT) fetch it
    from a store that the first process opens where the training will meet too. The value must survive JSON.
    """
    variable = f"{_VARIABLE}_{topic.upper()}"
    inherited = os.environ.get(variable)
    if inherited and os.environ.get("LOCAL_RANK", "0") != "0":
        return dict(json.loads(Path(inherited[1:]).read_text() if inherited.startswith("@") else inherited))
    if not _kept:  # once: where this process hosts the store, it must live until the others have read
        _kept.extend(_meeting())
    store, rank = _kept
    decided = decide() if store is None else _through_store(store, rank, variable, decide)
    os.environ[variable] = _passed_on(json.dumps(decided))
    return decided


def _passed_on(answer: str) -> str:
    """What stands in the environment: the answer, or @ and a file of this machine that holds it, until this process ends."""
    if len(answer) < _LONGEST:
        return answer
    with tempfile.NamedTemporaryFile("w", prefix="mae_vlm_decided_", delete=False) as file:
        file.write(answer)
    atexit.register(lambda: Path(file.name).unlink(missing_ok=True))
    return f"@{file.name}"


def _meeting() -> tuple[Any, int]:
    """A store that all processes of the job reach, and this one's number; no store where there is but one process to ask."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ and "MASTER_ADDR" in os.environ:
        from torch.distributed.rendezvous import rendezvous

        store, rank = next(rendezvous("env://"))[:2]
        return store, rank
    found = _under_slurm() or _on_several_machines()
    if found is None:
        return None, 0
    from torch.distributed import TCPStore  # type: ignore[attr-defined]
    from torch.distributed.constants import default_pg_timeout

    host, port, rank = found
    # shared with the training's own store, which is opened at the same port later
    store = TCPStore(host, port, None, rank == 0, default_pg_timeout, wait_for_workers=False, multi_tenant=True)
    return store, rank


def _under_slurm() -> tuple[str, int, int] | None:
    """Where Lightning makes the tasks of ``srun`` meet, and this task's number."""
    if int(os.environ.get("SLURM_NTASKS", "1")) < 2 or "SLURM_PROCID" not in os.environ:
        return None
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    if not SLURMEnvironment.detect():  # an interactive job
        return None
    slurm = SLURMEnvironment(auto_requeue=False)
    return slurm.main_address, slurm.main_port, slurm.global_rank()


def _on_several_machines() -> tuple[str, int, int] | None:
    """Where the commands that were started by hand on each machine meet, and this machine's number."""
    number = os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK"))
    if number is None or "MASTER_ADDR" not in os.environ or "MASTER_PORT" not in os.environ:
        return None
    return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), int(number)


def _through_store(store: Any, rank: int, key: str, decide: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    key += os.environ.get("SLURM_JOB_ID", "")  # a job that was given the port of another must not hear its answers
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
