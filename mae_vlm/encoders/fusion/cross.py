"""Texts that look at pictures: BERT layers with cross-attention.

Letters: B pairs, T tokens of a text, N tokens of a picture, D width.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertEncoder, BertLayer

from mae_vlm.encoders.arithmetic import blocks, linear
from mae_vlm.encoders.fusion.base import Fused, Fusion
from mae_vlm.encoders.passes import Held
from mae_vlm.encoders.text.base import EncodedText
from mae_vlm.encoders.text.transformer import bert_deviation, causal_mask
from mae_vlm.encoders.towers import Towers
from mae_vlm.types import Encoded


class CrossAttention(Fusion):
    """The text tower's tokens through further BERT layers that also attend to all tokens of the picture (ALBEF, arXiv 2107.07651, 3.1).

    Args:
        towers: whose text tower it goes on from.
        depth: layers; ALBEF takes as many as the text tower has (6 and 6).
        heads: of attention; None takes one for every 64 numbers.
        dropout: of features and attention.

    Raises:
        ValueError: no text tower, or sizes that don't fit.
    """

    def __init__(self, towers: Towers, depth: int = 4, heads: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.width = towers.told_text().width
        self.layers = BertEncoder(bert_config(self.width, depth, heads, dropout))
        self.picture = nn.Linear(towers.image.width, self.width)
        self.apply(partial(as_bert, width=self.width))
        self.prefix = towers.image.prefix

    def forward(self, image: Encoded | Held, text: EncodedText, causal: bool = False) -> Fused:
        real_BT = text.words.real_BT
        seen_BND: Tensor = self.picture(image.tokens_BTD)
        mask = causal_mask(real_BT) if causal else real_BT[:, None, None, :]
        across = self.real(image.tokens_BTD)[:, None, None] if self.regions else None
        found = self.layers(text.tokens_BTD, attention_mask=mask, encoder_hidden_states=seen_BND, encoder_attention_mask=across)
        tokens_BTD: Tensor = found.last_hidden_state
        return Fused(tokens_BTD[:, 0], tokens_BTD, self.patches(seen_BND, self.prefix))

    def flops(self, tokens: int, seen: int) -> int:
        own = blocks(self.layers, tokens) + sum(across(layer, tokens, seen) for layer in self.layers.layer)
        return own + linear(self.picture, seen)


def bert_config(width: int, depth: int, heads: int | None, dropout: float, least: int = 1) -> BertConfig:
    """Of layers that also attend to something else; ``heads`` None is one for every 64 numbers.

    Raises:
        ValueError: sizes that don't fit, or fewer than ``least`` layers.
    """
    heads = max(1, width // 64) if heads is None else heads
    if depth < least or heads < 1 or width % heads:
        raise ValueError(f"depth {depth}, heads {heads} given: depth must be {least} or more and the width {width} a multiple of heads")
    config = BertConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        is_decoder=True,
        add_cross_attention=True,
    )
    config._attn_implementation = "sdpa"
    return config


def across(layer: BertLayer, tokens: int, seen: int) -> int:
    """What a layer costs more where its ``tokens`` look across at ``seen`` others, of which keys and values are, instead of as many."""
    sides = (layer.crossattention.self.key, layer.crossattention.self.value)
    width: int = layer.crossattention.self.all_head_size
    return sum(linear(side, seen) - linear(side, tokens) for side in sides) + 4 * tokens * (seen - tokens) * width


def as_bert(module: nn.Module, width: int) -> None:
    """BERT's initial weights: normal with the deviation of that ``width``, biases 0."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=bert_deviation(width))
        nn.init.zeros_(module.bias)
