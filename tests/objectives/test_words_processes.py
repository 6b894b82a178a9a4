"""However captioned pictures are dealt to processes, parts and accumulated batches: loss and gradients are those of one big batch."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from captioned import CAPTIONS, a_batch
from process_pool import on_pool
from word_steps import ADDING, ALL, EVERY, SETS, learner, step, steps

from mae_vlm.learners.pretrain import Pretrainer
from mae_vlm.objectives.pixels import Pixels
from mae_vlm.tokens.masking import RandomMask

RUNS = [(names, chunks, 1, "cross") for names in SETS for chunks in ((1, 4) if len(names) == 1 else (4,))] + [
    (names, 1, 4, "cross") for names in ADDING
]
RUNS += [(EVERY, 4, 1, "early"), (ALL, 4, 1, "coattention"), (ALL, 4, 1, "cross, regions")]  # the second cannot caption
RUNS += [(("softmax", "matching"), 4, 1, fusion) for fusion in ("late", "additive")]  # which keep no tokens
whole = cache(lambda names, fusion="cross": step(names, fusion=fusion))


def alike(found: dict[str, np.ndarray], names: tuple[str, ...], fusion: str = "cross", told: object = "") -> None:
    one = whole(names, fusion)
    assert found.keys() == one.keys()
    for name, value in one.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-10, err_msg=f"{told} {name}")


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_parts_and_accumulated_batches_change_no_loss_and_no_gradient(processes):
    for runs in (RUNS[::2], RUNS[1::2]):  # the pool waits only so long for each
        everybodys = on_pool(processes, steps, runs)
        for run, *found in zip(runs, *everybodys, strict=True):
            for rank, one in enumerate(found):
                alike(one, run[0], run[3], (processes, rank, run))


@pytest.mark.parametrize("names", SETS, ids=", ".join)
def test_parts_of_one_processs_batch_change_nothing(names):
    alike(step(names, chunks=4), names)


@pytest.mark.parametrize("names", ADDING, ids=", ".join)
def test_accumulated_batches_of_one_process_change_nothing(names):
    alike(step(names, accumulation=4), names)


@pytest.mark.parametrize("names", SETS, ids=", ".join)
def test_what_is_compared_is_not_zero(names):
    one = whole(names)
    assert np.isfinite(one["loss"]) and one["loss"] > 0.05
    flat = [name for name, value in one.items() if np.abs(value).max() < 1e-6 and not name.endswith("key.bias")]
    assert not flat, flat  # a bias of all keys changes no softmax


def test_the_shares_of_the_processes_are_unequal_and_one_has_none():
    model = learner(("softmax", "matching", "masked_language", "answers"))
    parts = [a_batch()[start : start + 4] for start in range(0, 16, 4)]
    told = [[bool(one) for one in part.captions].count(True) for part in parts]
    hidden = [int(model._counts(model.features(part))["masked_language/cross_entropy"]) for part in parts]
    asked = [int(model._counts(model.features(part))["answers/binary"]) for part in parts]
    assert len({*asked}) >= 3 and asked[2] == 0
    tokens = [int(model.features(part).words.real_BT.sum()) for part in parts]
    assert told == [3, 3, 0, 2] and hidden[2] == 0 and len({*hidden}) >= 3 and len({*tokens}) >= 3
    across = {part_words.ids_BT.shape[1] for part_words in (model.features(part).words for part in parts)}
    assert len(across) > 1  # so processes pad their texts differently


def test_accumulated_batches_do_change_what_contrasts_pictures():
    found = step(("softmax",), accumulation=4)
    assert abs(found["loss"] - whole(("softmax",))["loss"]) > 1e-3


def test_parts_with_batch_normalisation_are_refused():
    encoder = learner(("pixels",)).towers.image
    encoder.odd = torch.nn.BatchNorm1d(4)
    with pytest.raises(ValueError, match=r"chunks 4 given, but image\.odd normalises over a batch, which parts would change") as told_off:
        Pretrainer(encoder, RandomMask(0.75), {"pixels": Pixels}, None, chunks=4)
    assert "\n" not in str(told_off.value)


@pytest.mark.parametrize("names", SETS, ids=", ".join)
def test_without_any_caption_all_is_finite_and_every_weight_has_a_gradient(names):
    found = step(names, captions=[()] * 4)
    assert all(np.isfinite(value).all() for value in found.values())
    if not {"pixels", "views"} & {*names}:
        assert found["loss"] == 0 and all((value == 0).all() for value in found.values())


@pytest.mark.parametrize("captions", [[("a ring",)], [("a ring",)] * 4, [("a ring",), (), (), ()]], ids=["one", "equal", "one of four"])
def test_small_and_equal_batches_do_not_crash(captions):
    found = step(ALL, captions=captions)
    assert all(np.isfinite(value).all() for value in found.values()) and found["loss"] > 0


def test_batches_with_and_without_captions_run_the_same_operations():
    """What runs must not depend on the data: it would hang processes that wait for each other."""
    found = []
    for captions in (CAPTIONS[:4], [()] * 4, [("a ring",)] * 4):
        model, ran = learner(EVERY), []
        for name, module in model.named_modules():
            if next(module.children(), None) is None:
                module.register_forward_hook(lambda *_, name=name, ran=ran: ran.append(name))
        features = model.features(a_batch(captions))
        model.shares.begin([model._counts(features)], 1, torch.device("cpu"))
        model.training_step(features.batch, 0)
        found.append(ran)
    assert found[0] == found[1] == found[2] and len(found[0]) > 100
