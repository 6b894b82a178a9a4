"""Models with the key names of the MAE paper's code, written afresh: what a .pth of theirs is held against."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mae_vlm.tokens.positions import sincos_2d


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
        return self.proj((weights @ value).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(tokens)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = Attention(width, heads), Mlp(width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class Embedding(nn.Module):
    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)


class PaperVit(nn.Module):
    """``models_vit`` with global pooling: ``fc_norm`` on the mean of the patch tokens, then ``head``."""

    def __init__(self, width: int = 128, depth: int = 2, patch: int = 4, size: int = 16, classes: int = 0) -> None:
        super().__init__()
        self.patch_embed = Embedding(width, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        side = size // patch
        self.pos_embed = nn.Parameter(sincos_2d(width, side, side, 1)[None])
        self.blocks = nn.ModuleList(Block(width, width // 64) for _ in range(depth))
        if classes:
            self.fc_norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, classes)
        else:
            self.norm = nn.LayerNorm(width, eps=1e-6)

    def embedded(self, images: Tensor) -> Tensor:
        return self.patch_embed.proj(images).flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]

    def through(self, patches: Tensor) -> Tensor:
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(patches), -1, -1)
        tokens = torch.cat([first, patches], 1)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens

    def tokens(self, images: Tensor) -> Tensor:
        return self.norm(self.through(self.embedded(images)))

    def logits(self, images: Tensor) -> Tensor:
        return self.head(self.fc_norm(self.through(self.embedded(images))[:, 1:].mean(1)))


class PaperMae(PaperVit):
    """``models_mae``: encoder and decoder."""

    def __init__(self, width: int = 128, decoder: int = 64, decoder_depth: int = 1, patch: int = 4, size: int = 16, **more) -> None:
        super().__init__(width, patch=patch, size=size, **more)
        side = size // patch
        self.decoder_embed, self.mask_token = nn.Linear(width, decoder), nn.Parameter(torch.zeros(1, 1, decoder))
        self.decoder_pos_embed = nn.Parameter(sincos_2d(decoder, side, side, 1)[None])
        self.decoder_blocks = nn.ModuleList(Block(decoder, decoder // 32) for _ in range(decoder_depth))
        self.decoder_norm, self.decoder_pred = nn.LayerNorm(decoder, eps=1e-6), nn.Linear(decoder, 3 * patch**2)

    def predicted(self, images: Tensor, noise: Tensor, ratio: float) -> Tensor:
        """Pixels of every patch, of pictures of which the patches with the lowest noise are seen."""
        patches = self.embedded(images)
        kept, order = int(patches.shape[1] * (1 - ratio)), noise.argsort(1)
        seen = patches.gather(1, order[:, :kept, None].expand(-1, -1, patches.shape[2]))
        tokens = self.decoder_embed(self.norm(self.through(seen)))
        hidden = self.mask_token.expand(len(tokens), patches.shape[1] - kept, -1)
        whole = torch.cat([tokens[:, 1:], hidden], 1).gather(1, order.argsort(1)[..., None].expand(-1, -1, tokens.shape[2]))
        tokens = torch.cat([tokens[:, :1], whole], 1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            tokens = block(tokens)
        return self.decoder_pred(self.decoder_norm(tokens))[:, 1:]


def shaken(module: nn.Module, by: float = 0.1) -> nn.Module:
    """The same with every weight moved at random: no zero, no one left that could hide a mistake."""
    draw = torch.Generator().manual_seed(7)
    for parameter in module.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=draw), alpha=by)
    return module.eval()
