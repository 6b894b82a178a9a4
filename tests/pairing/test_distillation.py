"""Promises of mae_vlm.pairing.distillation and .queue, and of the contrast that learns from them. Letters as there."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from mae_vlm.encoders.joint import Embedded
from mae_vlm.pairing.contrast import Lesson, softmax_contrast
from mae_vlm.pairing.distillation import Trust, divergence
from mae_vlm.pairing.pairs import Pairs
from mae_vlm.pairing.queue import Queue, alike, push

SCALE = torch.tensor(5.0, dtype=torch.float64)


def embedded(count: int, seed: int = 0) -> Embedded:
    draw = torch.Generator().manual_seed(seed)
    return Embedded(*(functional.normalize(torch.randn(count, 6, generator=draw, dtype=torch.float64), dim=-1) for _ in range(2)))


def who(count: int, start: int = 0) -> torch.Tensor:
    """Of as many other pictures and captions."""
    return torch.arange(start, start + 2 * count).view(count, 2)


def told(who_B2: torch.Tensor, without: tuple[int, ...] = ()) -> Pairs:
    has_B = torch.ones(len(who_B2), dtype=torch.bool)
    has_B[list(without)] = False
    return Pairs(torch.arange(len(who_B2)), has_B, has_B, (who_B2[:, None] == who_B2[None]).any(-1))


def lesson(count: int = 5, alpha: float = 0.4, queue: Queue | None = None, who_B2: torch.Tensor | None = None) -> Lesson:
    taught = embedded(count, seed=1)
    return Lesson(taught, taught, Trust(alpha, 0) if alpha else None, queue, who(count) if who_B2 is None else who_B2)


def a_queue(places: int, count: int, start: int = 1000) -> Queue:
    queue = Queue(places, 6).double()
    queue.push(embedded(count, seed=2), who(count, start), torch.ones(count, dtype=torch.bool))
    return queue


def written_out(found: Embedded, given: Embedded, taught: Embedded, alpha: float, rows: list[int], allowed) -> torch.Tensor:
    """ALBEF's equation 6, pair by pair, over those columns of what is ``given`` that each row ``allowed``."""
    wanted = torch.zeros((), dtype=torch.float64)
    for row in rows:
        columns = allowed(row)
        own = columns.index(row)
        for one, other in ((0, 1), (1, 0)):
            p = (SCALE * found[one][row] @ given[other][columns].T).softmax(0)
            q = (SCALE * taught[one][row] @ taught[other][columns].T).softmax(0)
            wanted += ((1 - alpha) * -p[own].log() + alpha * (q * (q / p).log()).sum()) / 2
    return wanted


def test_the_contrast_is_albefs_equation_6():
    found, lessons = embedded(5), lesson()
    wanted = written_out(found, found, lessons.own, 0.4, [0, 1, 2, 3, 4], lambda row: [0, 1, 2, 3, 4])
    assert torch.allclose(softmax_contrast(found, told(who(5)), SCALE, lessons), wanted, rtol=0, atol=1e-12)


