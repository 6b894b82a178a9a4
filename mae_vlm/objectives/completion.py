"""Completion: the hidden part of a picture, or all of it, from the rest and from words.

Letters: B pictures, N patches, P numbers in a patch, K codes, C channels, H, W pixels.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.text.base import EncodedText
from mae_vlm.encoders.towers import Towers
from mae_vlm.objectives.base import Objective
from mae_vlm.objectives.parts.code_decoder import CodeDecoder
from mae_vlm.objectives.parts.completed_drawing import completed_sheet
from mae_vlm.objectives.parts.confident_first import confident_first
from mae_vlm.objectives.parts.patch_codes import PatchCodes
from mae_vlm.tokens.chance import uniform
from mae_vlm.tokens.patchify import unpatchify
from mae_vlm.types import Batch, Loss, Term

_SHARE, _WHICH, _MOSAIC, _SILENT = 82, 83, 84, 85  # streams of chance


class Completion(Objective):
    """Cross-entropy of the codes of hidden patches, told from the visible patches and the caption (MaskGIT, arXiv 2202.04200; MAGE,
    arXiv 2211.09117), whose sampler then paints from words.

    A code is the number of the nearest patch in a codebook that is learned from the pictures themselves, without a network
    (:class:`PatchCodes`): a painted picture is a mosaic of such patches. Of each picture the share cos(u pi / 2) of the patches is hidden,
    u even in 0 to 1, up to all of them. The encoder sees hidden patches in the mean colour, in a full pass of its own; every other
    picture's visible patches are shown as the mosaic that a sampler will have in their place. Logs ``cross_entropy`` and ``accuracy`` over
    hidden patches; validation also ``other_words``, the cross-entropy with another picture's caption: a model that reads is clearly
    above its own with it. Pictures without a caption count, too. While the codebook learns, it begins anew what the loss is measured by.

    Args:
        towers, weight: see :class:`Objective`.
        width, depth, heads: of the decoder, see :class:`CodeDecoder`.
        codes, settle: of the codebook, and the optimizer steps in which it learns, see :class:`PatchCodes`.
        silent: share of the pictures whose caption is kept back in training, so that a sampler can tell what the words add.
        guidance, steps: of the pictures that are drawn, see :meth:`complete`.

    Raises:
        ValueError: no text tower, or an option out of its range.
    """

    views = ("full", "text")  # its pass of half-hidden pictures costs what a full one does
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        towers: Towers,
        weight: float = 1.0,
        width: int = 256,
        depth: int = 4,
        heads: int | None = None,
        codes: int = 512,
        settle: int = 500,
        silent: float = 0.1,
        guidance: float = 2.0,
        steps: int = 12,
    ) -> None:
        super().__init__(towers, weight)
        if not 0 <= silent < 1:
            raise ValueError(f"silent {silent} given, allowed is a share from 0 to below 1, as 0.1")
        if guidance < 0 or not 1 <= steps <= 100:
            raise ValueError(f"guidance {guidance}, steps {steps} given, allowed are 0 or more, and 1 to 100")
        self.decoder = CodeDecoder(towers, codes, width, depth, heads)
        self.space, self.length = towers.image.space, towers.told_text().length
        self.codebook = PatchCodes(codes, self.space.patch_pixels, settle)
        self.silent, self.guidance, self.steps = silent, guidance, steps
        self.register_buffer("mean", towers.image.mean.clone(), persistent=False)
        self.register_buffer("std", towers.image.std.clone(), persistent=False)

    def forward(self, features: Features, batch: Batch) -> Loss:
        patches_BNP, hidden_BN = features.patches_BNP, self._hidden(features)
        ids_BN = self.codebook.nearest(patches_BNP)
        mosaic_B = uniform(batch.keys_B, 1, _MOSAIC)[:, 0] < 0.5
        shown_BNP = torch.where(mosaic_B[:, None, None], self.codebook.codes_KP[ids_BN].to(patches_BNP.dtype), patches_BNP)
        told_B = features.words.has_B
        if self.training:
            self.codebook.note(patches_BNP, ids_BN, batch.keys_B)
            told_B = told_B & (uniform(batch.keys_B, 1, _SILENT)[:, 0] >= self.silent)
        logits_BNK = self._logits(features, shown_BNP, hidden_BN, features.text, told_B)
        counts_BN = hidden_BN & batch.real_B[:, None]
        terms = {"cross_entropy": _loss(logits_BNK, ids_BN, counts_BN), "accuracy": _accuracy(logits_BNK, ids_BN, counts_BN)}
        if not self.training:
            partner_B = torch.arange(len(batch), device=ids_BN.device) ^ 1
            partner_B = torch.where(partner_B < len(batch), partner_B, max(0, len(batch) - 2))
            logits_BNK = self._logits(features, shown_BNP, hidden_BN, features.text.rows(partner_B), told_B[partner_B])
            terms["other_words"] = replace(_loss(logits_BNK, ids_BN, counts_BN), weight=0.0)
        return Loss.of(terms)

    def counts(self, features: Features) -> dict[str, Tensor]:
        hidden_BN = self._hidden(features)
        count = (hidden_BN & features.batch.real_B.to(hidden_BN.device)[:, None]).sum()
        return {"cross_entropy": count, "accuracy": count}

    def after_step(self) -> None:
        self.codebook.learn()

    def flops_per_image(self, visible: int) -> int:
        return 3 * self.decoder.flops(self.length + 1)

    @torch.no_grad()
    def complete(
        self, features: Features, hidden_BN: Tensor, guidance: float | None = None, steps: int | None = None, temperature: float = 3.0
    ) -> Tensor:
        """The batch's pictures with their hidden patches painted as their captions say: float ``[B, C, H, W]`` in [0, 1].

        Where all of a picture is in ``hidden_BN`` (bool) it is painted from its words alone. ``guidance`` is how many times what the
        words add to the logits counts: 0 paints without words, 1 as it was trained, more is truer to the words and less varied
        (classifier-free guidance, Ho & Salimans 2022, arXiv 2207.12598, in logits). ``steps`` and ``temperature``: see
        :func:`confident_first`; chance comes from the batch's keys.
        """
        guidance, patches_BNP = self.guidance if guidance is None else guidance, features.patches_BNP
        text, told_B = features.text, features.words.has_B

        def predict(ids_BN: Tensor, still_BN: Tensor) -> Tensor:
            shown_BNP = torch.where(hidden_BN[..., None], self.codebook.codes_KP[ids_BN].to(patches_BNP.dtype), patches_BNP)
            without_BNK, with_BNK = (self._logits(features, shown_BNP, still_BN, text, told) for told in (told_B & False, told_B))
            return without_BNK + guidance * (with_BNK - without_BNK)

        nothing_BN = torch.zeros_like(hidden_BN, dtype=torch.int64)
        keys_B = features.batch.keys_B
        ids_BN = confident_first(predict, nothing_BN, hidden_BN, keys_B, self.steps if steps is None else steps, temperature)
        painted_BNP = torch.where(hidden_BN[..., None], self.codebook.codes_KP[ids_BN].to(patches_BNP.dtype), patches_BNP)
        return self._pictures(painted_BNP).clamp(0, 1)

    def pictures(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """``completion``: a row per picture of original, the same with its middle hidden, that completed from the caption, a picture
        painted from the caption alone, and the caption.
        """
        middle_BN = self.middle(batch)
        original_BCHW = self._pictures(features.patches_BNP)
        hidden_BCHW = self._pictures(features.patches_BNP.masked_fill(middle_BN[..., None], 0))
        painted = [self.complete(features, hidden_BN) for hidden_BN in (middle_BN, torch.ones_like(middle_BN))]
        columns = [one.clamp(0, 1).float().cpu() for one in (original_BCHW, hidden_BCHW, *painted)]
        return {"completion": completed_sheet(columns, features.texts)}

    def middle(self, batch: Batch) -> Tensor:
        """The middle of each picture, half as high and half as wide: bool ``[B, N]``."""
        rows, columns = self.space.rows, self.space.columns
        middle_hw = torch.zeros(rows, columns, dtype=torch.bool, device=batch.keys_B.device)
        middle_hw[rows // 4 : -(-3 * rows // 4), columns // 4 : -(-3 * columns // 4)] = True
        return middle_hw.flatten().expand(len(batch), -1)

    def _hidden(self, features: Features) -> Tensor:
        """Which patches are hidden: bool ``[B, N]``, at least one of each picture."""
        keys_B, patches = features.batch.keys_B, self.space.patches
        share_B1 = torch.cos(math.pi / 2 * uniform(keys_B, 1, _SHARE))
        rank_BN = uniform(keys_B, patches, _WHICH).argsort(dim=1, stable=True).argsort(dim=1, stable=True)
        hidden_BN: Tensor = rank_BN < (share_B1 * patches).ceil().clamp(min=1)
        return hidden_BN

    def _logits(self, features: Features, shown_BNP: Tensor, hidden_BN: Tensor, text: EncodedText, told_B: Tensor) -> Tensor:
        """Logits ``[B, N, K]`` in float32 or better, of pictures of which the encoder sees the patches that are not hidden."""
        seeing = features.apart()  # the same towers, before they have seen any picture
        pictures_BCHW = self._pictures(shown_BNP.masked_fill(hidden_BN[..., None], 0))  # 0 is the mean colour
        seeing.batch = replace(features.batch, images_BCHW=pictures_BCHW)
        logits_BNK: Tensor = self.decoder(seeing.full, hidden_BN, text, told_B)
        return logits_BNK.to(torch.promote_types(logits_BNK.dtype, torch.float32))

    def _pictures(self, patches_BNP: Tensor) -> Tensor:
        return unpatchify(patches_BNP, self.space) * self.std + self.mean


def _loss(logits_BNK: Tensor, ids_BN: Tensor, counts_BN: Tensor) -> Term:
    loss_BN = functional.cross_entropy(logits_BNK.flatten(0, 1), ids_BN.flatten(), reduction="none").view_as(ids_BN)
    return Term((loss_BN * counts_BN).sum(), counts_BN.sum().to(loss_BN.dtype))


def _accuracy(logits_BNK: Tensor, ids_BN: Tensor, counts_BN: Tensor) -> Term:
    """As a term that is only told: it weighs nothing."""
    right_BN = (logits_BNK.detach().argmax(-1) == ids_BN) & counts_BN
    return Term(right_BN.sum().to(logits_BNK.dtype), counts_BN.sum().to(logits_BNK.dtype), 0.0)
