"""Questions and captions dealt unevenly to processes and accumulated batches: each counts alike, and so does each token."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import torch
import torch.distributed as dist
from captioned import CAPTIONS, a_batch, a_text, an_image, stirred
from process_pool import on_pool

from mae_vlm.encoders.fusion.cross import CrossAttention
from mae_vlm.heads.answer import AnswerQuestions
from mae_vlm.heads.caption import Caption
from mae_vlm.heads.choice import MultipleChoice
from mae_vlm.heads.pair import PairReasoning
from mae_vlm.learners.finetune import Finetuner
from mae_vlm.learners.optim import AdamW
from mae_vlm.learners.pretrain import Pretrainer
from mae_vlm.objectives.alignment import Alignment
from mae_vlm.objectives.answers import Answers
from mae_vlm.objectives.caption import Caption as Captions
from mae_vlm.tokens.masking import RandomMask
from mae_vlm.types import Question

NAMES = ["red", "blue", "yes", "no", "2"]
HEADS = {
    "answer": partial(AnswerQuestions, classes=NAMES, questions=2),
    "single": partial(AnswerQuestions, classes=NAMES, loss="cross_entropy"),
    "blind": partial(AnswerQuestions, classes=NAMES, picture=False),
    "caption": partial(Caption, prompt="a picture"),
    "pair": partial(PairReasoning, statements=1),
    "choice": partial(MultipleChoice, questions=2),
}
OBJECTIVES = {"caption": Captions, "answers": partial(Answers, classes=NAMES), "alignment": Alignment}
KINDS = {**{f"head {name}": (name,) for name in HEADS}, **{f"objective {name}": (name,) for name in OBJECTIVES}}
KINDS["both heads"], KINDS["all objectives"] = ("answer", "caption"), tuple(OBJECTIVES)
FUSION = partial(CrossAttention, depth=1, heads=2)


def asked(number: int) -> tuple[Question, ...]:
    """None, one or several questions, some whose answers are unknown or of several people; the third quarter has none."""
    some = (
        Question(f"is it number {number}?", ("yes", "no")[number % 2 : number % 2 + 1]),
        Question("what colour is the square?", ("red",) * 4 + ("blue",) * 2 + ("dark red",)),
        Question("what is it?", ("a zebra",)),
        Question("how many rings are there on the left side?", ("two",)),
    )
    return () if 8 <= number < 12 or number == 14 else some[number % 3 : number % 3 + number % 4]


def reasoned(number: int) -> tuple[Question, ...]:
    """Statements and questions with candidates, of which pictures have as unequal shares."""
    some = (
        Question(f"it is number {number}", ("true", "false")[number % 2 : number % 2 + 1]),
        Question("which one?", ("a star",), ("a red ring", "a star", "a blue cross in the middle")[: 2 + number % 2]),
        Question("why that one?", ("it is red",), ("it is red", "it is on the left"), rationale=True),
    )
    return () if 8 <= number < 12 or number == 14 else some[number % 2 : 1 + number % 4]


def everything():
    batch = a_batch(CAPTIONS)
    return replace(batch, questions=[asked(number) + reasoned(number) for number in range(16)], partner_BCHW=batch.second_BCHW)


def learner(kind: str):
    torch.manual_seed(0)
    rule = AdamW(base_lr=1e-3)
    if "head" in kind:
        model = Finetuner(an_image(), {name: HEADS[name] for name in KINDS[kind]}, rule, a_text(), FUSION)
    else:
        model = Pretrainer(an_image(), RandomMask(0.75), {name: OBJECTIVES[name] for name in KINDS[kind]}, rule, a_text(), FUSION)
    return stirred(model.double()).train()


def step(kind: str, accumulation: int = 1) -> dict[str, np.ndarray]:
    """Loss and gradients of a step on all pictures, of which each process has its share in ``accumulation`` batches."""
    processes, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    whole, model = everything(), learner(kind)
    size = len(whole) // (processes * accumulation)
    batches = [whole[start : start + size] for start in range(rank * accumulation * size, (rank + 1) * accumulation * size, size)]
    seen = batches if isinstance(model, Finetuner) else [model.features(batch) for batch in batches]
    model.shares.begin([model._counts(one) for one in seen], accumulation, torch.device("cpu"))
    total = torch.zeros((), dtype=torch.float64)
    for number, batch in enumerate(batches):
        loss = model.training_step(batch, number) / accumulation
        loss.backward()
        total += loss.detach()
    found = {"loss": total} | {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    if processes > 1:
        for value in found.values():
            dist.all_reduce(value)
            value /= processes
    return {name: value.numpy() for name, value in found.items()}


def steps(accumulations: tuple[int, ...]) -> dict[tuple[str, int], dict[str, np.ndarray]]:
    return {(kind, accumulation): step(kind, accumulation) for kind in KINDS for accumulation in accumulations}


whole = cache(step)


def alike(found: dict[str, np.ndarray], kind: str, told: object) -> None:
    assert found.keys() == whole(kind).keys()
    for name, value in whole(kind).items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-10, err_msg=f"{told} {name}")


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_and_accumulated_batches_change_no_loss_and_no_gradient(processes):
    for rank, runs in enumerate(on_pool(processes, steps, (1, 4))):
        for (kind, accumulation), found in runs.items():
            alike(found, kind, (processes, rank, kind, accumulation))


@pytest.mark.parametrize("kind", KINDS)
def test_accumulated_batches_of_one_process_change_nothing(kind):
    alike(step(kind, 4), kind, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_compared_is_not_zero(kind):
    one = whole(kind)
    assert np.isfinite(one["loss"]) and one["loss"] > 0.01
    flat = [name for name, value in one.items() if np.abs(value).max() < 1e-6 and not name.endswith("key.bias")]
    if "blind" in kind:  # zeros in the picture's place: where to look, and what is seen, matter nothing
        looking = [f"towers.fusion.layers.layer.0.crossattention.self.{part}" for part in ("query.weight", "query.bias", "key.weight")]
        flat = [name for name in flat if not name.startswith("towers.image") and name not in ("towers.fusion.picture.weight", *looking)]
    assert not flat, flat  # a bias of all keys changes no softmax


def test_the_shares_of_the_processes_are_unequal_and_one_has_none():
    model = learner("both heads")
    counts = [model._counts(everything()[start : start + 4]) for start in range(0, 16, 4)]
    for name in ("answer/binary", "caption/cross_entropy"):
        told = [float(one[name]) for one in counts]
        assert told[2] == 0 and len({*told}) >= 3, (name, told)
