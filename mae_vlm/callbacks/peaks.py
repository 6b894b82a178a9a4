"""What a device can do at most: dense matrix products per second, from its data sheet, or measured where we know none."""

from __future__ import annotations

import re
import time
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

_SECONDS = 0.3  # of measuring
_KINDS = ("bf16", "fp16", "tf32", "fp32")

# Dense rates in TFLOP/s with accumulation in float32 (half of what data sheets print "with sparsity"), in the order of _KINDS, None where
# there is no such unit. Sources: NVIDIA's data sheets of each card (A100, A30, A40, A10, H100, H200, GH200, HGX B200, GB200, L4, L40, L40S,
# V100, V100S, T4) and the architecture papers GA102 (RTX 3090, A6000), Ada (RTX 4090, RTX 6000 Ada), RTX Blackwell (RTX 5090); AMD's of the
# MI300X. Cards named alike but clocked otherwise (Laptop, SUPER, D, A10G) and parts of cards (MIG) are not meant: they are measured.
_TABLE: dict[str, tuple[float | None, float | None, float | None, float | None]] = {
    r"A100[- ].+": (312, 312, 156, 19.5),
    r"A30": (165, 165, 82, 10.3),
    r"A40": (149.7, 149.7, 74.8, 37.4),
    r"A10": (125, 125, 62.5, 31.2),
    r"H100( SXM.*| 80GB HBM3| 96GB HBM3)": (989.4, 989.4, 494.7, 66.9),
    r"H100 PCIe": (756, 756, 378, 51),
    r"H100 NVL": (835, 835, 417.5, 60),
    r"H200": (989.4, 989.4, 494.7, 66.9),
    r"H200 NVL": (835, 835, 417.5, 60),
    r"GH200.*": (989.4, 989.4, 494.7, 66.9),
    r"B200": (2250, 2250, 1125, 75),
    r"GB200": (2500, 2500, 1250, 80),
    r"L4": (121, 121, 60, 30.3),
    r"L40": (181, 181, 90.5, 90.5),
    r"L40S": (362, 362, 183, 91.6),
    r"V100-SXM.*": (None, 125, None, 15.7),
    r"V100-PCIE.*": (None, 112, None, 14),
    r"V100S-PCIE.*": (None, 130, None, 16.4),
    r"T4": (None, 65, None, 8.1),
    r"RTX 3090": (71, 71, 35.6, 35.6),
    r"RTX 4090": (165.2, 165.2, 82.6, 82.6),
    r"RTX 5090": (209.5, 209.5, 104.8, 104.8),
    r"RTX A6000": (154.8, 154.8, 77.4, 38.7),
    r"RTX 6000 Ada Generation": (364.2, 364.2, 182.1, 91.1),
    r"Instinct MI300X.*": (1307.4, 1307.4, 653.7, 163.4),
}


class Peak(NamedTuple):
    """Operations per second of one device, and where the number is from: ``table`` or ``measured``."""

    flops: float
    source: str


@cache
def peak_of(device: torch.device, precision: str) -> Peak:
    """The peak of ``device`` at Lightning's ``precision``; where no data sheet tells, a third of a second of matrix products does.

    Call it before training: measuring on a GPU waits for it. A CPU is measured on the threads of this process.
    """
    kind = kind_of(precision, device)
    told = None if device.type != "cuda" else from_table(torch.cuda.get_device_name(device), kind)
    if told is not None:
        return Peak(told, "table")
    return Peak(_measured(device, _DTYPES[kind]), "measured")


def from_table(name: str, kind: str) -> float | None:
    """Operations per second that the data sheet of the device called ``name`` states for "bf16", "fp16", "tf32" or "fp32"."""
    short = re.sub(r"^(NVIDIA |AMD |Tesla |GeForce )+", "", name)
    if kind not in _KINDS or "MIG" in name.split():
        return None
    for pattern, rates in _TABLE.items():
        if re.fullmatch(pattern, short) and (rate := rates[_KINDS.index(kind)]) is not None:
            return rate * 1e12
    return None


def kind_of(precision: str, device: torch.device) -> str:
    """The numbers that are multiplied at Lightning's ``precision``: "bf16", "fp16", "fp64", "fp32", or "tf32" where torch may use it."""
    start = precision.split("-")[0]
    if start in ("bf16", "16", "64"):
        return {"bf16": "bf16", "16": "fp16", "64": "fp64"}[start]
    return "tf32" if device.type == "cuda" and torch.get_float32_matmul_precision() != "highest" else "fp32"


_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64, "tf32": torch.float32, "fp32": torch.float32}


def _measured(device: torch.device, dtype: torch.dtype) -> float:
    """The best rate of square products, as large as still take about 10 ms each."""
    draw = torch.Generator().manual_seed(0)  # its own: the run's numbers must not depend on whether this was measured
    began, best, side = time.perf_counter(), 0.0, 512 if device.type == "cpu" else 4096
    left = torch.randn(side, side, generator=draw).to(device, dtype)
    while True:
        seconds = _product(left)
        best = max(best, 2 * side**3 / seconds)
        if time.perf_counter() - began > _SECONDS:
            return best
        if seconds < 0.005 and side < 8192:  # small ones do not fill a large device
            left, side = left.repeat(2, 2), 2 * side


def _product(left: Tensor) -> float:
    began = time.perf_counter()
    (left @ left)[0, 0].item()  # reading one number waits for the device
    return time.perf_counter() - began
