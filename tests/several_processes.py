"""Functions run on several processes of one job, which have imported everything before they begin: a second each, instead of ten."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import multiprocessing
import os
import random
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["mae_vlm.cli.training", "several_processes"])


def free_port() -> int:
    """One below those that the system gives to outgoing connections, and that other tests at the same time will hardly draw."""
    while True:
        port = random.SystemRandom().randrange(12_000, 32_000)
        with socket.socket() as taken, contextlib.suppress(OSError):
            taken.bind(("127.0.0.1", port))
            return port


def on_processes(count: int, work: Callable[..., Any], *arguments: Any, env: Callable[[int], dict[str, str]] | None = None) -> list[Any]:
    """What ``work(*arguments)`` gives on each of ``count`` processes that have the variables of one job; its errors are raised here."""
    port = str(free_port())
    plain = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
    children = []
    for rank in range(count):
        variables = plain | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if env is None else {"MASTER_PORT": port} | env(rank)
        here, there = _context.Pipe()
        child = _context.Process(target=_child, args=(there, sys.path, str(Path.cwd()), variables, work, arguments))
        child.start()
        there.close()
        children.append((child, here))
    try:
        told = [here.recv() if here.poll(240) else (None, f"process {rank} says nothing") for rank, (_, here) in enumerate(children)]
    finally:
        for child, _ in children:
            child.join(5)
            child.kill()
    faults = [fault for _, fault in told if fault]
    assert not faults, "\n\n".join(faults)
    return [result for result, _ in told]


def _child(
    pipe: Any, path: list[str], folder: str, variables: dict[str, str], work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    foreign = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_", "NODE_RANK", "MAE_VLM_DECIDED", "SLURM_")
    for name in [name for name in os.environ if name.startswith(foreign)]:
        del os.environ[name]
    os.environ |= variables
    sys.path[:] = path
    os.chdir(folder)
    faulthandler.dump_traceback_later(200, exit=True)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            result = work(*arguments)
        pipe.send((result, None))
    except BaseException:
        pipe.send((None, traceback.format_exc() + said.getvalue()[-3000:]))
    pipe.close()
    os._exit(0)  # what Lightning and gloo leave behind does not matter here
