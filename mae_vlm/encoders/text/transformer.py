"""Any text encoder of transformers as a text tower: by folder or hub name, by its config, or a small BERT by sizes.

Letters: B texts, T tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mae_vlm.encoders.text.base import EncodedText, TextTower
from mae_vlm.tokens.words import Vocabulary, Words, read

HUB = "hf://"
_COUNT_FROM_PADDING = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "data2vec-text", "roberta-prelayernorm")
_CAUSAL = ("bert", "electra", "roberta", "xlm-roberta", "camembert", "bert-generation")  # whose attention takes a mask of token by token


class Transformer(TextTower):
    """A text encoder of transformers, with its own parameter names under ``model``.

    Args:
        name: a folder as transformers writes it, or ``hf://org/name``: its config, weights and vocabulary.
        vocabulary: a tokenizer.json, vocab.txt or a folder that holds one; ``name`` brings its own. The CLI learns one from the captions
            of the training pictures where both are left open, and ``python -m mae_vlm vocabulary`` beforehand.
        width, depth, heads: sizes of a BERT with random weights, where neither ``name`` nor ``config`` is given; depth 0 is words and
            their positions alone, for a fusion that does the rest.
        length: tokens of a text at most, begin and end included.
        dropout: of features and attention.
        config: a config of transformers as plain data (``model_type`` and its options), with random weights.
        checkpoint_blocks: keep only the input of each block for the backward pass.

    Raises:
        ValueError: no vocabulary, a folder without a model, an unknown ``model_type``, or sizes that don't fit.
    """

    def __init__(
        self,
        name: str | None = None,
        vocabulary: str | None = None,
        width: int = 256,
        depth: int = 4,
        heads: int = 4,
        length: int = 32,
        dropout: float = 0.0,
        config: dict[str, Any] | None = None,
        checkpoint_blocks: bool = False,
    ) -> None:
        super().__init__()
        if length < 3:
            raise ValueError(f"length {length} given: a text needs at least 3 tokens, of which two are its begin and end")
        self.length = length
        self.vocabulary = _vocabulary(name, vocabulary)
        if name is not None:
            self.model = _pretrained(name, dropout)
        else:
            sizes = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads, "intermediate_size": 4 * width}
            bert = {"model_type": "bert", **sizes, "max_position_embeddings": length, "initializer_range": bert_deviation(width)}
            own = bert if config is None else config
            known = {"vocab_size": len(self.vocabulary), "pad_token_id": self.vocabulary.pad}
            known |= {"bos_token_id": self.vocabulary.begin, "eos_token_id": self.vocabulary.end}
            self.model = _from_config(known | {key: value for key, value in own.items() if value is not None}, dropout)
        if checkpoint_blocks:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        table, longest = self.word_table, _positions(self.model.config, length)
        if len(self.vocabulary) > table.num_embeddings:
            raise ValueError(
                f"the vocabulary has {len(self.vocabulary)} tokens, the text model {table.num_embeddings}; they don't belong together"
            )
        if length > longest:
            raise ValueError(f"length {length} given, this text model has positions for {longest} tokens; set a length up to that")
        self.width = int(self.model.config.hidden_size)

    @property
    def word_table(self) -> nn.Embedding:
        table = self.model.get_input_embeddings()
        assert isinstance(table, nn.Embedding)
        return table

    def forward(self, words: Words, causal: bool = False) -> EncodedText:
        mask: Tensor = words.real_BT
        if causal:
            if (kind := self.model.config.model_type) not in _CAUSAL:
                raise ValueError(f"a text tower of type {kind} cannot read causally; allowed are {', '.join(_CAUSAL)}")
            mask = causal_mask(words.real_BT)
        # transformers takes a mask of floats for granted in some models, and warns of booleans in none
        found = self.model(input_ids=words.ids_BT, attention_mask=mask if causal else mask.long())
        return EncodedText(found.last_hidden_state, words)

    def stated(self) -> dict[str, Any]:
        whole = self.model.config.to_diff_dict()
        config = {key: value for key, value in whole.items() if key not in ("_name_or_path", "transformers_version")}
        config["model_type"] = self.model.config.model_type
        return super().stated() | {"config": json.loads(json.dumps(config, default=str))}


def bert_deviation(width: int) -> float:
    """Of initial weights: BERT's .02 at its own width of 768, more where fewer numbers add up.

    Attention and its values are sums over the width: with .02 an untrained narrow layer hardly passes on what differs.
    """
    return float(0.02 * (768 / max(width, 1)) ** 0.5)


def causal_mask(real_BT: Tensor) -> Tensor:
    """Bool ``[B, 1, T, T]``: whether a token (row) may see another (column): itself, and real ones before it."""
    across = real_BT.shape[1]
    before_TT = torch.ones(across, across, dtype=torch.bool, device=real_BT.device).tril()
    itself_TT = torch.eye(across, dtype=torch.bool, device=real_BT.device)  # padding sees itself: a row of nothing would be nan
    return ((before_TT & real_BT[:, None, :]) | itself_TT)[:, None]


def _positions(config: Any, length: int) -> int:
    """Tokens that there are positions for: RoBERTa and its kin begin to count behind the number of the padding."""
    longest = int(getattr(config, "max_position_embeddings", length))
    offset = int(config.pad_token_id or 0) + 1 if config.model_type in _COUNT_FROM_PADDING else 0
    return longest - offset


def _vocabulary(name: str | None, vocabulary: str | None) -> Vocabulary:
    if vocabulary is not None:
        return read(vocabulary)
    if name is None:
        raise ValueError("a text tower needs a vocabulary: python -m mae_vlm vocabulary --data.path DATA learns one from captions")
    if not name.startswith(HUB):
        return read(name)
    from transformers import AutoTokenizer

    return Vocabulary(AutoTokenizer.from_pretrained(name.removeprefix(HUB)).backend_tokenizer)


def _pretrained(name: str, dropout: float) -> Any:
    from transformers import AutoConfig, AutoModel

    if not name.startswith(HUB) and not (Path(name) / "config.json").is_file():
        raise ValueError(f"text tower {name}: no folder with a config.json of transformers; a name on the hub is written {HUB}org/name")
    place = name.removeprefix(HUB)
    config = AutoConfig.from_pretrained(place)
    config = getattr(config, "text_config", None) or config
    return AutoModel.from_pretrained(place, config=_dropped(config, dropout), **_without_pooler(config))


def _from_config(stated: dict[str, Any], dropout: float) -> Any:
    from transformers import CONFIG_MAPPING, AutoModel

    options = dict(stated)
    kind = options.pop("model_type", None)
    if kind not in CONFIG_MAPPING:
        raise ValueError(
            f"text config has model_type {kind!r}, which transformers does not know; known are bert, clip_text_model and others"
        )
    try:
        config = CONFIG_MAPPING[kind](**options)
        if kind == "siglip_text_model":  # AutoModel knows it with its pictures' tower alone
            return _siglip(_dropped(config, dropout))
        return AutoModel.from_config(_dropped(config, dropout), attn_implementation="sdpa", **_without_pooler(config))
    except (ValueError, TypeError) as problem:
        raise ValueError(f"transformers cannot build a text tower of type {kind}: {' '.join(str(problem).split())}") from None


def _without_pooler(config: Any) -> dict[str, bool]:
    """A pooler that nobody looks at would be a weight without a gradient."""
    return {"add_pooling_layer": False} if config.model_type in ("bert", "roberta", "xlm-roberta", "camembert") else {}


def _siglip(config: Any) -> Any:
    """Without its last layer, which makes one feature of a text, and would be a weight without a gradient, too."""
    from transformers import SiglipTextModel

    model = SiglipTextModel._from_config(config, attn_implementation="sdpa")
    model.head = nn.Identity()
    return model


def _dropped(config: Any, dropout: float) -> Any:
    for option in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"):
        if hasattr(config, option):
            setattr(config, option, dropout)
    return config
