"""What words have to do with pictures, drawn: the caption that is found for each, and where each of its words looks.

Letters: B pictures, C channels, H, W pixels, T tokens of a text, N tokens of a picture, D width.
"""

from __future__ import annotations

import math
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from mae_vlm.encoders.contact_sheet import contact_sheet, shown_channels
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.text.base import EncodedText
from mae_vlm.encoders.towers import Towers
from mae_vlm.heads.parts.retrieved_drawing import retrieved_sheet
from mae_vlm.heads.parts.word_drawing import with_words

_PICTURES, _WORDS = 4, 6
_SHORT = 2  # letters of words that are left out where there are longer ones: a, of, on


def word_pictures(towers: Towers, features: Features) -> dict[str, Tensor]:
    """Float ``[3, H, W]`` in [0, 1] by name, as far as the towers allow, of a batch whose first captions are read:

    - ``retrieved``: under each picture the nearest of these captions, where pictures and texts share a space.
    - ``words``: a row for each of the first pictures, and right of it for up to six words of its caption which patches they attend to in
      the last layer of the fusion tower (mean over heads and over the tokens of a word; the brightest patch of each map is 1). Only of
      :class:`mae_vlm.encoders.fusion.cross.CrossAttention`; attention tells where a layer looks, not why it answers.
    """
    found: dict[str, Tensor] = {}
    batch, captions = features.batch, [(text,) if text else () for text in features.texts]
    if features.embedded is not None:
        text_RE = features.embedded.text_BE[features.words.has_B]
        sheet = retrieved_sheet(batch, captions, features.embedded.image_BE, text_RE)
        found |= {} if sheet is None else {"retrieved": sheet}
    attention_BTN = looks(towers, features)
    if attention_BTN is not None and any(captions):
        found["words"] = _words_sheet(towers, features, attention_BTN)
    return found


def looks(towers: Towers, features: Features) -> Tensor | None:
    """How much each token of the text attends to each patch ``[B, T, N]``, a share of all it attends to; None of other fusions."""
    if towers.fusion is None:
        return None
    from mae_vlm.encoders.fusion.cross import CrossAttention  # imports transformers, which a run without words does without

    if not isinstance(towers.fusion, CrossAttention):
        return None
    seen: list[Tensor] = []
    layer = towers.fusion.layers.layer[-1].crossattention.self

    def note(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.append(_attention(module, given[0], named["encoder_hidden_states"]))

    handle = layer.register_forward_pre_hook(note, with_kwargs=True)
    try:
        towers.fusion(features.seen, features.text)
    finally:
        handle.remove()
    first = towers.image.prefix
    return seen[0][..., first : first + towers.image.space.patches]  # regions stand behind the patches


def _attention(layer: Any, text_BTD: Tensor, picture_BND: Tensor) -> Tensor:
    """Softmax of queries and keys as the layer takes it, mean over its heads ``[B, T, N]``."""
    query, key = (
        side.unflatten(-1, (-1, layer.attention_head_size)).transpose(1, 2) for side in (layer.query(text_BTD), layer.key(picture_BND))
    )
    scores = (query @ key.transpose(-1, -2)).float() / math.sqrt(layer.attention_head_size)
    mean_BTN: Tensor = scores.softmax(-1).mean(1)
    return mean_BTN


def _words_sheet(towers: Towers, features: Features, attention_BTN: Tensor) -> Tensor:
    rows = []
    scale = {torch.uint8: 255.0, torch.uint16: 65535.0}.get(features.batch.images_BCHW.dtype, 1.0)
    for number, text in enumerate(features.texts[:_PICTURES]):
        picture_CHW = shown_channels(features.batch.images_BCHW[number].cpu().float() / scale).expand(3, -1, -1)
        tiles = [with_words(picture_CHW, [], least=1)]
        told = _words(towers, features.text, number) if text else []
        for word, places in told[:_WORDS]:
            heat_N = attention_BTN[number, places].mean(0).cpu()
            tiles.append(with_words(_heated(picture_CHW, heat_N, towers), [word], least=1)[:, : tiles[0].shape[1]])
        blank = torch.full_like(tiles[0], 255)
        rows.append(torch.stack([*tiles, *[blank] * (_WORDS + 1 - len(tiles))]).float() / 255)
    return contact_sheet([torch.stack(column) for column in zip(*rows, strict=True)])


def _words(towers: Towers, text: EncodedText, number: int) -> list[tuple[str, list[int]]]:
    """The words of a text with the places of their tokens, short ones left out where there are longer ones."""
    vocabulary, words = towers.told_text().vocabulary, text.words
    places = [(word, place) for place, word in enumerate(words.word_BT[number].tolist()) if word >= 0]
    grouped = [[place for _, place in some] for _, some in groupby(places, key=lambda pair: pair[0])]
    told = [(vocabulary.decode(words.ids_BT[number, some].tolist()), some) for some in grouped]
    longer = [(word, some) for word, some in told if len(word) > _SHORT]
    return longer or told


def _heated(picture_CHW: Tensor, heat_N: Tensor, towers: Towers) -> Tensor:
    """The picture darkened, and lit where the patches are that are looked at: float ``[3, H, W]``."""
    space = towers.image.space
    heat_HW = (heat_N / heat_N.max().clamp(min=1e-9)).view(space.rows, space.columns)
    heat_HW = heat_HW.repeat_interleave(space.patch, 0).repeat_interleave(space.patch, 1)
    light_3HW = torch.tensor([1.0, 0.75, 0.1])[:, None, None] * heat_HW
    return (0.35 * picture_CHW + 0.65 * light_3HW).clamp(0, 1)
