"""The query detector's loss counts objects alike, however pictures are dealt to processes and accumulated batches."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from one_step import first_gradients
from several_processes import on_processes
from torch import nn

from mae_vlm.data.module import Data
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.heads.queries import Queries
from mae_vlm.learners.finetune import Finetuner
from mae_vlm.learners.optim import AdamW

HEAD = partial(Queries, classes=7, queries=6, groups=2, width=16, layers=2, heads=2, hidden=24)


def an_encoder() -> Vit:
    return Vit(width=32, depth=2, heads=4, patch=8, image_size=32)


def gradients(processes: int, accumulation: int) -> dict[str, np.ndarray]:
    """Those of a step of 16 scenes; what begins with zeros does not here, so that every weight takes part."""
    torch.manual_seed(0)
    learner = Finetuner(an_encoder(), {"detect": HEAD}, AdamW(base_lr=1e-3))
    head = learner.heads["detect"]
    for weight in (head.place[-1].weight, *(propose.boxes[-1].weight for propose in head.propose)):
        nn.init.normal_(weight, std=0.1)
    for layer in head.decode.layers:
        nn.init.normal_(layer.places.offsets.weight, std=0.1)
        nn.init.normal_(layer.places.weights.weight, std=0.1)
    return first_gradients(learner, 16, processes, accumulation)


def dealt(processes: int) -> list[dict[str, np.ndarray]]:
    """On one of so many processes, with 1 and 4 batches accumulated; as arrays, which outlive the process."""
    return [gradients(processes, accumulation) for accumulation in (1, 4)]


def test_objects_spread_unevenly_over_processes_and_accumulated_batches_change_no_gradient():
    whole, others = gradients(1, 1), [gradients(1, 4)]
    for processes in (2, 4):
        others += on_processes(processes, dealt, processes)[0]
    largest = {name: np.abs(value).max() for name, value in whole.items()}
    still = [name for name, value in largest.items() if name.startswith("heads") and value < 1e-7]
    assert len(whole) > 80 and not still, still
    for found in others:
        assert whole.keys() == found.keys()
        for name, value in whole.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_parts_of_that_step_do_hold_different_numbers_of_objects():
    data = Data(scenes=64, val_scenes=0, image_size=32, batch_size=16, num_workers=0)
    data.wants = frozenset({"boxes"})
    batch = next(iter(data.train_dataloader()))
    head = HEAD(Towers(an_encoder()))
    assert len({float(head.counts(batch[start : start + 4])["boxes"]) for start in range(0, 16, 4)}) > 1
