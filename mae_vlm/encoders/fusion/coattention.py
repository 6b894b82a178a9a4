"""Two streams that look at each other: words at patches and patches at words.

Letters: B pairs, T tokens of a text, N tokens of a picture, D width.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

from mae_vlm.encoders.arithmetic import blocks, linear
from mae_vlm.encoders.fusion.base import Fused, Fusion
from mae_vlm.encoders.fusion.cross import across, as_bert, bert_config
from mae_vlm.encoders.passes import Held
from mae_vlm.encoders.text.base import EncodedText
from mae_vlm.encoders.towers import Towers
from mae_vlm.types import Encoded


class CoAttention(Fusion):
    """Layers of BERT for each modality that attend to its own tokens and to the other's (ViLBERT, arXiv 1908.02265, figure 2).

    Self-attention, cross-attention and MLP follow each other within a layer, as in METER (arXiv 2111.02387, 3.2), and both streams of a
    layer look at what the other was before it. The last layer is of the text alone: what the picture learned there nobody would see.

    Args:
        towers: the two.
        depth: layers, the last of the text alone; at least 2, else no patch would see a word.
        heads: of attention; None takes one for every 64 numbers.
        dropout: of features and attention.

    Raises:
        ValueError: no text tower, or sizes that don't fit.
    """

    causal = False

    def __init__(self, towers: Towers, depth: int = 4, heads: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.width = towers.told_text().width
        config = bert_config(self.width, depth, heads, dropout, least=2)
        self.picture = nn.Linear(towers.image.width, self.width)
        self.texts, self.pictures = _layers(config, depth), _layers(config, depth - 1)
        self.apply(partial(as_bert, width=self.width))
        self.prefix = towers.image.prefix

    def forward(self, image: Encoded | Held, text: EncodedText, causal: bool = False) -> Fused:
        self.refuse(causal)
        real_B11T = text.words.real_BT[:, None, None]
        real_B11N = self.real(image.tokens_BTD)[:, None, None] if self.regions else None
        words_BTD: Tensor = text.tokens_BTD
        seen_BND: Tensor = self.picture(image.tokens_BTD)
        for of_text, of_picture in zip(self.texts[:-1], self.pictures, strict=True):
            words_BTD, seen_BND = (
                of_text(words_BTD, real_B11T, seen_BND, encoder_attention_mask=real_B11N),
                of_picture(seen_BND, real_B11N, words_BTD, encoder_attention_mask=real_B11T),
            )
        words_BTD = self.texts[-1](words_BTD, real_B11T, seen_BND, encoder_attention_mask=real_B11N)
        return Fused(words_BTD[:, 0], words_BTD, self.patches(seen_BND, self.prefix))

    def flops(self, tokens: int, seen: int) -> int:
        own = linear(self.picture, seen)
        for layers, here, there in ((self.texts, tokens, seen), (self.pictures, seen, tokens)):
            own += blocks(layers, here) + sum(across(layer, here, there) for layer in layers)
        return own


def _layers(config: BertConfig, depth: int) -> nn.ModuleList:
    layers = nn.ModuleList(BertLayer(config) for _ in range(depth))
    for layer in layers:
        layer.attention.self.is_causal = False  # type: ignore[union-attr]  # layers that look across are a decoder's in transformers
    return layers
