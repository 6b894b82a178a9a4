"""How soon several processes hear of a signal, with a clock of the test's own."""

from types import SimpleNamespace

import pytest
import torch

from mae_vlm.callbacks import signals as module
from mae_vlm.callbacks.signals import Signals


@pytest.fixture
def asked(monkeypatch):
    """A Signals of two processes, its clock, and the times at which it asked the other."""
    now, times = [0.0], []
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module.dist, "all_reduce", lambda facts, op, group: times.append(now[0]))
    monkeypatch.setattr(module, "host_group", lambda: "gloo")
    watch = Signals()
    watch._before = {15: None}
    watch._asked = 0.0
    return watch, now, times


def test_fast_validation_batches_do_not_put_off_the_question_among_slow_steps(asked):
    watch, now, times = asked
    trainer = SimpleNamespace(world_size=2, global_step=0)

    def train(steps, seconds):
        for _ in range(steps):
            now[0] += seconds
            trainer.global_step += 1
            watch.look_after_step(trainer)

    train(10, 3.0)
    watch.on_validation_start(trainer, None)
    for _ in range(200):
        now[0] += 0.05
        watch.on_validation_batch_end(trainer)
    watch.on_validation_end(trainer, None)
    ended = now[0]
    train(10, 3.0)
    gaps = torch.tensor([0.0, *times]).diff()
    assert gaps.max() <= 3.0 + 0.05 + 1e-4, "a signal is heard within a step, or about two seconds"
    assert min(time for time in times if time > ended) - ended <= 3.0 + 1e-6
