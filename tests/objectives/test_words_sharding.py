"""Pictures with words, their weights in shards: every process runs as many passes whatever its captions and questions are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from process_pool import on_pool
from word_steps import EVERY, learner, step

from mae_vlm.types import Batch

RUNS = [(EVERY, 1, "early"), (EVERY, 4, "early"), (EVERY, 4, "cross")]


def sharded(names: tuple[str, ...], chunks: int, fusion: str) -> dict[str, np.ndarray]:
    """A step in each process: whole gradients, which torch has averaged over processes."""
    import torch.distributed as dist
    from captioned import a_batch

    from mae_vlm.learners.sharding import full, shard

    model, whole = learner(names, chunks, fusion), a_batch()
    size = len(whole) // dist.get_world_size()
    batch: Batch = whole[dist.get_rank() * size :][:size]
    shard(model, torch.device("cpu"))
    model.shares.begin([model._counts(model.features(batch))], 1, torch.device("cpu"))
    model.training_step(batch, 0).backward()
    found = {name: full(weight.grad).numpy() for name, weight in model.named_parameters() if weight.requires_grad}
    for objective in model.objectives.values():
        objective.after_step()
    return found


def every(runs: list[tuple]) -> list[dict[str, np.ndarray]]:
    return [sharded(*run) for run in runs]


def test_shards_have_the_gradients_of_one_process_and_no_process_waits_for_a_pass_that_another_does_not_make():
    for run, *found in zip(RUNS, *on_pool(2, every, RUNS), strict=True):
        one = step(run[0], fusion=run[2])
        for rank, gradients in enumerate(found):
            for name, value in gradients.items():
                scale = max(1.0, float(np.abs(one[name]).max()))
                np.testing.assert_allclose(value / scale, one[name] / scale, rtol=0, atol=2e-5, err_msg=f"{rank} {run[1:]} {name}")


@pytest.mark.parametrize("asked", [0, 1, 3, 9])
def test_questions_are_seen_in_as_many_parts_however_many_there_are(asked):
    from captioned import a_batch

    features = learner(("answers",), 4, "early").features(a_batch())
    rows, parts = features.rows([["what colour is it"] * asked, []]), []
    assert rows.words.has_B.sum() == asked and len(rows.words) == len(rows.picture_R) == max(asked, 4)

    def see(ids_RT: torch.Tensor) -> tuple[torch.Tensor, ...]:
        parts.append(ids_RT)
        return (ids_RT,)

    (whole_RT,) = features.in_chunks(see, rows.words.ids_BT)
    assert len(parts) == 4 and torch.equal(whole_RT, rows.words.ids_BT)
