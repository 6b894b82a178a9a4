"""Promises of mae_vlm.heads.parts.query_decoder."""

from __future__ import annotations

import math

import torch

from mae_vlm.heads.parts.query_decoder import QueryDecoder, waves


def a_decoder() -> QueryDecoder:
    torch.manual_seed(0)
    decode = QueryDecoder(width=16, layers=2, heads=2, points=2, hidden=24)
    for layer in decode.layers:
        torch.nn.init.normal_(layer.places.offsets.weight)
    return decode


def questions(count: int):
    return torch.randn(2, count, 16), torch.rand(2, count, 4) * 0.5 + 0.2, torch.randn(2, 16, 4, 6)


def test_groups_in_one_pass_answer_as_each_by_itself():
    decode, (queries, boxes, map_BFhw) = a_decoder(), questions(6)
    together = decode(queries, boxes, map_BFhw, 2)
    assert len(together) == 2
    for part in (slice(0, 3), slice(3, 6)):
        for whole, alone in zip(together, decode(queries[:, part], boxes[:, part], map_BFhw, 1), strict=True):
            torch.testing.assert_close(whole[:, part], alone)
    assert (decode(queries, boxes, map_BFhw, 1)[-1] - together[-1]).abs().max() > 1e-2, "one group of six sees more"


def test_a_query_knows_its_box_and_the_map_and_its_group():
    decode, (queries, boxes, map_BFhw) = a_decoder(), questions(4)
    before = decode(queries, boxes, map_BFhw, 2)[-1]
    elsewhere = boxes.clone()
    elsewhere[0, 0] += 0.1
    changed = (decode(queries, elsewhere, map_BFhw, 2)[-1] - before).abs().amax(-1) > 1e-4
    assert changed.tolist() == [[True, True, False, False], [False] * 4]
    assert ((decode(queries, boxes, map_BFhw + 1, 2)[-1] - before).abs().amax(-1) > 1e-4).all()


def test_waves_tell_the_height_first_in_sines_and_cosines_by_turns():
    found = waves(torch.tensor([0.3, 0.7, 0.1, 0.2]), 4)
    expected = []
    for number in (0.7, 0.3, 0.1, 0.2):
        for length in (1.0, 100.0):
            expected += [math.sin(2 * math.pi * number / length), math.cos(2 * math.pi * number / length)]
    torch.testing.assert_close(found, torch.tensor(expected))
