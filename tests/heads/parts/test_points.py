"""Promises of mae_vlm.heads.parts.points and boxes."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import box_iou

from mae_vlm.heads.parts.boxes import decode, iou
from mae_vlm.heads.parts.points import assign, in_crowd, levels_of, places, pyramid_scales
from mae_vlm.types import TokenSpace


def levels(height: int = 64, width: int = 96, patch: int = 8):
    space = TokenSpace(height, width, patch)
    return levels_of(space, pyramid_scales(space))


def assigned(boxes, levels) -> torch.Tensor:
    boxes_1N4 = torch.as_tensor(boxes, dtype=torch.float32).reshape(1, -1, 4)
    return assign(boxes_1N4, torch.ones(1, boxes_1N4.shape[1], dtype=torch.bool), levels)[0]


@pytest.mark.parametrize(
    "side, patch, strides, rows",
    [
        (32, 4, [4, 8, 16], [8, 4, 2]),
        (64, 8, [4, 8, 16, 32], [16, 8, 4, 2]),
        (96, 16, [8, 16, 32, 64], [12, 6, 3, 2]),
        (224, 14, [7, 14, 28, 56, 112], [32, 16, 8, 4, 2]),
        (224, 16, [8, 16, 32, 64, 128], [28, 14, 7, 4, 2]),
        (1024, 16, [8, 16, 32, 64, 128], [128, 64, 32, 16, 8]),
        (64, 32, [8, 16, 32], [8, 4, 2]),
        (8, 8, [4], [2]),
    ],
)
def test_places_suit_small_and_large_encoders(side, patch, strides, rows):
    found = levels(side, side, patch)
    assert [level.stride for level in found] == strides and [level.rows for level in found] == rows


def test_places_are_the_middles_of_the_cells_of_each_level():
    centres_M2, side_M = places(levels())
    assert len(centres_M2) == 16 * 24 + 8 * 12 + 4 * 6 + 2 * 3
    assert centres_M2[0].tolist() == [2, 2] and centres_M2[1].tolist() == [6, 2] and centres_M2[24].tolist() == [2, 6]
    assert centres_M2[-1].tolist() == [80, 48] and side_M.unique().tolist() == [16, 32, 64, 128]


def plain_assignment(boxes_N4: torch.Tensor, levels) -> list[list[int]]:
    """ATSS word by word, for each object on its own, with the places around it as candidates."""
    centres_M2, side_M = places(levels)
    squares_M4 = torch.cat([centres_M2 - side_M[:, None] / 2, centres_M2 + side_M[:, None] / 2], 1)
    wanted = []
    for box in boxes_N4:
        middle, near, before = (box[:2] + box[2:]) / 2, [], 0
        for level in levels:
            column, row = (min(int(middle[axis] // level.stride), count - 1) for axis, count in ((0, level.columns), (1, level.rows)))
            firsts = [min(max(cell - 1, 0), max(count - 3, 0)) for cell, count in ((row, level.rows), (column, level.columns))]
            for down in range(firsts[0], min(firsts[0] + 3, level.rows)):
                near += [before + down * level.columns + across for across in range(firsts[1], min(firsts[1] + 3, level.columns))]
            before += level.rows * level.columns
        overlap = box_iou(box[None], squares_M4[near])[0]
        usual = overlap.mean() + overlap.std(correction=0)
        inside = ((centres_M2[near] > box[:2]) & (centres_M2[near] < box[2:])).all(1)
        wanted.append([place for place, high, within in zip(near, overlap >= usual, inside, strict=True) if high and within])
    return wanted


def test_an_objects_places_are_those_of_the_published_rule():
    draw = torch.Generator().manual_seed(0)
    corner_N2, size_N2 = torch.rand(40, 2, generator=draw) * 50, 6 + torch.rand(40, 2, generator=draw) * 40
    boxes_N4 = torch.cat([corner_N2, torch.minimum(corner_N2 + size_N2, torch.tensor([96.0, 64.0]))], 1)
    counts = []
    for box, wanted in zip(boxes_N4, plain_assignment(boxes_N4, levels()), strict=True):
        found = (assigned(box, levels()) == 0).nonzero()[:, 0].tolist()
        counts.append(len(found))
        assert found == sorted(wanted)
    assert 2 < sum(counts) / len(counts) < 9


def test_objects_of_every_size_get_places_of_their_size():
    found, (_, side_M) = levels(), places(levels())
    chosen = [side_M[assigned([40, 24, 40 + side, 24 + side], found) == 0].unique().tolist() for side in (3, 16, 32, 64)]
    assert chosen == [[16], [16], [32], [64]]


@pytest.mark.parametrize("box", [[0, 0, 1, 1], [95.5, 63.5, 96, 64], [0, 0, 96, 64], [30, 0, 30.5, 64], [4, 4, 4.2, 4.2]], ids=str)
def test_every_object_has_a_place_however_small_or_thin_or_at_the_edge(box):
    assert (assigned(box, levels()) == 0).any()


def test_thousands_of_objects_keep_their_best_place_where_no_other_has_the_same():
    across, down = torch.meshgrid(torch.arange(50) * 20.0, torch.arange(40) * 20.0, indexing="xy")
    corners_N2 = torch.stack([across.flatten(), down.flatten()], 1)
    owner_M = assigned(torch.cat([corners_N2 + 1, corners_N2 + 5], 1).tolist(), levels(1024, 1024, 16))
    assert set(owner_M.tolist()) == set(range(-1, 2000))


def test_of_two_objects_at_a_place_the_smaller_overlap_yields_but_neither_loses_all():
    small, large = [40, 24, 56, 40], [32, 16, 64, 48]
    owner_M = assigned([large, small], levels())
    assert (owner_M == 0).any() and (owner_M == 1).any()
    _, side_M = places(levels())
    assert side_M[owner_M == 1].unique().tolist() == [16] and side_M[owner_M == 0].unique().tolist() == [32]


def test_filled_up_lists_and_the_order_of_pictures_change_nothing():
    boxes_N4 = torch.tensor([[4.0, 4, 20, 30], [50, 10, 90, 60]])
    padded_BN4 = torch.zeros(2, 5, 4)
    padded_BN4[1, :2] = boxes_N4
    there_BN = torch.zeros(2, 5, dtype=torch.bool)
    there_BN[1, :2] = True
    owner_BM = assign(padded_BN4, there_BN, levels())
    assert (owner_BM[0] == -1).all() and torch.equal(owner_BM[1], assigned(boxes_N4.tolist(), levels()))


def test_no_object_at_all_leaves_every_place_empty():
    assert (assign(torch.zeros(3, 0, 4), torch.zeros(3, 0, dtype=torch.bool), levels()) == -1).all()


def test_a_crowds_places_are_open_for_its_class_alone_also_of_many_crowds():
    centres_M2 = torch.tensor([[5.0, 5], [15, 5], [25, 5]])
    boxes_BN4 = torch.tensor([[[0.0, 0, 10, 10], [10, 0, 20, 10]], [[0, 0, 30, 10], [0, 0, 0, 0]]])
    crowds_BN = torch.tensor([[False, True], [True, False]])
    open_BML = in_crowd(boxes_BN4, torch.tensor([[0, 1], [2, 0]]), crowds_BN, centres_M2, 3)
    assert open_BML[0].nonzero().tolist() == [[1, 1]] and open_BML[1].nonzero().tolist() == [[0, 2], [1, 2], [2, 2]]
    many_14 = torch.tensor([[[10.0 * number, 0, 10.0 * number + 10, 10] for number in range(200)]])
    centres_M2 = torch.stack([torch.arange(200) * 10.0 + 5, torch.full((200,), 5.0)], 1)
    open_BML = in_crowd(many_14, torch.zeros(1, 200, dtype=torch.int64), torch.ones(1, 200, dtype=torch.bool), centres_M2, 2)
    assert open_BML[0, :, 0].all() and not open_BML[0, :, 1].any()


def test_a_box_is_said_relative_to_its_place_and_never_overflows():
    raw = torch.tensor([[0.0, 0, 0, 0], [0.5, -0.25, 2.0, -1.0], [0, 0, 1e9, 1e9]], requires_grad=True)
    boxes = decode(raw, torch.tensor([[8.0, 8.0]]).expand(3, 2), torch.full((3,), 16.0))
    assert boxes[0].tolist() == [0, 0, 16, 16]
    torch.testing.assert_close((boxes[1, 2:] - boxes[1, :2]), 16 * torch.tensor([2.0, -1.0]).exp())
    torch.testing.assert_close((boxes[1, 2:] + boxes[1, :2]) / 2, torch.tensor([16.0, 4.0]))
    assert boxes.isfinite().all()


def test_iou_of_pairs_is_torchvisions():
    draw = torch.Generator().manual_seed(1)
    corner_N2, size_N2 = torch.rand(50, 2, generator=draw) * 10, torch.rand(50, 2, generator=draw) * 10
    boxes_N4 = torch.cat([corner_N2, corner_N2 + size_N2], 1)
    torch.testing.assert_close(iou(boxes_N4, boxes_N4.flip(0)), box_iou(boxes_N4, boxes_N4.flip(0)).diag())
    assert iou(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0
