"""Masked-patch reconstruction: the MAE objective.

Letters: B pictures, C channels, H, W pixels, N patches, M hidden patches, P numbers in a patch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mae_vlm.encoders.arithmetic import blocks, linear
from mae_vlm.encoders.contact_sheet import contact_sheet
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.objectives.base import Objective
from mae_vlm.objectives.parts.adversarial import Adversarial
from mae_vlm.objectives.parts.perceptual import Perceptual
from mae_vlm.objectives.parts.pixel_decoder import PixelDecoder
from mae_vlm.tokens.patchify import take, unpatchify
from mae_vlm.types import Batch, Loss


class Pixels(Objective):
    """Mean squared error of the hidden patches' pixels, in float32 (He et al. 2021, section 3).

    In validation two controls stand beside it in the logs: ``predict_zero``, the loss of predicting 0 everywhere (the mean, when
    targets are normalised), and ``other_picture``, the loss of what was predicted from the visible patches of
    another picture at the same places; a model that uses what it sees is clearly below both.

    Two options look at the decoded picture as a whole, its hidden patches in their places among the visible ones (with normalised targets
    each with its own mean and deviation put back). They log ``perceptual``, and ``adversarial``, the discriminator's loss, with ``fooled``,
    the share of windows that it takes for real. ``val/loss`` counts the squared error alone: it stays what it is without them, where a
    teacher and a discriminator that learn would measure by another rule at every validation.

    Args:
        towers, weight: see :class:`Objective`.
        width, depth, heads: sizes of the decoder, see :class:`PixelDecoder`; the CLI chooses width and depth where they are None.
        normalise: targets are each patch's pixels less their mean, over their deviation (the paper's recommendation).
        perceptual: a distance of features added to the loss, :class:`mae_vlm.objectives.parts.perceptual.Perceptual`; None is off.
        adversarial: a discriminator to be mistaken, :class:`mae_vlm.objectives.parts.adversarial.Adversarial`; likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        towers: Towers,
        weight: float = 1.0,
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        normalise: bool = True,
        perceptual: Callable[[Towers], Perceptual] | None = None,
        adversarial: Callable[[Towers], Adversarial] | None = None,
    ) -> None:
        super().__init__(towers, weight)
        self.decoder = PixelDecoder(towers, 512 if width is None else width, 8 if depth is None else depth, heads)
        self.space = towers.image.space
        self.normalise = normalise
        self.perceptual = None if perceptual is None else perceptual(towers)
        self.adversarial = None if adversarial is None else adversarial(towers)
        self.views = ("masked", *(() if self.perceptual is None else self.perceptual.views))
        self.register_buffer("mean", towers.image.mean.clone(), persistent=False)
        self.register_buffer("std", towers.image.std.clone(), persistent=False)

    def forward(self, features: Features, batch: Batch) -> Loss:
        masking = features.masking
        predicted_BMP = self.decoder.hidden(features.masked, masking)
        target_BMP = self._targets(take(features.patches_BNP, masking.hide_BM))
        error_B = squared_error(predicted_BMP, target_BMP)
        added, judged = self._judged(features, predicted_BMP)
        if self.training:
            logs = {name: value_B.mean().detach() for name, value_B in ({"masked_mse": error_B} | judged).items()}
            return Loss(sum((value_B.mean() for value_B in added), error_B.mean()), logs)
        return self._validated(features, batch, predicted_BMP, error_B, judged)

    def _judged(self, features: Features, predicted_BMP: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
        """What the options add to each picture's loss, and what they tell of it, ``[B]`` each."""
        added: list[Tensor] = []
        told: dict[str, Tensor] = {}
        if self.perceptual is None and self.adversarial is None:
            return added, told
        decoded_BCHW = self._decoded(features, predicted_BMP)
        if self.perceptual is not None:
            told["perceptual"] = self.perceptual(features, decoded_BCHW)
            added.append(self.perceptual.weight * told["perceptual"])
        if self.adversarial is not None:
            opposed = self.adversarial(features.images_BCHW, decoded_BCHW)
            told |= {"adversarial": opposed.discriminator, "fooled": opposed.fooled}
            added.append(opposed.loss)
        return added, told

    def _decoded(self, features: Features, predicted_BMP: Tensor) -> Tensor:
        """Normalised pictures ``[B, C, H, W]`` whose hidden patches are the predicted ones."""
        patches_BNP, hide_BM = features.patches_BNP, features.masking.hide_BM
        predicted_BMP = predicted_BMP.to(patches_BNP.dtype)
        if self.normalise:
            mean, deviation = patch_statistics(take(patches_BNP, hide_BM))
            predicted_BMP = predicted_BMP * deviation + mean
        return unpatchify(patches_BNP.scatter(1, hide_BM[..., None].expand_as(predicted_BMP), predicted_BMP), self.space)

    def after_step(self) -> None:
        if self.adversarial is not None:
            self.adversarial.after_step()

    def _validated(self, features: Features, batch: Batch, predicted_BMP: Tensor, error_B: Tensor, judged: dict[str, Tensor]) -> Loss:
        """The loss beside its two controls and what the options tell, each a mean over the real pictures."""
        weight_B = batch.real_B.to(error_B.dtype)
        weight_B = weight_B / weight_B.sum().clamp(min=1)
        masking = features.masking
        # prediction i was made from picture i at the places hide_i: hold it against its neighbour's pixels there; pairs of
        # neighbours (0 1)(2 3), unlike a roll, stay together when the batch is dealt to more processes
        count = len(error_B)
        partner_B = torch.arange(count, device=error_B.device) ^ 1
        partner_B = torch.where(partner_B < count, partner_B, count - 2)  # the odd one out takes the picture before it
        other_BMP = self._targets(take(features.patches_BNP[partner_B], masking.hide_BM))
        zero_B = squared_error(torch.zeros_like(predicted_BMP), self._targets(take(features.patches_BNP, masking.hide_BM)))
        logs = {
            "masked_mse": (error_B * weight_B).sum(),
            "predict_zero": (zero_B * weight_B).sum(),
            "other_picture": (squared_error(predicted_BMP, other_BMP) * weight_B).sum(),
        }
        return Loss(logs["masked_mse"], logs | {name: (value_B * weight_B).sum() for name, value_B in judged.items()})

    def _targets(self, patches_BMP: Tensor) -> Tensor:
        if not self.normalise:
            return patches_BMP
        mean, deviation = patch_statistics(patches_BMP)
        return (patches_BMP - mean) / deviation

    def flops_per_image(self, visible: int) -> int:
        decoder, patches = self.decoder, self.space.patches
        embed = linear(decoder.decoder_embed, visible + decoder.prefix)
        predict = linear(decoder.decoder_pred, patches - visible)
        options = sum(part.flops for part in (self.perceptual, self.adversarial) if part is not None)
        return 3 * (embed + blocks(decoder.decoder_blocks, patches + decoder.prefix) + predict) + options

    @torch.no_grad()
    def pictures(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """``reconstruction``: a row per picture of original, masked, reconstruction, and that pasted into the visible patches.

        With normalised targets each patch's own mean and deviation are put back, or the picture would look like noise.
        """
        patches_BNP = features.patches_BNP
        hidden_BN1 = features.masking.hidden_BN()[..., None].to(patches_BNP.dtype)
        predicted_BNP = self.decoder(features.masked, features.masking).to(patches_BNP.dtype)
        if self.normalise:
            mean, deviation = patch_statistics(patches_BNP)
            predicted_BNP = predicted_BNP * deviation + mean
        grey = torch.zeros_like(patches_BNP)  # 0 is the mean colour after normalisation
        columns = [
            patches_BNP,
            torch.where(hidden_BN1 > 0, grey, patches_BNP),
            predicted_BNP,
            torch.where(hidden_BN1 > 0, predicted_BNP, patches_BNP),
        ]
        shown = [(unpatchify(patches, self.space) * self.std + self.mean).clamp(0, 1) for patches in columns]
        return {"reconstruction": contact_sheet(shown)}


def squared_error(predicted_BMP: Tensor, target_BMP: Tensor) -> Tensor:
    """Mean squared error of each picture ``[B]``, in float32 or better whatever autocast says."""
    with torch.autocast(predicted_BMP.device.type, enabled=False):
        dtype = torch.promote_types(predicted_BMP.dtype, torch.float32)  # bf16 sums drift after some thousand patches
        return (predicted_BMP.to(dtype) - target_BMP.to(dtype)).square().mean(dim=(1, 2))


def patch_statistics(patches_BMP: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each patch's numbers, ``[B, M, 1]`` each: unbiased variance, 1e-6 added before the root."""
    variance, mean = torch.var_mean(patches_BMP, dim=-1, keepdim=True)
    return mean, (variance + 1e-6).sqrt()
