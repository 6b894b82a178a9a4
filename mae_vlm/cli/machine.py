"""What this machine can do: read or measured once, by the first process."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Machine:
    """``kind`` is cuda or cpu; ``cores`` usable by this process; ``bfloat16`` in hardware; ``flops`` measured, per second and device."""

    kind: str
    devices: int
    cores: int
    bfloat16: bool
    flops: float


def look(accelerator: str = "auto") -> Machine:
    """Describe this machine, as seen with Lightning's ``accelerator``; takes about a third of a second."""
    cuda = torch.cuda.is_available() and accelerator != "cpu"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False) if cuda else cpu_has_bfloat16()
    return Machine("cuda" if cuda else "cpu", torch.cuda.device_count() if cuda else 1, cores, bfloat16, _matmul_rate(cuda, bfloat16))


def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware (avx512_bf16 or amx); without it autocast is slower than float32."""
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return "avx512_bf16" in flags.split() or "amx_bf16" in flags.split()


def _matmul_rate(cuda: bool, bfloat16: bool) -> float:
    size, device = (4096, "cuda") if cuda else (768, "cpu")
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    left = torch.randn(size, size, device=device, dtype=dtype)
    rates = []
    for _ in range(8):
        began = time.perf_counter()
        (left @ left).flatten()[0].item()  # reading one number waits for the device
        rates.append(2 * size**3 / (time.perf_counter() - began))
    return max(rates)
