"""Chance as a pure function of a key, the same on every device, process and worker.

A key is a 64-bit integer that stands for (seed, epoch, sample, view ...). Numbers are drawn by hashing (key, counter)
with SplitMix64's finaliser (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014),
in integer arithmetic that torch does alike on CPU and GPU: no generator state, no host synchronisation.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_WORD = (1 << 64) - 1


def _signed(word: int) -> int:
    """The same 64 bits as a two's complement integer, which is what torch.int64 holds."""
    return word - (1 << 64) if word >> 63 else word


def key_of(*parts: int) -> int:
    """One 64-bit key (as a signed integer) from any number of integers; the order matters."""
    state = 0
    for part in parts:
        state = (state ^ (part & _WORD)) + _GOLDEN & _WORD
        state = ((state ^ (state >> 30)) * _MIX_1) & _WORD
        state = ((state ^ (state >> 27)) * _MIX_2) & _WORD
        state ^= state >> 31
    return _signed(state)


def _logical_shift(words: Tensor, bits: int) -> Tensor:
    return (words >> bits) & ((1 << (64 - bits)) - 1)  # torch shifts int64 arithmetically: drop the copied sign bits


def uniform(keys_B: Tensor, count: int, stream: int = 0) -> Tensor:
    """Float32 numbers in [0, 1): ``[B, count]`` from int64 keys ``[B]``; another ``stream`` gives independent numbers."""
    counters = torch.arange(1, count + 1, device=keys_B.device, dtype=torch.int64)
    words = (keys_B ^ _signed(key_of(stream) & _WORD))[:, None] + counters * _signed(_GOLDEN)
    words = (words ^ _logical_shift(words, 30)) * _signed(_MIX_1)
    words = (words ^ _logical_shift(words, 27)) * _signed(_MIX_2)
    words = words ^ _logical_shift(words, 31)
    return _logical_shift(words, 40).to(torch.float32) * 2.0**-24
