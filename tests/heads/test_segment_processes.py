"""A segmenter's loss counts known pixels alike, however they are dealt to processes and accumulated batches."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from one_step import first_gradients
from several_processes import on_processes
from torch import nn

from mae_vlm.data.module import Data
from mae_vlm.encoders.vit import Vit
from mae_vlm.heads.parts.upernet import UperNet
from mae_vlm.heads.segment import Segment
from mae_vlm.learners.finetune import Finetuner
from mae_vlm.learners.optim import AdamW


def gradients(processes: int, accumulation: int) -> dict[str, np.ndarray]:
    """Those of the first step of 8 scenes whose background is unknown: each has another number of known pixels."""
    torch.manual_seed(0)
    names = ["background", "circle", "square", "triangle", "star", "ring", "cross", "diamond"]
    head = partial(Segment, classes=names, ignore=["background"], decoder=partial(UperNet, channels=8), auxiliary=0.4)
    learner = Finetuner(Vit(width=32, depth=3, heads=4, patch=8, image_size=32), {"segment": head}, AdamW(base_lr=1e-3))
    draw = torch.Generator().manual_seed(1)
    for decoder in (learner.heads["segment"].decoder, learner.heads["segment"].auxiliary):
        decoder.eval()  # dropout would draw for other pictures
        nn.init.normal_(decoder.linear.weight, std=0.5, generator=draw)
    learner.heads["segment"].decoder.train = learner.heads["segment"].auxiliary.train = lambda mode: None
    return first_gradients(learner, 8, processes, accumulation)


def of_a_torchrun(rank: int) -> dict[str, str]:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0, "OMP_NUM_THREADS": 1}
    return {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"}


def both_ways(processes: int) -> dict[int, dict]:
    return {accumulation: gradients(processes, accumulation) for accumulation in (1, 2)}


def test_known_pixels_spread_unevenly_over_processes_and_accumulated_batches_change_no_gradient():
    one, two = both_ways(1), on_processes(2, both_ways, 2, env=of_a_torchrun)[0]
    whole = one[1]
    assert len(whole) > 40 and all(np.abs(whole[f"heads.segment.{part}.linear.weight"]).max() > 1e-3 for part in ("decoder", "auxiliary"))
    for dealt in (one[2], two[1], two[2]):
        assert dealt.keys() == whole.keys()
        for name, value in whole.items():
            np.testing.assert_allclose(dealt[name], value, rtol=0, atol=1e-5, err_msg=name)


def test_a_mean_of_means_would_have_changed_them():
    data = Data(scenes=32, val_scenes=0, image_size=32, batch_size=8, num_workers=0)
    data.wants = frozenset({"semantic"})
    batch = next(iter(data.train_dataloader()))
    counts = [int(sum((target.semantic > 0).sum() for target in batch.targets[start : start + 2])) for start in range(0, 8, 2)]
    assert len(set(counts)) == 4 and max(counts) > 1.2 * min(counts)
