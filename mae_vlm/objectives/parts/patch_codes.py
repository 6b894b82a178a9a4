"""A codebook of patches: small pieces of the user's own pictures, of which a picture can be laid like a mosaic.

Letters: B pictures, N patches, P numbers in a patch, K codes, C candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mae_vlm.pairing.gather import gather
from mae_vlm.tokens.chance import uniform

_CANDIDATES = 81  # the stream of chance that chooses patches to become codes
_RARE = 0.03  # of the mean use: a code that is used less begins anew


class PatchCodes(nn.Module):
    """K-means of patches as training goes by: each code is the moving mean of the patches nearest to it (van den Oord et al. 2017,
    arXiv 1711.00937, appendix A.1), a code that hardly any patch is nearest to begins anew as a patch of the step, drawn by keyed chance in
    proportion to its squared distance from the nearest code.

    It follows the first ``settle`` optimizer steps and then stays as it is, so that what is predicted stands still. The same on every
    process, whatever their number.

    Args:
        count: codes (K).
        pixels: numbers in a patch (P).
        settle: optimizer steps in which it learns.
        decay: of the moving means.

    Raises:
        ValueError: fewer than 2 codes or 1 step, or a decay that is no share.
    """

    codes_KP: Tensor
    sums_KP: Tensor
    uses_K: Tensor
    steps: Tensor

    def __init__(self, count: int, pixels: int, settle: int, decay: float = 0.98) -> None:
        super().__init__()
        if count < 2 or settle < 1 or not 0 <= decay < 1:
            raise ValueError(f"codes {count}, settle {settle}, decay {decay} given, allowed are 2 and more, 1 and more, and 0 to below 1")
        self.settle, self.decay = settle, decay
        self.register_buffer("codes_KP", torch.zeros(count, pixels))
        self.register_buffer("sums_KP", torch.zeros(count, pixels))
        self.register_buffer("uses_K", torch.zeros(count))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._noted: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []  # of the micro-batches of this step
        self._keys: Tensor | None = None  # of the newest of them

    @torch.no_grad()
    def nearest(self, patches_BNP: Tensor) -> Tensor:
        """The number of the code nearest to each patch: int64 ``[B, N]``."""
        return self._distances(patches_BNP)[1]

    @torch.no_grad()
    def note(self, patches_BNP: Tensor, ids_BN: Tensor, keys_B: Tensor) -> None:
        """Keep for :meth:`learn` what this batch's patches say of the codes; ``keys_B``, the batch's own, stands for chance.

        A batch that is looked at once more, as by who measures gradients, counts once.
        """
        if keys_B is self._keys:
            return
        self._keys = keys_B
        count, patches_XP = len(self.codes_KP), patches_BNP.flatten(0, 1).to(self.codes_KP.dtype)
        sums_KP = torch.zeros_like(self.sums_KP).index_add_(0, ids_BN.flatten(), patches_XP)
        uses_K = torch.bincount(ids_BN.flatten(), minlength=count).to(self.uses_K.dtype)
        gap_BN, _ = self._distances(patches_BNP)
        drawn_BN = uniform(keys_B, ids_BN.shape[1], _CANDIDATES).clamp(1e-7, 1 - 1e-7).to(gap_BN.dtype)
        # a race of exponentials: its first ones are a draw in proportion to the squared distance, however the pictures are dealt
        score_X = (gap_BN.clamp(min=0) + 1e-12).log().sub((-drawn_BN.log()).log()).flatten()
        best_C = score_X.topk(min(count, len(score_X))).indices
        self._noted.append((sums_KP, uses_K, patches_XP[best_C], score_X[best_C]))

    @torch.no_grad()
    def learn(self) -> None:
        """Take in what was noted since the last optimizer step, on all processes; every process must come here."""
        noted, self._noted, self._keys = self._noted, [], None
        step = int(self.steps)
        if step >= self.settle or not noted:
            return
        sums_KP, uses_K = (gather(torch.stack([one[place] for one in noted]).sum(0)[None]).sum(0) for place in (0, 1))
        candidates_CP, score_C = (gather(torch.cat([one[place] for one in noted])) for place in (2, 3))
        candidates_CP = candidates_CP[score_C.argsort(descending=True, stable=True)]
        decay = min(self.decay, step / (step + 1))  # a plain mean at first
        self.sums_KP.lerp_(sums_KP, 1 - decay)
        self.uses_K.lerp_(uses_K, 1 - decay)
        self._begin_anew(candidates_CP)
        self.codes_KP.copy_(self.sums_KP / self.uses_K[:, None].clamp(min=1e-12))
        self.steps += 1

    def _begin_anew(self, candidates_CP: Tensor) -> None:
        least = _RARE * self.uses_K.mean()
        turn_K = (self.uses_K < least).cumsum(0) - 1  # which candidate a rare code gets: the first one the first
        rare_K = (self.uses_K < least) & (turn_K < len(candidates_CP))
        chosen_KP = candidates_CP[turn_K.clamp(0, len(candidates_CP) - 1)]
        self.uses_K.copy_(torch.where(rare_K, 2 * least, self.uses_K))
        self.sums_KP.copy_(torch.where(rare_K[:, None], 2 * least * chosen_KP, self.sums_KP))

    def _distances(self, patches_BNP: Tensor) -> tuple[Tensor, Tensor]:
        """Squared distance to the nearest code, and its number, ``[B, N]`` each."""
        with torch.autocast(patches_BNP.device.type, enabled=False):
            patches_BNP = patches_BNP.to(self.codes_KP.dtype)
            score_BNK = self.codes_KP.square().sum(1) - 2 * patches_BNP @ self.codes_KP.T
            found = score_BNK.min(dim=2)
            return found.values + patches_BNP.square().sum(2), found.indices
