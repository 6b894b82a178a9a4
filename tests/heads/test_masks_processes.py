"""The mask head's loss and measures are the same however pictures are dealt to processes and accumulated batches."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
import torch.distributed as dist
from one_step import first_gradients
from several_processes import on_processes

from mae_vlm.data.module import Data
from mae_vlm.encoders.vit import Vit
from mae_vlm.heads.masks import Masks
from mae_vlm.heads.parts.mask_metrics import MaskPrecision
from mae_vlm.heads.parts.panoptic_quality import PanopticQuality
from mae_vlm.learners.finetune import Finetuner
from mae_vlm.learners.optim import AdamW

PICTURES = 7


def gradients(processes: int, accumulation: int) -> dict[str, np.ndarray]:
    """Those of the first step of 8 scenes with one to four objects each, all queries masked."""
    torch.manual_seed(0)
    head = partial(Masks, classes=7, queries=5, last=2, points=32)
    learner = Finetuner(Vit(width=32, depth=3, heads=4, patch=8, image_size=32), {"masks": head}, AdamW(base_lr=1e-3))
    return first_gradients(learner, 8, processes, accumulation)


def measures(rank: int, processes: int) -> dict[str, float]:
    """Of 7 pictures, each with another number of objects, every ``processes``-th from ``rank`` on, the last place filled up."""
    precision, quality = MaskPrecision(3), PanopticQuality(3)
    for number in range(rank, -(-PICTURES // processes) * processes, processes):
        chance = torch.Generator().manual_seed(number)
        count = 0 if number >= PICTURES else number
        true = torch.rand(count, 8, 8, generator=chance).gt(0.7).repeat_interleave(4, 1).repeat_interleave(4, 2)
        found = true ^ (torch.rand(count, 32, 32, generator=chance) < 0.15)
        classes, crowds = torch.arange(count) % 3, torch.zeros(count, dtype=torch.bool)
        precision.add(found, torch.rand(count, generator=chance), classes, true, classes, crowds, torch.ones(count))
        if number < PICTURES:
            maps = [
                (one * torch.arange(1, count + 1).view(-1, 1, 1)).flatten(1).view(count, 32, 32).sum(0) % (count + 1)
                for one in (found, true)
            ]
            quality.update(maps[0], classes, maps[1], classes, crowds)
    return {name: value.item() for name, value in (precision.compute() | quality.compute()).items() if value.ndim == 0}


def of_a_torchrun(rank: int) -> dict[str, str]:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0, "OMP_NUM_THREADS": 1}
    return {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"}


def both() -> tuple[dict[int, dict], dict[str, float]]:
    found = {accumulation: gradients(2, accumulation) for accumulation in (1, 2)}
    return found, measures(dist.get_rank(), 2)


def test_objects_spread_unevenly_over_processes_and_accumulated_batches_change_no_gradient_and_no_measure():
    one = {accumulation: gradients(1, accumulation) for accumulation in (1, 2)}
    (two, measured), (_, other) = on_processes(2, both, env=of_a_torchrun)
    whole = one[1]
    assert len(whole) > 40 and all(
        np.abs(whole[f"heads.masks.{name}"]).max() > 1e-4 for name in ("queries", "classify.weight", "draw.0.bias")
    )
    for dealt in (one[2], two[1], two[2]):
        assert dealt.keys() == whole.keys()
        for name, value in whole.items():
            np.testing.assert_allclose(dealt[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    alone = measures(0, 1)
    assert measured == other and set(measured) == set(alone) and 0.05 < alone["mask_map"] < 0.95 and 0.05 < alone["pq"] < 0.95
    for name, value in alone.items():
        assert abs(measured[name] - value) < 1e-6, name


def test_a_mean_of_means_would_have_changed_them():
    data = Data(scenes=32, val_scenes=0, image_size=32, batch_size=8, num_workers=0)
    data.wants = frozenset({"masks"})
    batch = next(iter(data.train_dataloader()))
    counts = [sum(len(target.classes) for target in batch.targets[start : start + 2]) for start in range(0, 8, 2)]
    assert max(counts) > 1.2 * min(counts)