def test_what_shows_or_says_the_same_is_no_answer_of_the_teachers_either():
    """Pairs 0 and 3 show the same picture, 1 and 4 say the same, 2 has no caption."""
    who_B2 = who(5)
    who_B2[3, 0], who_B2[4, 1] = who_B2[0, 0], who_B2[1, 1]
    found, lessons = embedded(5), lesson(who_B2=who_B2)
    same = {0: 3, 3: 0, 1: 4, 4: 1}
    wanted = written_out(found, found, lessons.own, 0.4, [0, 1, 3, 4], lambda row: [other for other in (0, 1, 3, 4) if other != same[row]])
    assert torch.allclose(softmax_contrast(found, told(who_B2, (2,)), SCALE, lessons), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_with_a_queue_pairs_are_held_against_the_teachers_embeddings_of_now_and_before(alpha):
    """Of 7 places 4 are taken; the second of them shows what pair 2 shows."""
    queue, found = a_queue(7, 4), embedded(5)
    queue.who_Q2[1, 0] = who(5)[2, 0]
    lessons = lesson(alpha=alpha, queue=queue)
    given = Embedded(*(torch.cat([own, kept[:4]]) for own, kept in zip(lessons.own, embedded(4, seed=2), strict=True)))
    wanted = written_out(found, given, given, alpha, [*range(5)], lambda row: [other for other in range(9) if (row, other) != (2, 6)])
    assert torch.allclose(softmax_contrast(found, told(who(5)), SCALE, lessons), wanted, rtol=0, atol=1e-12)


def test_a_teacher_who_is_not_believed_changes_no_bit_of_loss_and_gradient():
    losses, gradients = [], []
    for trust in (None, Trust(0.0, 0), Trust(0.4, 10)):  # the last in a run's first step
        found = Embedded(*(part.requires_grad_() for part in embedded(5)))
        given = None if trust is None else lesson()._replace(trust=trust)
        losses.append(softmax_contrast(found, told(who(5), (1,)), SCALE, given))
        gradients.append(torch.autograd.grad(losses[-1], found))
    for other, gradient in zip(losses[1:], gradients[1:], strict=True):
        assert torch.equal(losses[0], other) and all(torch.equal(one, same) for one, same in zip(gradients[0], gradient, strict=True))


def test_a_soft_truth_leaves_the_true_pair_one_less_alpha():
    """By the gradient of the scores, p less the truth: of a teacher who is sure of something else the true pair keeps .6."""
    scores = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    plain = functional.cross_entropy(scores, torch.tensor([0]), reduction="none")
    taught = torch.tensor([[0.0, 0.0, 1e3, 0.0]], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(Trust(0.4, 0).mixed(plain, divergence(taught, scores)).sum(), scores)
    assert torch.allclose(scores.softmax(1) - gradient, torch.tensor([[0.6, 0.0, 0.4, 0.0]], dtype=torch.float64), rtol=0, atol=1e-12)


def test_trust_grows_evenly_to_alpha_and_stays():
    trust = Trust(0.4, 4)
    grown = []
    for _ in range(6):
        grown.append(float(trust.now()))
        trust.step()
    assert grown == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.4])
    other = Trust(0.4, 4)
    other.load_state_dict(trust.state_dict())
    assert float(other.now()) == pytest.approx(0.4) and float(Trust(0.3, 0).now()) == pytest.approx(0.3)


def test_the_newest_rows_that_count_take_the_oldest_places():
    kept, place = torch.zeros(5, 1), torch.zeros((), dtype=torch.int64)
    push([kept], place, [torch.tensor([[1.0], [2.0], [3.0]])], torch.tensor([True, False, True]))
    assert kept.flatten().tolist() == [1, 3, 0, 0, 0] and int(place) == 2
    push([kept], place, [torch.tensor([[4.0], [5.0], [6.0], [7.0]])], torch.ones(4, dtype=torch.bool))
    assert kept.flatten().tolist() == [7, 3, 4, 5, 6] and int(place) == 1
    push([kept], place, [torch.zeros(4, 1)], torch.zeros(4, dtype=torch.bool))
    assert kept.flatten().tolist() == [7, 3, 4, 5, 6] and int(place) == 1
    push([kept], place, [torch.arange(8.0)[:, None]], torch.ones(8, dtype=torch.bool))  # more than there are places
    assert sorted(kept.flatten().tolist()) == [0, 1, 2, 3, 4] and int(place) == 1


def test_a_queue_keeps_pairs_with_a_caption_and_finite_numbers_alone():
    queue, found = Queue(4, 6).double(), embedded(3)
    found.text_BE[2, 0] = torch.nan
    queue.push(found, who(3), torch.tensor([True, False, True]))
    assert queue.there_Q.tolist() == [True, False, False, False] and torch.equal(queue.who_Q2[0], who(3)[0])
    assert torch.equal(queue.image_QE[0], found.image_BE[0]) and torch.equal(queue.text_QE[0], found.text_BE[0])


def test_an_empty_queue_is_no_negative_of_anything():
    found, lessons = embedded(5), lesson(alpha=0.0, queue=Queue(7, 6).double())
    wanted = written_out(found, lessons.own, lessons.own, 0.0, [*range(5)], lambda row: [*range(5)])
    assert torch.allclose(softmax_contrast(found, told(who(5)), SCALE, lessons), wanted, rtol=0, atol=1e-12)


def test_all_buffers_of_a_queue_are_told_and_no_others():
    house = torch.nn.ModuleDict({"queue": Queue(4, 6), "norm": torch.nn.BatchNorm1d(3)})
    assert alike(house) == [f"queue.{name}" for name in ("image_QE", "text_QE", "who_Q2", "there_Q", "place")]


@pytest.mark.parametrize("options", [(1.5, 0), (-0.1, 0), (0.4, -1)])
def test_wrong_options_are_told_in_one_line(options):
    with pytest.raises(ValueError, match=rf"alpha {options[0]}, ramp {options[1]} given: alpha, the teacher's weight") as said:
        Trust(*options)
    assert "\n" not in str(said.value)
