"""The linear probe gives the answer of the problem it names, and looks at the scored pictures once."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mae_vlm.heads.parts.linear_probe import Regression, linear_probe, standardised


def a_set(count: int, features: int, classes: int, seed: int = 0, noise: float = 1.0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    centres = torch.randn(classes, features, generator=torch.Generator().manual_seed(99))
    return centres[labels] + noise * torch.randn(count, features, generator=generator), labels


def newton(features: np.ndarray, labels: np.ndarray, decay: float, classes: int) -> np.ndarray:
    """The same minimum by Newton's method in float64, with the whole Hessian: ``[F + 1, L]``."""
    inputs = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    count, size = inputs.shape
    weight, wanted = np.zeros((size, classes)), np.eye(classes)[labels]
    penalty = np.repeat(np.array([decay] * (size - 1) + [0.0]), classes)
    for _ in range(50):
        logits = inputs @ weight
        share = np.exp(logits - logits.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        gradient = (inputs.T @ (share - wanted) / count).ravel() + penalty * weight.ravel()
        inner = np.einsum("bk,kl->bkl", share, np.eye(classes)) - np.einsum("bk,bl->bkl", share, share)
        hessian = np.einsum("bi,bj,bkl->ikjl", inputs, inputs, inner).reshape(size * classes, -1) / count + np.diag(penalty)
        weight -= np.linalg.lstsq(hessian, gradient, rcond=1e-12)[0].reshape(weight.shape)
    return weight


@pytest.mark.parametrize("decay", [1e-3, 1e-1, 1.0])
def test_the_answer_is_that_of_newtons_method(decay):
    features, labels = a_set(120, 5, 3)
    skewed = features @ torch.randn(5, 5, generator=torch.Generator().manual_seed(1)) + 2
    expected = newton(skewed.double().numpy(), labels.numpy(), decay, 3)
    found = Regression(skewed.double(), labels).solve(decay, 1e-9).weight_FL.numpy()
    assert found[:-1] == pytest.approx(expected[:-1], abs=1e-5)
    biases = found[-1] - found[-1].mean(), expected[-1] - expected[-1].mean()  # only their differences are told by the problem
    assert biases[0] == pytest.approx(biases[1], rel=1e-4)


def test_in_float32_the_gradient_of_the_original_problem_is_nothing_there():
    features, labels = a_set(500, 6, 10)
    features = features @ torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
    weight = Regression(features, labels).solve(1e-2).weight_FL.requires_grad_()
    loss = F.cross_entropy(torch.cat([features, torch.ones(500, 1)], 1) @ weight, labels) + 0.005 * weight[:-1].square().sum()
    loss.backward()
    assert weight.grad.abs().max() < 1e-4 and loss < 0.9 * math.log(10)


def test_starting_from_another_answer_leads_to_the_same():
    features, labels = a_set(200, 4, 3)
    problem = Regression(features.double(), labels)
    first = problem.solve(1e-2, 1e-9)
    again = problem.solve(1e-2, 1e-9, problem.solve(1.0, 1e-9))
    torch.testing.assert_close(again.weight_FL[:-1], first.weight_FL[:-1], atol=1e-6, rtol=0)


def test_what_is_linearly_separable_is_separated():
    features, labels = a_set(600, 20, 10, noise=0.05)
    found = linear_probe(*standardised_pairs(features, labels, 400))
    assert found.top1 == found.train == found.held == 1.0


def standardised_pairs(features, labels, cut):
    train, other = standardised(features[:cut], features[cut:])
    return train, labels[:cut], other, labels[cut:]


def test_labels_of_chance_give_the_score_of_chance():
    features = torch.randn(1200, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 4, (1200,), generator=torch.Generator().manual_seed(1))
    assert linear_probe(*standardised_pairs(features, labels, 600)).top1 == pytest.approx(0.25, abs=0.06)


def test_the_decay_is_chosen_without_the_scored_pictures():
    features, labels = a_set(300, 12, 4, noise=3.0)
    train, known, other, _ = standardised_pairs(features, labels, 200)
    chosen = [linear_probe(train, known, other, answers)[1:] for answers in (labels[200:], labels[200:].flip(0))]
    assert chosen[0] == chosen[1]


def test_the_chosen_decay_answers_most_of_every_tenth_picture():
    features, labels = a_set(200, 30, 4, noise=4.0)
    held = torch.arange(200) % 10 == 0
    decays = (1e-4, 1e-2, 1.0)
    scores = {decay: Regression(features[~held], labels[~held]).solve(decay).top1(features[held], labels[held]) for decay in decays}
    found = linear_probe(features, labels, features, labels, decays)
    assert found.held == max(scores.values()) and scores[found.decay] == found.held


def test_a_class_that_was_never_seen_is_wrong_and_does_no_harm():
    features, labels = a_set(200, 6, 3, noise=0.1)
    train, other = standardised(features[:150], features[150:])
    strange = labels[150:].clone()
    strange[:10] = 77
    found = linear_probe(train, labels[:150] * 10, other, torch.where(strange == 77, strange, strange * 10))
    assert found.top1 == pytest.approx(40 / 50)


def test_a_class_that_is_only_in_the_held_tenth_is_learned_in_the_end():
    features, labels = a_set(100, 6, 2, noise=0.1)
    labels[0], features[0] = 5, 9.0  # every tenth begins with the first
    found = linear_probe(features, labels, features, labels)
    assert found.held == pytest.approx(0.9) and found.train == 1.0


def test_one_class_alone_is_always_right():
    features = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    assert linear_probe(features, torch.full((30,), 3), features, torch.full((30,), 3)).top1 == 1.0


def test_more_classes_than_pictures_of_each_and_fewer_pictures_than_features():
    features = torch.randn(60, 100, generator=torch.Generator().manual_seed(0))
    found = linear_probe(features, torch.arange(60) % 50, features, torch.arange(60) % 50, decays=(1e-2,))
    assert found.train > 0.95


def test_features_in_bfloat16_are_fitted_in_float32():
    features, labels = a_set(300, 8, 3, noise=0.3)
    halved = features.bfloat16()
    train, _ = standardised(halved[:200], halved[200:])
    assert train.dtype == torch.float32
    assert linear_probe(halved[:200], labels[:200], halved[200:], labels[200:]).top1 > 0.95


def test_standardising_goes_by_the_first_set():
    generator = torch.Generator().manual_seed(0)
    train, other = 3 + 2 * torch.randn(500, 4, generator=generator), torch.randn(10, 4, generator=generator)
    first, second = standardised(train, other)
    torch.testing.assert_close(first.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(first.std(0), torch.ones(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(second, (other - train.mean(0)) / train.std(0), atol=1e-4, rtol=0)


def test_it_works_where_gradients_are_off():
    features, labels = a_set(40, 4, 2)
    with torch.no_grad():
        assert linear_probe(features, labels, features, labels).train > 0.5


def test_too_few_pictures_are_refused():
    with pytest.raises(ValueError, match="1 pictures to fit to"):
        linear_probe(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))
