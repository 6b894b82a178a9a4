"""The parts of a model that run one after the other: what is sharded, and compiled, one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import nn

from mae_vlm.encoders.fusion.base import Fusion
from mae_vlm.encoders.image import ImageTower
from mae_vlm.encoders.text.base import TextTower

_VARIANTS = 64


def blocks(module: nn.Module) -> list[nn.Module]:
    """The transformer blocks of encoders and decoders, and the layers of towers of words.

    Without recurrent layers: they keep their weights side by side in memory, and are not compiled.
    """
    found = {child: None for name, child in module.named_modules() if name.rpartition(".")[0].endswith("blocks")}
    return [*(found | dict.fromkeys(layers(module)))]


def layers(module: nn.Module) -> list[nn.Module]:
    """The layers of the text and fusion towers below a module."""
    towers = [tower for tower in module.modules() if isinstance(tower, TextTower | Fusion)]
    return [layer for tower in towers for layer in _listed(tower) if not any(isinstance(part, nn.RNNBase) for part in layer.modules())]


def compile_blocks(module: nn.Module, backend: str | Callable[..., object] = "inductor") -> None:
    """Compile each block in place: a learner's own logging would break a graph of all, and names stay.

    Blocks of pictures for each shape that they see, of which there are few; what sees words, in as many rows as there are questions and
    as long as the longest, for all shapes at once. All layers of one kind share torch's limit of variants (causal, without padding, without
    gradients), beyond which it would silently compile no more: it is raised.
    """
    import torch._dynamo  # a second, which only those who compile should wait

    torch._dynamo.config.recompile_limit = max(_VARIANTS, torch._dynamo.config.recompile_limit)
    dynamic = dict.fromkeys(layers(module), True) | dict.fromkeys(_shared(module))
    for block in blocks(module):
        block.compile(backend=backend, dynamic=dynamic.get(block, False))


def _listed(module: nn.Module) -> Iterator[nn.Module]:
    """Members of the outermost lists that consist of other modules, not of single layers such as norms."""
    for child in module.children():
        if isinstance(child, nn.ModuleList) and all(any(part.children()) for part in child):
            yield from child
        else:
            yield from _listed(child)


def _shared(module: nn.Module) -> list[nn.Module]:
    """Blocks of the image encoder that words go through too: once for a shape, and for all where they see several."""
    fused = any(isinstance(tower, Fusion) and tower.blocks for tower in module.modules())
    return [block for tower in module.modules() if fused and isinstance(tower, ImageTower) for block in blocks(tower)]
