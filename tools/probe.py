"""What frozen features are worth: a linear probe by L-BFGS and nearest neighbours.

Letters: B pictures, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mae_vlm.encoders.intermediate import block_means
from mae_vlm.encoders.vit import Vit
from mae_vlm.heads.parts import linear_probe as linear
from mae_vlm.heads.parts.nearest import nearest_neighbours
from tools.cifar_pictures import Pictures


@torch.inference_mode()
def block_features(encoder: Vit, pictures: Pictures, batch: int = 500) -> list[Tensor]:
    """Mean of the patch tokens after every block ``[B, D]``, the last one after the final norm."""
    encoder.eval()
    starts = range(0, len(pictures), batch)
    rows = [block_means(encoder, encoder.normalise(pictures.images_BCHW[start : start + batch])) for start in starts]
    return list(torch.cat(rows, dim=1))


def linear_probe(train_BF: Tensor, labels_B: Tensor, val_BF: Tensor, val_labels_B: Tensor) -> dict[str, float]:
    """Top-1 % of multinomial logistic regression; its decay chosen on every tenth training picture, the validation pictures read once."""
    found = linear.linear_probe(train_BF, labels_B, val_BF, val_labels_B)
    return {"probe": 100 * found.top1, "probe_held": 100 * found.held, "probe_train": 100 * found.train, "decay": found.decay}


def evaluate(encoder: Vit, train: Pictures, val: Pictures) -> dict[str, object]:
    """Probe and kNN of the last block, and of every block; the best block is named by its held-out tenth, not by ``val``."""
    rows = []
    for train_BF, val_BF in zip(block_features(encoder, train), block_features(encoder, val), strict=True):
        train_BF, val_BF = linear.standardised(train_BF, val_BF)
        neighbours = 100 * nearest_neighbours(train_BF, train.labels_B, val_BF, val.labels_B)
        rows.append(linear_probe(train_BF, train.labels_B, val_BF, val.labels_B) | {"knn": neighbours})
    best = max(range(len(rows)), key=lambda block: rows[block]["probe_held"])
    named = {"solver": "whitened L-BFGS", "best_block": best, "best_probe": rows[best]["probe"], "best_knn": rows[best]["knn"]}
    return {**rows[-1], **named, "blocks": rows}
