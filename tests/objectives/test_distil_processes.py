"""However pictures are dealt to processes, and with weights in shards: a distillation's loss and gradients are those of one big batch."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
import torch.distributed as dist
from captioned import a_batch, an_image, stirred
from process_pool import on_pool

from mae_vlm.encoders.vit import Vit
from mae_vlm.learners.optim import AdamW
from mae_vlm.learners.pretrain import Pretrainer
from mae_vlm.learners.sharding import full, shard
from mae_vlm.objectives.distil import Distil
from mae_vlm.objectives.pixels import Pixels
from mae_vlm.tokens.masking import RandomMask


def learner(view: str) -> Pretrainer:
    torch.manual_seed(0)
    teacher = Vit(width=24, depth=3, heads=2, patch=4, image_size=32)
    objectives = {
        "pixels": partial(Pixels, width=16, depth=1, heads=2),
        "distil": partial(Distil, encoder=teacher, view=view, class_weight=0.5),
    }
    return stirred(Pretrainer(an_image(), RandomMask(0.75), objectives, AdamW()).double()).train()


def step(view: str, sharded: bool = False) -> dict[str, np.ndarray]:
    """The gradients of a step on 16 pictures, of which each process has its share."""
    model, whole = learner(view), a_batch()
    processes, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    size = len(whole) // processes
    if sharded:
        shard(model, torch.device("cpu"))
    loss = model.training_step(whole[rank * size : (rank + 1) * size], 0)
    loss.backward()
    found = {"loss": loss.detach()} | {name: full(weight.grad) for name, weight in model.named_parameters() if weight.requires_grad}
    if processes > 1:
        for name in ("loss",) if sharded else found:  # torch has averaged the gradients of shards
            dist.all_reduce(found[name])
            found[name] /= processes
    return {name: value.numpy() for name, value in found.items()}


def steps() -> list[dict[str, np.ndarray]]:
    return [step("full"), step("masked"), step("full", sharded=True)]


def test_two_processes_and_shards_have_the_loss_and_gradients_of_one():
    everybodys = on_pool(2, steps)
    for number, (view, tolerance) in enumerate((("full", 1e-10), ("masked", 1e-10), ("full", 2e-5))):  # shards meet in float32
        one = step(view)
        assert not any("teacher" in name for name in one) and any("project_class" in name for name in one)
        for found in everybodys:
            assert found[number].keys() == one.keys()
            for name, value in one.items():
                np.testing.assert_allclose(found[number][name], value, rtol=0, atol=tolerance, err_msg=f"{view} {name}")
