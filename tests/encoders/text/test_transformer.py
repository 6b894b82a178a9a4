"""Promises of mae_vlm.encoders.text: any transformer of transformers as a text tower, and what is pooled from it."""

from __future__ import annotations

import json

import pytest
import torch
from captioned import a_text, stirred, vocabulary_file

from mae_vlm.encoders.fusion.cross import CrossAttention
from mae_vlm.encoders.text.base import EncodedText
from mae_vlm.encoders.text.transformer import Transformer, causal_mask
from mae_vlm.encoders.text.word_head import WordHead
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.tokens.words import Words

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 40}
CLIP = {"model_type": "clip_text_model", **SIZES, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
TOWERS = {
    "bert": {"depth": 2, "length": 40},
    "words and places alone": {"depth": 0, "length": 40},
    "clip": {"config": CLIP, "length": 40},
    "roberta": {"config": {"model_type": "roberta", **SIZES, "max_position_embeddings": 42, "pad_token_id": 0}, "length": 40},
    "electra": {"config": {"model_type": "electra", **SIZES, "embedding_size": 8}, "length": 40},
    "distilbert": {"config": {"model_type": "distilbert", "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}, "length": 40},
}
TEXTS = ["a red square", "a large blue circle on the left side", None]
with_each = pytest.mark.parametrize("name", TOWERS)


def a_tower(name: str) -> Transformer:
    torch.manual_seed(0)
    return stirred(a_text(**TOWERS[name]).double()).eval()


@pytest.mark.parametrize(("width", "deviation"), [(768, 0.02), (192, 0.04)])
def test_narrow_towers_begin_with_larger_weights(width, deviation, tmp_path):
    torch.manual_seed(0)
    text = Transformer(vocabulary=vocabulary_file(tmp_path), width=width, depth=1, heads=2)
    fusion = CrossAttention(Towers(Vit(width=16, depth=1, heads=2, patch=8, image_size=16), text), depth=1)
    for tower in (text.model.encoder, fusion):
        weights = [weight for weight in tower.parameters() if weight.ndim == 2]
        assert weights and all(float(weight.detach().std()) == pytest.approx(deviation, rel=0.05) for weight in weights)


@with_each
@pytest.mark.parametrize("pool", ["first", "end", "mean"])
def test_padding_changes_nothing(name, pool):
    tower = a_tower(name)
    words = tower.words(TEXTS)
    found = tower(words)
    assert found.tokens_BTD.shape == (*words.ids_BT.shape, tower.width) and found.tokens_BTD.isfinite().all()
    longer = tower(words.padded(37, tower.vocabulary.pad))
    real = words.real_BT[..., None]
    assert torch.allclose(longer.tokens_BTD[:, : real.shape[1]] * real, found.tokens_BTD * real, rtol=0, atol=1e-12)
    assert torch.allclose(longer.pooled(pool), found.pooled(pool), rtol=0, atol=1e-12)
    assert torch.allclose(tower(words.rows(torch.tensor([0]))).pooled(pool), found.pooled(pool)[:1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["bert", "roberta", "electra"])
def test_causal_no_token_sees_a_later_one_and_padding_changes_nothing(name):
    tower = a_tower(name)
    texts = ["a red square on the left", "a red square on the right"]
    words = tower.words(texts)
    found = tower(words, causal=True)
    first = int((words.ids_BT[0] != words.ids_BT[1]).int().argmax())
    difference = (found.tokens_BTD[0] - found.tokens_BTD[1]).abs().amax(-1)
    assert first >= 4 and difference[:first].max() < 1e-12 and difference[first] > 1e-3
    around = (tower(words).tokens_BTD[0] - tower(words).tokens_BTD[1]).abs().amax(-1)
    assert around[:first].min() > 1e-5
    longer = tower(words.padded(30, tower.vocabulary.pad), causal=True)
    real = words.real_BT[..., None]
    assert longer.tokens_BTD.isfinite().all()
    assert torch.allclose(longer.tokens_BTD[:, : real.shape[1]] * real, found.tokens_BTD * real, rtol=0, atol=1e-12)


def test_a_causal_mask_shows_what_is_before_and_real():
    mask = causal_mask(torch.tensor([[True, True, False]]))
    assert mask[0, 0].tolist() == [[True, False, False], [True, True, False], [True, True, True]]


def test_a_tower_that_cannot_be_causal_says_so():
    tower = a_tower("distilbert")
    with pytest.raises(ValueError, match="type distilbert cannot read causally; allowed are bert"):
        tower(tower.words(TEXTS), causal=True)


@with_each
def test_every_weight_has_a_gradient(name):
    tower = a_tower(name).train()
    tower(tower.words(TEXTS)).tokens_BTD.square().sum().backward()
    assert not [weight for weight, value in tower.named_parameters() if value.grad is None]


def test_pools_are_the_first_the_last_and_the_mean_of_real_tokens():
    tokens = torch.arange(6.0).view(1, 3, 2)
    real = torch.tensor([[True, True, False]])
    encoded = EncodedText(tokens, Words(torch.zeros(1, 3), real, torch.zeros(1, 3), torch.ones(1)))
    assert [encoded.pooled(how).tolist() for how in ("first", "end", "mean")] == [[[0, 1]], [[2, 3]], [[1, 2]]]
    with pytest.raises(ValueError, match="pool 'last' given, allowed are first, end, mean"):
        encoded.pooled("last")


def test_a_folder_of_transformers_is_read_with_its_vocabulary(tmp_path):
    tower = a_tower("bert").float()
    tower.model.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(tower.vocabulary.json, encoding="utf-8")
    again = Transformer(name=str(tmp_path), length=40).eval()
    assert again.vocabulary.json == tower.vocabulary.json
    words = tower.words(TEXTS)
    assert torch.allclose(again(words).tokens_BTD, tower(words).tokens_BTD, atol=1e-6)


@with_each
def test_what_a_checkpoint_states_builds_the_same_tower(name, tmp_path):
    tower = a_tower(name)
    stated = json.loads(json.dumps(tower.stated()))
    (tmp_path / "tokenizer.json").write_text(stated["vocabulary"], encoding="utf-8")
    again = Transformer(vocabulary=str(tmp_path), config=stated["config"], length=40).double().eval()
    again.load_state_dict(tower.state_dict())
    words = tower.words(TEXTS)
    assert torch.equal(again(words).tokens_BTD, tower(words).tokens_BTD)


def test_blocks_computed_again_give_the_same_gradients():
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        tower = a_text(depth=2, checkpoint_blocks=again).double().train()
        tower(tower.words(TEXTS)).tokens_BTD.square().sum().backward()
        found.append(tower.word_table.weight.grad)
    assert torch.allclose(*found, rtol=0, atol=1e-12)


def test_dropout_is_what_was_asked_for_and_off_by_default():
    for dropout in (0.0, 0.5):
        tower = a_text(dropout=dropout).train()
        words = tower.words(TEXTS)
        assert torch.equal(tower(words).tokens_BTD, tower(words).tokens_BTD) == (dropout == 0)


def test_a_word_head_tells_by_the_words_own_embedding():
    head, table = WordHead(6, 4, 5).double(), torch.randn(7, 4, dtype=torch.float64)  # a table may be longer than the vocabulary
    tokens = torch.randn(2, 3, 6, dtype=torch.float64)
    logits = head(tokens, table)
    inner = head.norm(torch.nn.functional.gelu(head.dense(tokens)))
    assert logits.shape == (2, 3, 5) and torch.allclose(logits[1, 2], table[:5] @ inner[1, 2] + head.bias)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"vocabulary": None}, "needs a vocabulary: python -m mae_vlm vocabulary"),
        ({"length": 2}, "length 2 given: a text needs at least 3 tokens"),
        ({"config": {"model_type": "birt"}}, "model_type 'birt', which transformers does not know"),
        ({"config": {**SIZES, "model_type": "bert", "num_attention_heads": 3}}, "transformers cannot build a text tower of type bert"),
        ({"config": {**SIZES, "model_type": "bert", "vocab_size": 9}}, "the text model 9; they don't belong together"),
        ({"config": {**SIZES, "model_type": "bert"}, "length": 41}, "length 41 given, this text model has positions for 40 tokens"),
        ({"name": "nowhere/at/all"}, "text tower nowhere/at/all: no folder with a config.json"),
    ],
)
def test_wrong_options_are_told_in_one_line(options, says, tmp_path):
    options = {"vocabulary": vocabulary_file(tmp_path)} | options
    with pytest.raises(ValueError, match=says) as told:
        Transformer(**options)
    assert "\n" not in str(told.value)
