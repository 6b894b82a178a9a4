"""Low-rank adapters in an encoder: what is trained is a small correction of some weights, which can be added to them afterwards.

Letters: D, E sizes of a weight's output and input, R rank.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from mae_vlm.encoders.image import ImageTower

_NAME = "default"  # of the adapter, in peft's names
_BASE, _DOWN, _UP = ".base_layer.", f".lora_A.{_NAME}.weight", f".lora_B.{_NAME}.weight"


@dataclass(frozen=True)
class Lora:
    """Adapters of rank ``rank`` in the linear layers ``targets`` of every block (Hu et al. 2021, arXiv 2106.09685), through peft.

    A layer computes W x + alpha / rank B A x, of which A ``[R, E]`` and B ``[D, R]`` are trained and W stays; B begins with zeros, so that
    the encoder begins as it was.

    Attributes:
        rank: of B A, far below the layer's sizes.
        alpha: how much the correction counts; at twice the rank a rate that suits one rank about suits others.
        targets: last parts of the layers' names in timm, of which each must be there: ``qkv`` and ``proj`` are those of the attention,
            ``fc1`` and ``fc2`` those of the MLP.
        dropout: share of the numbers that the adapters don't see, in training.

    Raises:
        ValueError: one of them out of its range.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("qkv", "proj")
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1 or not self.targets:
            raise ValueError(
                f"lora rank {self.rank} must be 1 or more, alpha {self.alpha} above 0, dropout {self.dropout} a share below 1, and targets "
                "name a layer, as qkv"
            )

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def adapt(encoder: ImageTower, lora: Lora) -> None:
    """Put adapters into ``encoder``, in place; of all its weights only theirs are trained from now on.

    Raises:
        ValueError: a target that is not there, or peft is not installed.
    """
    layers = {name.rpartition(".")[2] for name, part in encoder.vit.blocks.named_modules() if isinstance(part, nn.Linear)}
    if absent := [target for target in lora.targets if target not in layers]:
        raise ValueError(f"lora.targets {absent[0]} is no linear layer of the encoder's blocks; there are {', '.join(sorted(layers))}")
    if "qkv" in lora.targets and any(_bypasses(part) for part in encoder.vit.blocks.modules()):
        raise ValueError(f"{encoder.architecture} takes the weight of qkv past its layer and any adapter; leave qkv out of lora.targets")
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as problem:
        raise ValueError("lora needs the package peft: pip install 'mae_vlm[lora]'") from problem
    # a pattern of whole names: the projection of the patch embedding, a convolution, is called proj too
    pattern = rf"blocks\.\d+\.(?:.*\.)?(?:{'|'.join(map(re.escape, lora.targets))})"
    options = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=pattern)
    inject_adapter_in_model(options, encoder.vit, _NAME)
    encoder.train(encoder.training)  # peft's new parts are in training mode


def _bypasses(attention: nn.Module) -> bool:
    """Whether an attention of timm's Eva family multiplies by the weight of ``qkv`` itself, to add biases of its own."""
    return getattr(attention, "q_bias", None) is not None and not getattr(attention, "qkv_bias_separate", False)


def merged(state: dict[str, Tensor], lora: Lora) -> dict[str, Tensor]:
    """A state dict with the adapters added to the weights that they correct, under the names of an encoder without any.

    Sums are made in float32 and rounded once. Needs no peft.

    Raises:
        ValueError: an adapter of another size than its weight, or half of one.
    """
    found = {name.replace(_BASE, "."): value for name, value in state.items() if not is_adapter(name)}
    for name, up_DR in state.items():
        if name.endswith(_UP):
            layer = name.removesuffix(_UP)
            weight_DE, down_RE = found.get(f"{layer}.weight"), state.get(layer + _DOWN)
            if weight_DE is None or down_RE is None or (len(up_DR), down_RE.shape[1:]) != (len(weight_DE), weight_DE.shape[1:]):
                raise ValueError(f"the adapter {name} does not fit the weight that it corrects")
            found[f"{layer}.weight"] = (weight_DE.float() + lora.scale * up_DR.float() @ down_RE.float()).to(weight_DE.dtype)
    return found


def placed(state: dict[str, Tensor], own: Iterable[str]) -> dict[str, Tensor]:
    """A state dict of plain names, by the names of an encoder that may have adapters: ``own``."""
    inside = {name.replace(_BASE, "."): name for name in own if _BASE in name}
    return {inside.get(name, name): value for name, value in state.items()}


def is_adapter(name: str) -> bool:
    """Whether a weight is an adapter's own."""
    return name.endswith((_DOWN, _UP))
