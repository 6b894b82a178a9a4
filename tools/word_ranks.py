"""Where each caption finds its picture, and each picture its first caption, among all of a collection.

Letters: B pictures, G pictures of the collection, C captions of a picture at most, E numbers of an embedding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae_vlm.cli.training import Training
from mae_vlm.learners.pretrain import Pretrainer


@torch.inference_mode()
def ranks_of(run: Path, data: Path, shift: int = 0) -> dict[str, NDArray[Any]]:
    """Ranks from 0 by way, rows are pictures: ``text_to_image`` of each caption ``[G, C]`` (NaN for none), ``image_to_text`` of the best
    caption ``[G, 1]``. With ``shift`` captions count for the picture so many places further on: what chance gives.
    """
    words = ["--ckpt_path", str(run), "--data.path", str(data), "--data.val_path", str(data), "--trainer.accelerator", "cpu"]
    training = Training("validate", [*words, "--trainer.precision", "32-true", "--data.num_workers", "0"])
    model = training.model
    assert isinstance(model, Pretrainer)
    model.eval()
    images: list[Tensor] = []
    texts: list[Tensor] = []
    owners: list[Tensor] = []
    for batch in training.datamodule.val_dataloader():
        features = model.features(batch)
        rows = features.rows([told if real else () for told, real in zip(batch.captions, batch.real_B.tolist(), strict=True)])
        first = sum(len(some) for some in images)
        images.append(features.placed_images[batch.real_B])
        texts.append(features.placed(features.read(rows.words)))
        owners.append(rows.picture_R + first)
    image_GE, text_RE, owner_R = torch.cat(images), torch.cat(texts), torch.cat(owners)
    return ranked(text_RE @ image_GE.T, (owner_R + shift) % len(image_GE))


def ranked(near_RG: Tensor, owner_R: Tensor) -> dict[str, NDArray[Any]]:
    """From similarities of R captions to G pictures, and whose each caption is; ties count against."""
    count = near_RG.shape[1]
    own_R1 = near_RG.gather(1, owner_R[:, None])
    rank_R = ((near_RG >= own_R1).sum(1) - 1).double()
    by_text = np.full((count, int(owner_R.bincount().max())), np.nan)
    seen = [0] * count
    for owner, rank in zip(owner_R.tolist(), rank_R.tolist(), strict=True):
        by_text[owner, seen[owner]] = rank
        seen[owner] += 1
    right_RG = owner_R[:, None] == torch.arange(count, device=owner_R.device)
    best_G = near_RG.masked_fill(~right_RG, -torch.inf).amax(0)
    by_image = ((near_RG >= best_G) & ~right_RG).sum(0).double()
    return {"text_to_image": by_text, "image_to_text": by_image.numpy()[:, None]}
