"""A linear probe: what frozen features tell a linear classifier, by multinomial logistic regression solved to convergence.

Letters: B pictures, F features, L classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

DECAYS = (1e-5, 1e-4, 1e-3, 1e-2, 3e-2)


class Probed(NamedTuple):
    """Shares of right answers, 0 to 1: of the scored pictures, of the tenth that chose the decay, of the pictures fitted to."""

    top1: float
    held: float
    train: float
    decay: float


def standardised(train_BF: Tensor, other_BF: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets centred and divided by the deviation, by the statistics of the first; in float32 or better."""
    train_BF, other_BF = _floats(train_BF), _floats(other_BF)
    deviation, mean = torch.std_mean(train_BF, dim=0)
    return (train_BF - mean) / (deviation + 1e-6), (other_BF - mean) / (deviation + 1e-6)


def linear_probe(
    train_BF: Tensor,
    labels_B: Tensor,
    scored_BF: Tensor,
    scored_labels_B: Tensor,
    decays: tuple[float, ...] = DECAYS,
    tolerance: float = 1e-5,
) -> Probed:
    """Fit to ``train_BF``, its decay chosen on every tenth of these pictures; the scored pictures are read once.

    Labels are any numbers; a class that is not among the pictures fitted to is never answered, and its pictures count as wrong.
    ``tolerance`` is the largest entry of the gradient at which the solver stops.

    Raises:
        ValueError: fewer than two pictures to fit to, none to score, or no decay.
    """
    if len(labels_B) < 2 or not len(scored_labels_B) or not decays:
        given = f"{len(labels_B)} pictures to fit to, {len(scored_labels_B)} to score, {len(decays)} decays"
        raise ValueError(f"{given} given; 2, 1 and 1 are needed")
    train_BF, scored_BF = _floats(train_BF), _floats(scored_BF)
    held_B = torch.arange(len(labels_B), device=labels_B.device) % 10 == 0
    decay, held = _chosen(train_BF[~held_B], labels_B[~held_B], train_BF[held_B], labels_B[held_B], decays, tolerance)
    model = Regression(train_BF, labels_B).solve(decay, tolerance)
    return Probed(model.top1(scored_BF, scored_labels_B), held, model.top1(train_BF, labels_B), decay)


class Linear(NamedTuple):
    """Weights ``[F + 1, L]``, the bias last, and the label ``[L]`` that each column stands for."""

    weight_FL: Tensor
    labels_L: Tensor

    def top1(self, features_BF: Tensor, labels_B: Tensor) -> float:
        """Share of right answers."""
        return (self.labels_L[(_with_one(features_BF) @ self.weight_FL).argmax(1)] == labels_B).float().mean().item()


class Regression:
    """Mean cross-entropy of a linear classifier + decay / 2 * |weights without bias|^2, among the classes that ``labels_B`` holds.

    Solved by L-BFGS in the basis in which the features are white: the same problem and answer, in a tenth of the iterations.
    """

    def __init__(self, features_BF: Tensor, labels_B: Tensor) -> None:
        self.known_L, self.target_B = torch.unique(labels_B, return_inverse=True)
        self.inputs = _with_one(features_BF)
        self.values, self.vectors = torch.linalg.eigh(self.inputs.double().T @ self.inputs.double() / len(self.inputs))

    def solve(self, decay: float, tolerance: float = 1e-5, start: Linear | None = None) -> Linear:
        """The minimum, from the answer ``start`` to a like problem; ``tolerance`` is the largest entry of the gradient there."""
        white, back = self._whitening(decay)
        inputs = self.inputs @ white
        point = inputs.new_zeros(inputs.shape[1], len(self.known_L)) if start is None else back @ start.weight_FL
        point.requires_grad_()
        solver = torch.optim.LBFGS(
            [point],
            max_iter=200,
            tolerance_grad=tolerance,
            tolerance_change=1e-4 * tolerance,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            solver.zero_grad()
            loss = functional.cross_entropy(inputs @ point, self.target_B) + 0.5 * decay * (white @ point)[:-1].square().sum()
            torch.autograd.backward(loss)
            return loss

        with torch.enable_grad():
            solver.step(closure)  # type: ignore[no-untyped-call]
        return Linear(white @ point.detach(), self.known_L)

    def _whitening(self, decay: float) -> tuple[Tensor, Tensor]:
        """``[F + 1, F + 1]``: the inverse root of the second moments plus 10 * decay (about the loss's curvature), and its inverse."""
        root = (self.values.clamp(min=0) + 10 * decay).sqrt()
        dtype, vectors = self.inputs.dtype, self.vectors
        return (vectors / root @ vectors.T).to(dtype), (vectors * root @ vectors.T).to(dtype)


def _chosen(
    train_BF: Tensor, labels_B: Tensor, held_BF: Tensor, held_labels_B: Tensor, decays: tuple[float, ...], tolerance: float
) -> tuple[float, float]:
    """The decay that answers most of the held-out pictures, and the share that it answers; of equals the largest."""
    problem, model = Regression(train_BF, labels_B), None
    chosen, best = max(decays), -1.0
    for decay in sorted(decays, reverse=True):  # from the smoothest problem, each start from the last answer
        model = problem.solve(decay, tolerance, model)
        score = model.top1(held_BF, held_labels_B)
        if score > best:
            best, chosen = score, decay
    return chosen, best


def _with_one(features_BF: Tensor) -> Tensor:
    return torch.cat([features_BF, features_BF.new_ones(len(features_BF), 1)], dim=1)


def _floats(features: Tensor) -> Tensor:
    """In float32 or better: half precision cannot hold a sum over thousands of pictures."""
    return features.to(torch.promote_types(features.dtype, torch.float32))
