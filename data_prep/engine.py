"""Where the heavy steps run: processes of this machine, or a Ray cluster; the results are the same, in the order of the tasks."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

_AHEAD = 2  # tasks waiting for each worker
_work: Callable[[Any], Any]  # of a worker process


def run(work: Callable[[Task], Result], tasks: Sequence[Task], engine: str = "local", workers: int = 1) -> Iterator[Result]:
    """``work`` of each task, in order. ``work`` and what it returns must be picklable; it is sent to each worker once.

    Raises:
        ValueError: what ``work`` raised; Ray is asked for and missing; a worker was killed (out of memory, mostly).
    """
    if engine == "ray":
        return _on_ray(work, tasks, workers)
    return map(work, tasks) if min(workers, len(tasks)) < 2 else _local(work, tasks, min(workers, len(tasks)))


def _local(work: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Iterator[Result]:
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, context, _start, (work,))
    waiting: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(_do, task))
            if len(waiting) >= _AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise ValueError("a worker process was killed, mostly for want of memory; use fewer --workers and run it again") from None
    finally:
        unfinished = bool(waiting)
        if unfinished:  # stopped midway: do not wait for what is being done
            for child in set(multiprocessing.active_children()) - before:
                child.terminate()
        pool.shutdown(wait=not unfinished, cancel_futures=True)


def _start(work: Callable[[Any], Any]) -> None:
    """Start of a worker: Ctrl-C is the parent's to handle, and a parent that was killed takes its workers along."""
    import torch

    global _work
    _work = work
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _do(task: Any) -> Any:
    return _work(task)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _on_ray(work: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Iterator[Result]:
    ray = _ray(workers)
    rows = [{"number": number, "task": pickle.dumps(task)} for number, task in enumerate(tasks)]
    data = ray.data.from_items(rows, override_num_blocks=max(1, min(len(rows), 4096)))
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=workers)
    done = data.map(_Worker, fn_constructor_args=(pickle.dumps(work),), compute=pool)
    early: dict[int, Any] = {}
    following = 0
    try:
        for row in done.iter_rows():
            early[row["number"]] = pickle.loads(row["result"])
            while following in early:
                result = early.pop(following)
                following += 1
                if isinstance(result, _Mistake):
                    raise ValueError(result.text)
                yield result
    except ray.exceptions.RayError as error:
        raise ValueError(f"Ray could not do it ({(str(error).splitlines() or [''])[0]}); see its logs, or use --engine local") from None


class _Mistake:
    """A ValueError or OSError of a worker on its way home: Ray would wrap it into its own, with a traceback."""

    def __init__(self, text: str) -> None:
        self.text = text


class _Worker:
    """An actor of Ray Data: it receives the work once."""

    def __init__(self, work: bytes) -> None:
        import torch

        torch.set_num_threads(1)
        self.work = pickle.loads(work)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        result: Any
        try:
            result = self.work(pickle.loads(row["task"]))
        except (ValueError, OSError) as error:
            result = _Mistake(str(error))
        return {"number": row["number"], "result": pickle.dumps(result)}


def _ray(workers: int) -> Any:
    """Ray, connected to the cluster of RAY_ADDRESS or to one of ``workers`` cores that is started here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError:
        raise ValueError("--engine ray needs Ray, which is not installed; pip install 'mae_vlm[ray]', or use --engine local") from None
    if not ray.is_initialized():
        here = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers, "include_dashboard": False}
        ray.init(log_to_driver=False, logging_level="ERROR", **here)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # ours counts pictures
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray
