"""Processes that live as long as the tests: work finds them ready, with everything imported, and joins some of them by gloo."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from several_processes import _context

MOST = 4
# the first test that starts processes starts the server they are forked from, which imports these once
_context.set_forkserver_preload(["mae_vlm.cli.training", "several_processes", "mae_vlm.encoders.fusion.coattention"])
_waiting: list[tuple[Any, Any]] = []  # processes and pipes to them


def on_pool(count: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``work(*arguments)`` gives on each of ``count`` joined processes of one gloo group; its errors are raised here."""
    assert count <= MOST
    if not _waiting:
        _waiting.extend(_started() for _ in range(MOST))
    with tempfile.TemporaryDirectory() as place:
        for rank, (_, pipe) in enumerate(_waiting[:count]):
            pipe.send((sys.path, str(Path.cwd())))
            pipe.send((f"file://{place}/store", rank, count, work, arguments))
        told = [
            pipe.recv() if pipe.poll(120) else (None, f"process {rank} says nothing") for rank, (_, pipe) in enumerate(_waiting[:count])
        ]
    faults = [fault for _, fault in told if fault]
    if faults:  # others may wait for one that failed: the next work gets new ones
        for process, _ in _waiting:
            process.kill()
        _waiting.clear()
    assert not faults, "\n\n".join(faults)
    return [result for result, _ in told]


def _started() -> tuple[Any, Any]:
    here, there = _context.Pipe()
    process = _context.Process(target=_serve, args=(there,), daemon=True)  # a daemon ends with the tests
    process.start()
    there.close()
    return process, here


def _serve(pipe: Any) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    while True:
        try:
            sys.path[:], folder = pipe.recv()  # before the work, whose module stands there
        except EOFError:
            os._exit(0)
        said = io.StringIO()
        try:
            place, rank, count, work, arguments = pipe.recv()
            os.chdir(folder)
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                dist.init_process_group("gloo", init_method=place, rank=rank, world_size=count, timeout=timedelta(seconds=60))
                result = work(*arguments)
                dist.destroy_process_group()
            pipe.send((result, None))
        except BaseException:
            pipe.send((None, traceback.format_exc() + said.getvalue()[-3000:]))
