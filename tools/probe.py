"""What frozen features are worth: a linear probe by L-BFGS and nearest neighbours.

Letters: B pictures, F features, D width, L classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mae_vlm.encoders.vit import Vit
from tools.cifar_pictures import CLASSES, Pictures

DECAYS = (1e-5, 1e-4, 1e-3, 1e-2, 3e-2)


@torch.inference_mode()
def block_features(encoder: Vit, pictures: Pictures, batch: int = 500) -> list[Tensor]:
    """Mean of the patch tokens after every block ``[B, D]``, the last one after the final norm."""
    encoder.eval()
    rows: list[list[Tensor]] = []
    for start in range(0, len(pictures), batch):
        images_BCHW = encoder.normalise(pictures.images_BCHW[start : start + batch])
        final, blocks = encoder.vit.forward_intermediates(images_BCHW, norm=False, output_fmt="NLC")
        rows.append([tokens_BND.mean(dim=1) for tokens_BND in blocks[:-1]] + [final[:, encoder.prefix :].mean(dim=1)])
    return [torch.cat(parts) for parts in zip(*rows, strict=True)]


def standardised(train_BF: Tensor, other_BF: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets centred and divided by the deviation, by the statistics of the first."""
    deviation, mean = torch.std_mean(train_BF, dim=0)
    return (train_BF - mean) / (deviation + 1e-6), (other_BF - mean) / (deviation + 1e-6)


def linear_probe(train_BF: Tensor, labels_B: Tensor, val_BF: Tensor, val_labels_B: Tensor) -> dict[str, float]:
    """Top-1 % of multinomial logistic regression; its decay chosen on every tenth training picture, then fitted to all.

    The validation pictures are read once.
    """
    held_B = torch.arange(len(labels_B)) % 10 == 0
    chosen, weight = DECAYS[0], None
    best = -1.0
    for decay in sorted(DECAYS, reverse=True):  # from the smoothest problem, each start from the last answer
        weight = _fit(train_BF[~held_B], labels_B[~held_B], decay, weight)
        score = _top1(train_BF[held_B], labels_B[held_B], weight)
        if score > best:
            best, chosen = score, decay
    weight = _fit(train_BF, labels_B, chosen, None)
    return {
        "probe": _top1(val_BF, val_labels_B, weight),
        "probe_held": best,
        "probe_train": _top1(train_BF, labels_B, weight),
        "decay": chosen,
    }


def _fit(features_BF: Tensor, labels_B: Tensor, decay: float, start: Tensor | None) -> Tensor:
    """Weights ``[F + 1, L]``, the bias last and not decayed.

    Solved in the basis in which the features are white: the same problem and answer, in a tenth of the iterations.
    """
    inputs = _with_one(features_BF)
    white, back = _whitening(inputs, decay)
    inputs = inputs @ white
    point = torch.zeros(inputs.shape[1], CLASSES) if start is None else back @ start
    point.requires_grad_()
    solver = torch.optim.LBFGS([point], max_iter=200, history_size=20, tolerance_grad=1e-5, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = functional.cross_entropy(inputs @ point, labels_B) + 0.5 * decay * (white @ point)[:-1].square().sum()
        torch.autograd.backward(loss)
        return loss

    solver.step(closure)  # type: ignore[no-untyped-call]
    return white @ point.detach()


def _whitening(inputs: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """``[F + 1, F + 1]``: the inverse root of the second moments plus 10 * decay (about the loss's curvature), and its inverse."""
    values, vectors = torch.linalg.eigh(inputs.double().T @ inputs.double() / len(inputs))
    root = (values.clamp(min=0) + 10 * decay).sqrt()
    return (vectors / root @ vectors.T).float(), (vectors * root @ vectors.T).float()


def _with_one(features_BF: Tensor) -> Tensor:
    return torch.cat([features_BF, torch.ones(len(features_BF), 1)], dim=1)


def _top1(features_BF: Tensor, labels_B: Tensor, weight: Tensor) -> float:
    return 100 * ((_with_one(features_BF) @ weight).argmax(1) == labels_B).float().mean().item()


def nearest_neighbours(
    train_BF: Tensor, labels_B: Tensor, val_BF: Tensor, val_labels_B: Tensor, neighbours: int = 20, temperature: float = 0.07
) -> float:
    """Top-1 % of the vote of the nearest training pictures by cosine, weighted by exp(cosine / temperature)."""
    train_BF, val_BF = functional.normalize(train_BF), functional.normalize(val_BF)
    cosine, index = (val_BF @ train_BF.T).topk(neighbours, dim=1)
    votes_BL = torch.zeros(len(val_BF), CLASSES).scatter_add_(1, labels_B[index], (cosine / temperature).exp())
    return 100 * (votes_BL.argmax(1) == val_labels_B).float().mean().item()


def evaluate(encoder: Vit, train: Pictures, val: Pictures) -> dict[str, object]:
    """Probe and kNN of the last block, and of every block; the best block is named by its held-out tenth, not by ``val``."""
    rows = []
    for train_BF, val_BF in zip(block_features(encoder, train), block_features(encoder, val), strict=True):
        train_BF, val_BF = standardised(train_BF, val_BF)
        neighbours = nearest_neighbours(train_BF, train.labels_B, val_BF, val.labels_B)
        rows.append(linear_probe(train_BF, train.labels_B, val_BF, val.labels_B) | {"knn": neighbours})
    best = max(range(len(rows)), key=lambda block: rows[block]["probe_held"])
    named = {"solver": "whitened L-BFGS", "best_block": best, "best_probe": rows[best]["probe"], "best_knn": rows[best]["knn"]}
    return {**rows[-1], **named, "blocks": rows}
