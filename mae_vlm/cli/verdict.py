"""From measured rates to a verdict: is it the loader or the model that the run waits for, and which one setting changes it."""

from __future__ import annotations

import math
from dataclasses import dataclass

WAITING = 0.05  # share of the time: up to here the loader keeps up
AHEAD = 4  # times as fast as the model: such a loader holds up nobody for long, whatever a short measurement saw


@dataclass(frozen=True)
class Rates:
    """What the doctor measured, in pictures per second of one process; ``waited`` is the share of the run's time spent on the next batch.

    ``ahead_bytes`` is what the workers may keep in shared memory at once, ``shared_bytes`` what the machine has of it (None: unknown).
    ``typical`` and ``size`` are the pictures' own median size and the size they are learned at, both (height, width).
    """

    loader: float
    model: float
    together: float
    waited: float
    workers: int
    cores: int
    ahead_bytes: int
    shared_bytes: int | None
    typical: tuple[int, int]
    size: tuple[int, int]
    cpu: bool
    path: str | None


def verdict(rates: Rates) -> list[str]:
    """Lines for the user: the bottleneck with its evidence, then the one setting to change, then what is too small."""
    lines = []
    if rates.waited > WAITING and rates.loader < AHEAD * rates.model:
        lines.append(
            f"bottleneck: the loader. The run waits for pictures {rates.waited:.0%} of its time: "
            f"{rates.together:.0f} images/s, where the model alone takes {rates.model:.0f}."
        )
        lines.append(f"change: {_feed(rates)}")
    else:
        lines.append(
            f"bottleneck: the model. The run waits for pictures {rates.waited:.0%} of its time; "
            f"the loader alone gives {rates.loader:.0f} images/s, the model alone takes {rates.model:.0f}."
        )
        lines.append(f"change: {_speed_up(rates)}")
    short = shared_memory(rates)
    return [*lines, short] if short else lines


def shared_memory(rates: Rates) -> str | None:
    """What to do where /dev/shm cannot hold the batches that the workers prepare (they die of a bus error then); None where it can."""
    if not rates.workers or rates.shared_bytes is None or rates.shared_bytes >= rates.ahead_bytes:
        return None
    needed = 2 ** math.ceil(math.log2(rates.ahead_bytes / 2**20))
    return (
        f"too small: /dev/shm has {_mebibytes(rates.shared_bytes)} free, {rates.workers} workers prepare up to "
        f"{_mebibytes(rates.ahead_bytes)} there; start the container with --shm-size={needed}m, or set --data.num_workers 0"
    )


def _feed(rates: Rates) -> str:
    wanted = math.ceil(max(1, rates.workers) * rates.model / max(rates.loader, 1e-9))
    room = max(1, rates.cores // 2 if rates.cpu else rates.cores)
    most = min(wanted, room)
    if most > rates.workers:
        return f"--data.num_workers {most} (now {rates.workers}; {rates.cores} cores)"
    if min(rates.typical) > 1.5 * min(rates.size) and rates.path:
        height, width = rates.typical
        return (
            f"shrink the pictures once ({height} x {width} is read, {rates.size[0]} x {rates.size[1]} is learned): "
            f"python -m data_prep shards {rates.path} DST --short-side {round(1.15 * min(rates.size))}, then --data.path DST"
        )
    given = f"{rates.workers} workers on {rates.cores} cores give {rates.loader:.0f} images/s"
    return f"nothing in the config: {given}; take more cores for each device"


def _speed_up(rates: Rates) -> str:
    if rates.cpu:
        return "nothing in the data; a GPU (--trainer.accelerator gpu) or a smaller model is what would help"
    if rates.loader > 3 * rates.model and rates.workers > 2:
        return (
            f"nothing is needed; --data.num_workers {max(2, math.ceil(rates.workers * 1.5 * rates.model / rates.loader))} would do as well"
        )
    return "nothing in the data; --model.compile true, and a larger --data.batch_size while memory lasts, speed up the model"


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
