"""Speed, the device's peak and memory: what is told, from where, and what a step pays for it."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

from mae_vlm.callbacks import memory, peaks, throughput
from mae_vlm.callbacks.memory import HostMemory, resident
from mae_vlm.callbacks.peaks import from_table, kind_of, peak_of
from mae_vlm.callbacks.throughput import Throughput

CPU = torch.device("cpu")


class Clock:
    """A clock that tests turn by hand."""

    def __init__(self):
        self.now = 1000.0

    def perf_counter(self):
        return self.now

    monotonic = perf_counter


class Learner:
    """Takes down what is logged. Two GFLOP a picture."""

    device = CPU

    def __init__(self):
        self.logged = {}

    def flops_per_image(self):
        return 2_000_000_000

    def log(self, name, value, **_):
        self.logged[name] = value


def trainer(step=0, world=1):
    return SimpleNamespace(
        global_step=step, world_size=world, log_every_n_steps=2, precision="32-true", strategy=SimpleNamespace(root_device=CPU)
    )


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(throughput, "time", clock)
    monkeypatch.setattr(throughput, "peak_of", lambda device, precision: peaks.Peak(4e12, "measured"))
    return clock


def take(callback, clock, learner, steps, world=1, wait=0.0, work=1.0):
    callback.on_fit_start(trainer(world=world), learner)
    for step in range(1, steps + 1):
        clock.now += wait
        callback.on_train_batch_start(trainer(step - 1, world), learner, range(100), step)
        clock.now += work
        callback.on_train_batch_end(trainer(step, world), learner, None, range(100), step)


@pytest.mark.parametrize("world", [1, 4])
def test_pace_is_arithmetic_per_second_and_device_over_its_peak(clock, world):
    learner = Learner()
    take(Throughput(), clock, learner, 2, world)
    assert learner.logged["throughput/images_per_second"] == pytest.approx(100 * world)
    assert learner.logged["throughput/tflops"] == pytest.approx(0.2)
    assert learner.logged["throughput/peak_fraction"] == pytest.approx(0.05)


def test_waiting_for_pictures_lowers_the_share_of_the_peak(clock):
    learner = Learner()
    take(Throughput(), clock, learner, 4, wait=1.0)
    assert learner.logged["throughput/data_wait_fraction"] == pytest.approx(0.5)
    assert learner.logged["throughput/peak_fraction"] == pytest.approx(0.025)


def test_nothing_is_read_and_nothing_logged_between_log_steps(clock):
    learner, callback = Learner(), Throughput()
    take(callback, clock, learner, 1)
    assert learner.logged == {}
    take(callback, clock, learner, 2)
    assert "throughput/tflops" in learner.logged


def test_a_learner_that_states_no_arithmetic_gets_no_tflops(clock):
    learner = Learner()
    learner.flops_per_image = None
    take(Throughput(), clock, learner, 2)
    assert "throughput/images_per_second" in learner.logged and "throughput/tflops" not in learner.logged


@pytest.mark.parametrize(
    "name, kind, tflops",
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", 312),
        ("NVIDIA A100 80GB PCIe", "tf32", 156),
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA H100 PCIe", "bf16", 756),
        ("NVIDIA H200", "fp16", 989.4),
        ("NVIDIA H200 NVL", "bf16", 835),
        ("NVIDIA B200", "bf16", 2250),
        ("NVIDIA L4", "bf16", 121),
        ("NVIDIA L40S", "bf16", 362),
        ("NVIDIA A10", "bf16", 125),
        ("Tesla V100-SXM2-16GB", "fp16", 125),
        ("Tesla V100-SXM2-16GB", "bf16", None),  # has no such unit
        ("Tesla T4", "fp16", 65),
        ("NVIDIA GeForce RTX 3090", "bf16", 71),
        ("NVIDIA GeForce RTX 4090", "fp32", 82.6),
        ("NVIDIA GeForce RTX 5090", "bf16", 209.5),
        ("NVIDIA RTX A6000", "bf16", 154.8),
        ("NVIDIA H200", "fp64", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bf16", None),  # a seventh of the card
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", None),
        ("NVIDIA GeForce RTX 3090 Ti", "bf16", None),
        ("NVIDIA A10G", "bf16", None),
        ("A card of tomorrow", "bf16", None),
    ],
)
def test_data_sheets_are_dense_rates_and_no_other_card_passes_for_one(name, kind, tflops):
    assert from_table(name, kind) == (None if tflops is None else tflops * 1e12)


def test_every_data_sheet_is_ordered_as_units_are():
    for rates in peaks._TABLE.values():
        bf16, fp16, tf32, fp32 = (rate or 0 for rate in rates)
        assert fp16 >= tf32 >= 0 and fp16 > fp32 > 0 and bf16 in (0, fp16)


@pytest.mark.parametrize(
    "precision, kind", [("bf16-mixed", "bf16"), ("bf16-true", "bf16"), ("16-mixed", "fp16"), ("32-true", "fp32"), ("64-true", "fp64")]
)
def test_the_peak_is_that_of_the_numbers_that_are_multiplied(precision, kind):
    assert kind_of(precision, CPU) == kind


def test_float32_on_a_gpu_counts_as_tf32_where_torch_may_use_it():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        assert kind_of("32-true", torch.device("cuda")) == "tf32"
        torch.set_float32_matmul_precision("highest")
        assert kind_of("32-true", torch.device("cuda")) == "fp32"
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_cpu_is_measured_once_and_says_so(monkeypatch):
    monkeypatch.setattr(peaks, "_SECONDS", 0.02)
    peak_of.cache_clear()
    state = torch.get_rng_state()
    peak = peak_of(CPU, "32-true")
    assert peak.source == "measured" and 1e8 < peak.flops < 1e15
    assert torch.equal(state, torch.get_rng_state()), "measuring must not change what the run draws"
    monkeypatch.setattr(peaks, "_measured", None)
    assert peak_of(CPU, "32-true") == peak
    peak_of.cache_clear()


def test_pages_shared_between_processes_are_counted_in_part(tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "smaps_rollup").write_text("header\nRss:            4128 kB\nPss:             861 kB\nPss_Dirty:       592 kB\n")
    assert resident(7, tmp_path) == 861 * 1024
    assert resident(8, tmp_path) is None


def test_host_memory_counts_the_process_and_its_workers(monkeypatch):
    monkeypatch.setattr(memory.multiprocessing, "active_children", lambda: [SimpleNamespace(pid=11), SimpleNamespace(pid=12)])
    monkeypatch.setattr(memory, "resident", {os.getpid(): 100, 11: 20, 12: None}.get)
    assert HostMemory().look() == 120, "a worker that has just ended holds nothing"


def test_looking_at_memory_takes_half_a_percent_of_the_time_at_most(monkeypatch):
    clock, host = Clock(), HostMemory()
    looks = []

    def slowly(process):
        looks.append(clock.now)
        clock.now += 0.1
        return 1

    monkeypatch.setattr(memory, "time", clock)
    monkeypatch.setattr(memory, "resident", slowly)
    began = clock.now
    for _ in range(1000):
        host.look()
        clock.now += 0.5
    assert host.look() == 1, "in between it is what was seen last"
    assert 0.1 * len(looks) <= 0.005 * (clock.now - began) + 0.1
    assert len(looks) > 10


def test_where_nobody_tells_memory_there_is_no_number(monkeypatch):
    monkeypatch.setattr(memory, "resident", lambda process: None)
    assert HostMemory().look() is None
