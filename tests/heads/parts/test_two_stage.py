"""Promises of mae_vlm.heads.parts.two_stage."""

from __future__ import annotations

import torch

from mae_vlm.heads.parts.two_stage import Proposer, moved, proposing, squares


def a_proposer(queries: int = 3) -> Proposer:
    torch.manual_seed(0)
    propose = Proposer(8, 4, queries)
    torch.nn.init.normal_(propose.boxes[-1].weight)
    return propose


def test_every_cell_has_a_small_square_around_its_centre_row_by_row():
    boxes_N4, inside_N = squares(2, 4)
    assert inside_N.all() and len(boxes_N4) == 8
    torch.testing.assert_close(boxes_N4[0], torch.tensor([0.125, 0.25, 0.05, 0.05]))
    torch.testing.assert_close(boxes_N4[5], torch.tensor([0.375, 0.75, 0.05, 0.05]))


def test_cells_at_the_very_edge_of_a_large_grid_propose_nothing():
    _, inside_N = squares(60, 4)
    assert inside_N.view(60, 4)[1:-1].all() and not inside_N.view(60, 4)[[0, -1]].any()
    assert proposing(60, 4) == inside_N.sum() and proposing(50, 50) == 48 * 48 and proposing(49, 1) == 49


def test_a_box_moves_by_shares_of_its_sides_and_never_grows_without_bound():
    box = torch.tensor([0.5, 0.5, 0.2, 0.1])
    torch.testing.assert_close(moved(box, torch.tensor([1.0, -1, 0, 0])), torch.tensor([0.7, 0.4, 0.2, 0.1]))
    torch.testing.assert_close(moved(box, torch.tensor([0.0, 0, 1, -1])), torch.tensor([0.5, 0.5, 0.2 * torch.e, 0.1 / torch.e]))
    assert moved(box, torch.full((4,), 1e4)).isfinite().all()
    assert moved(box, torch.zeros(4, dtype=torch.bfloat16)).dtype == torch.float32


def test_the_cells_with_the_highest_logit_are_named_and_no_other():
    propose, (boxes_N4, inside_N) = a_proposer(), squares(3, 4)
    cells_BNF = torch.randn(2, 12, 8)
    inside_N[5] = False
    logits_BQL, said_BQ4, seen_BQF = propose(cells_BNF, boxes_N4, inside_N)
    all_BNL = propose.classes(propose.look(cells_BNF))
    best_BQ = all_BNL.amax(-1).masked_fill(~inside_N, -torch.inf).argsort(descending=True)[:, :3]
    assert 5 not in best_BQ
    for picture in range(2):
        torch.testing.assert_close(logits_BQL[picture], all_BNL[picture, best_BQ[picture]])
        torch.testing.assert_close(seen_BQF[picture], propose.look(cells_BNF[picture, best_BQ[picture]]))
        raw = propose.boxes(propose.look(cells_BNF[picture, best_BQ[picture]]))
        torch.testing.assert_close(said_BQ4[picture], moved(boxes_N4[best_BQ[picture]], raw))


def test_its_gradient_is_that_of_looking_at_all_cells_once():
    propose, (boxes_N4, inside_N) = a_proposer(), squares(3, 4)
    cells_BNF = torch.randn(2, 12, 8)

    def gradients(logits_BQL, said_BQ4):
        return torch.autograd.grad(logits_BQL.square().sum() + said_BQ4.square().sum(), list(propose.parameters()))

    seen_BNF = propose.look(cells_BNF)
    logits_BNL, all_BN4 = propose.classes(seen_BNF), moved(boxes_N4, propose.boxes(seen_BNF))
    best_BQ = logits_BNL.amax(-1).topk(3).indices[..., None]
    whole = gradients(logits_BNL.gather(1, best_BQ.expand(-1, -1, 4)), all_BN4.gather(1, best_BQ.expand(-1, -1, 4)))
    for ours, theirs in zip(gradients(*propose(cells_BNF, boxes_N4, inside_N)[:2]), whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_at_first_cells_stay_and_name_any_class_with_one_percent():
    propose, (boxes_N4, inside_N) = Proposer(8, 4, 12), squares(3, 4)
    logits_BQL, said_BQ4, _ = propose(torch.randn(1, 12, 8) * 1e-3, boxes_N4, inside_N)
    torch.testing.assert_close(said_BQ4[0].sort(0).values, boxes_N4.sort(0).values)
    torch.nn.init.zeros_(propose.classes.weight)
    torch.testing.assert_close(propose.classes(torch.randn(1, 8)).sigmoid(), torch.full((1, 4), 0.01))
    assert logits_BQL.shape == (1, 12, 4)
