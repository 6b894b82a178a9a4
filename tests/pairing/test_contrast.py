"""Promises of mae_vlm.pairing: what belongs together over all processes, and the two contrasts. Letters as there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from captioned import CAPTIONS, a_batch, towers
from process_pool import on_pool
from torch.nn import functional

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.joint import Embedded
from mae_vlm.pairing.contrast import sigmoid_contrast, softmax_contrast
from mae_vlm.pairing.gather import first_row, gather, processes
from mae_vlm.pairing.pairs import Pairs, identities, pairs

SCALE, BIAS = torch.tensor(5.0, dtype=torch.float64), torch.tensor(-2.0, dtype=torch.float64)


def embedded(count: int) -> Embedded:
    draw = torch.Generator().manual_seed(0)
    return Embedded(*(functional.normalize(torch.randn(count, 6, generator=draw, dtype=torch.float64), dim=-1) for _ in range(2)))


def told(same: list[tuple[int, int]] = (), without: tuple[int, ...] = (), count: int = 5) -> Pairs:
    """Pairs of which these have the same picture or words, and those have no caption."""
    own_B, has_B = torch.arange(count), torch.ones(count, dtype=torch.bool)
    has_B[list(without)] = False
    same_BA = torch.eye(count, dtype=torch.bool)
    for one, other in same:
        same_BA[one, other] = same_BA[other, one] = True
    return Pairs(own_B, has_B, has_B, same_BA)


def test_softmax_contrast_is_half_of_each_cross_entropy():
    found = embedded(5)
    scores = SCALE * found.image_BE @ found.text_BE.T
    wanted = (
        functional.cross_entropy(scores, torch.arange(5), reduction="sum")
        + functional.cross_entropy(scores.T, torch.arange(5), reduction="sum")
    ) / 2
    assert torch.allclose(softmax_contrast(found, told(), SCALE), wanted, rtol=0, atol=1e-12)


def test_softmax_contrast_takes_neither_the_same_nor_what_is_no_pair_for_a_negative():
    """Pairs 0 and 3 show or say the same, 2 has no caption: written out pair by pair."""
    found, wanted = embedded(5), torch.zeros((), dtype=torch.float64)
    scores = SCALE * found.image_BE @ found.text_BE.T
    for one in (0, 1, 3, 4):
        others = [other for other in (0, 1, 3, 4) if {one, other} != {0, 3}]
        for row in (scores[one], scores[:, one]):
            wanted += (torch.logsumexp(row[others], 0) - row[one]) / 2
    assert torch.allclose(softmax_contrast(found, told([(0, 3)], (2,)), SCALE), wanted, rtol=0, atol=1e-12)


def test_sigmoid_contrast_tells_pairs_from_others_one_by_one():
    found, wanted = embedded(5), torch.zeros((), dtype=torch.float64)
    for one in (0, 1, 3, 4):
        for other in (0, 1, 3, 4):
            score = SCALE * found.image_BE[one] @ found.text_BE[other] + BIAS
            if {one, other} != {0, 3}:
                wanted -= functional.logsigmoid(score if one == other else -score)
    assert torch.allclose(sigmoid_contrast(found, told([(0, 3)], (2,)), SCALE, BIAS), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("without", [(0, 1, 2, 3, 4), (1, 2, 3, 4)], ids=["no pair", "one pair"])
def test_too_few_pairs_give_a_finite_loss_with_a_gradient(without):
    for contrast, more in ((softmax_contrast, ()), (sigmoid_contrast, (BIAS,))):
        found = Embedded(*(one.requires_grad_() for one in embedded(5)))
        loss = contrast(found, told(without=without), SCALE, *more)
        loss.backward()
        assert loss.isfinite() and all(one.grad is not None and one.grad.isfinite().all() for one in found)
        assert loss == 0 if len(without) == 5 or contrast is softmax_contrast else loss > 0


def test_what_shows_the_same_picture_or_says_the_same_words_is_the_same():
    house = towers().train()
    batch = a_batch([("a ring",), ("a red square",), (), ("a ring",), ("a blue circle",)])
    batch = replace(batch, ids=["a", "b", "c", "d", "b"])  # a picture may be there twice, with another of its captions
    found = pairs(Features(house, batch))
    same = {(one, other) for one, other in found.same_BA.nonzero().tolist() if one < other}
    assert same == {(0, 3), (1, 4)} and found.same_BA.diagonal().all()
    assert found.has_B.tolist() == found.has_A.tolist() == [True, True, False, True, True] and found.own_B.tolist() == [0, 1, 2, 3, 4]


def test_identities_are_of_names_and_words_alone():
    house = towers().eval()
    batch = a_batch()
    first, again = identities(Features(house, batch)), identities(Features(house, batch[4:12]))
    assert torch.equal(first[4:12], again) and len(first[:, 0].unique()) == 16
    assert len(first[:, 1].unique()) == 1 + len({captions[0] for captions in CAPTIONS if captions})


def gathered() -> tuple:
    """On one of several processes: what it gets together, the gradient of a loss of its own, and where it stands."""
    own = (torch.arange(4.0, dtype=torch.float64).view(2, 2) + 10 * dist.get_rank()).requires_grad_()
    everybodys = gather(own)
    weight = torch.arange(everybodys.numel(), dtype=torch.float64).view_as(everybodys) * (1 + dist.get_rank())
    (everybodys * weight).sum().backward()
    plain = gather(torch.tensor([dist.get_rank() > 0])), gather(torch.tensor([[dist.get_rank()]]))
    return everybodys.detach().numpy(), own.grad.numpy(), [one.numpy() for one in plain], first_row(2), processes()


@pytest.mark.parametrize("count", [2, 4])
def test_gathering_puts_rows_in_order_and_brings_back_the_gradients_of_all(count):
    for rank, (everybodys, gradient, plain, first, told_count) in enumerate(on_pool(count, gathered)):
        wanted = np.concatenate([np.arange(4.0).reshape(2, 2) + 10 * number for number in range(count)])
        np.testing.assert_array_equal(everybodys, wanted)
        own = np.arange(4.0 * count).reshape(-1, 2)[2 * rank : 2 * rank + 2]
        np.testing.assert_array_equal(gradient, own * sum(range(1, count + 1)))
        assert plain[0].tolist() == [number > 0 for number in range(count)] and plain[1].tolist() == [[number] for number in range(count)]
        assert first == 2 * rank and told_count == count


def test_alone_nothing_is_gathered():
    own = torch.ones(2, requires_grad=True)
    assert gather(own) is own and processes() == 1 and first_row(7) == 0
