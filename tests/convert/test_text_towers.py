"""Promises of the readers of text towers: the source's numbers of the same words, and of pairs with pictures; or a line why not."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from paper_mae import PaperVit, shaken
from test_sources import IMAGES, SIZES
from test_sources_with_words import CAPTIONS, MODELS, OpenClipVisual, Resblock
from tiny_runs import DATA, MACHINE, content, in_process
from transformers import BertConfig, ViltConfig, ViltModel
from transformers.models.bert.modeling_bert import BertEmbeddings, BertLayer

from mae_vlm.convert import foreign, native
from mae_vlm.convert.conversion import convert
from mae_vlm.encoders.fusion.cross import CrossAttention
from mae_vlm.encoders.fusion.early import Early
from mae_vlm.encoders.passes import held
from mae_vlm.encoders.text.transformer import Transformer
from mae_vlm.encoders.towers import Towers
from mae_vlm.tokens.words import learn

pytestmark = pytest.mark.filterwarnings("ignore:.*(of no use here|heads of attention|reads the padding|table):RuntimeWarning")
FUSIONS = {f"{kind.__module__}.{kind.__name__}": kind for kind in (Early, CrossAttention)}


def with_vocabulary(folder, size=60):
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(learn(CAPTIONS, size).json, encoding="utf-8")
    return folder


def towers_of(place):
    """All towers of what lies there, none of whose own weights is missing, and no weight left over."""
    stated, weights = native.stated_words(place)
    fusion = stated.get("fusion")
    build = fusion and partial(FUSIONS[fusion["class_path"]], **fusion["init_args"])
    towers = Towers(native.read_encoder(place), Transformer(**stated["text"]["init_args"]), build)
    own = {name: value for name, value in weights.items() if not name.startswith("image.")}
    missing, unexpected = towers.load_state_dict(own, strict=False)
    assert not unexpected and all(name.startswith("image.") for name in missing)
    return towers.eval()


def places(tmp_path, source):
    """The source itself, and a run of ours that was made of it."""
    convert(str(source), "native", tmp_path / "ours")
    return source, tmp_path / "ours"


def close(found, expected, words):
    assert expected.std() > 0.1
    torch.testing.assert_close(found[words.real_BT], expected[words.real_BT], rtol=0, atol=1e-5)


# -- transformers' folders

TEXTS = {
    "siglip": (lambda model: model.text_model, "text_model.head.weight", "reads the padding; here nobody sees it"),
    "blip": (lambda model: model.text_encoder, "text_encoder.encoder.layer.0.crossattention.self.query.weight", ""),
}


@pytest.mark.parametrize("kind", TEXTS)
@torch.no_grad()
def test_the_text_tower_gives_its_features_and_what_it_cannot_hold_is_listed(tmp_path, kind):
    model, (body, left, note) = shaken(MODELS[kind]()), TEXTS[kind]
    model.save_pretrained(with_vocabulary(tmp_path / "source"))
    found = foreign.read(tmp_path / "source")
    assert left in found.unused and note in " ".join(found.notes)
    held_here = {name for name in model.state_dict() if not name.startswith("vision_model.")} - set(found.unused)
    assert len(held_here) + (kind == "blip") == len(found.text.weights), (
        "all of its words' weights are here or listed; BERT's types are new"
    )
    for place in places(tmp_path, tmp_path / "source"):
        text = towers_of(place).text
        words = text.words(CAPTIONS)
        expected = body(model)(input_ids=words.ids_BT, attention_mask=words.real_BT.long()).last_hidden_state
        close(text(words).tokens_BTD, expected, words)


@torch.no_grad()
def test_vilts_stream_of_words_and_patches_gives_its_features(tmp_path):
    model = shaken(ViltModel(ViltConfig(**SIZES, vocab_size=60, max_position_embeddings=16)))
    model.save_pretrained(with_vocabulary(tmp_path / "source"))
    assert set(foreign.read(tmp_path / "source").unused) == {"pooler.dense.weight", "pooler.dense.bias"}
    for place in places(tmp_path, tmp_path / "source"):
        towers = towers_of(place)
        words = towers.text.words(CAPTIONS[:2])
        mask = words.real_BT.long()
        expected = model(words.ids_BT, mask, pixel_values=IMAGES, pixel_mask=torch.ones(2, 16, 16)).last_hidden_state
        fused = towers.fusion(held(towers.image, IMAGES, towers.fusion.blocks), towers.text(words))
        across = words.ids_BT.shape[1]
        close(fused.tokens_BTD, expected[:, :across], words)
        torch.testing.assert_close(fused.patches_BND.mean(1), expected[:, across + 1 :].mean(1), rtol=0, atol=1e-5)  # theirs are shuffled
        torch.testing.assert_close(fused.pooled_BD, expected[:, 0], rtol=0, atol=1e-5)


UNFIT = {
    "no vocabulary": (None, "no tokenizer.json there, nor a vocab.txt: its text tower is left behind"),
    "no begin and end": ({"[UNK]": 0, "a": 1}, "left behind: the vocabulary has no token for the begin and end of a text"),
    "too many tokens": (
        {name: number for number, name in enumerate(["[UNK]", "[CLS]", "[SEP]", *map(str, range(60))])}, "has 63 tokens, the tower 60"
    ),
}  # fmt: skip


@pytest.mark.parametrize("why", UNFIT)
def test_a_vocabulary_that_is_not_the_towers_leaves_it_behind_with_a_line(tmp_path, why):
    vocabulary, told = UNFIT[why]
    ViltModel(ViltConfig(**SIZES, vocab_size=60, max_position_embeddings=16)).save_pretrained(tmp_path)
    if vocabulary is not None:
        model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"}
        (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model, "added_tokens": []}))
    found = foreign.read(tmp_path)
    assert found.text is None and "embeddings.text_embeddings.word_embeddings.weight" in found.unused
    assert any(told in line for line in found.notes), found.notes


# -- .pth files


class OpenClipText(torch.nn.Module):
    """open_clip's text tower, written afresh: a token sees those before it."""

    def __init__(self, width=128, length=16):
        super().__init__()
        self.token_embedding = torch.nn.Embedding(60, width)
        self.positional_embedding = torch.nn.Parameter(torch.zeros(length, width))
        self.transformer = torch.nn.ModuleDict({"resblocks": torch.nn.ModuleList(Resblock(width) for _ in range(2))})
        self.ln_final = torch.nn.LayerNorm(width)

    def forward(self, ids):
        tokens = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        later = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1)
        for block in self.transformer["resblocks"]:
            normed = block.ln_1(tokens)
            tokens = tokens + block.attn(normed, normed, normed, attn_mask=later, need_weights=False)[0]
            tokens = tokens + block.mlp["c_proj"](torch.nn.functional.gelu(block.mlp["c_fc"](block.ln_2(tokens))))
        return self.ln_final(tokens)


@pytest.mark.parametrize("prefix", ["", "text."])
@torch.no_grad()
def test_open_clips_text_tower_gives_its_features(tmp_path, prefix):
    visual, text = shaken(OpenClipVisual()), shaken(OpenClipText())
    state = {f"visual.{name}": value for name, value in visual.state_dict().items()}
    state |= {f"{prefix}{name}": value for name, value in text.state_dict().items()}
    state |= {"logit_scale": torch.ones(()), f"{prefix}text_projection": torch.zeros(128, 8)}
    torch.save(state, with_vocabulary(tmp_path / "source") / "open_clip.pt")
    found = foreign.read(tmp_path / "source" / "open_clip.pt")
    assert set(found.unused) == {"logit_scale", f"{prefix}text_projection", "visual.proj"}
    for place in places(tmp_path, tmp_path / "source" / "open_clip.pt"):
        ours = towers_of(place).text
        words = ours.words(CAPTIONS)
        close(ours(words).tokens_BTD, text(words.ids_BT), words)


class Albef(torch.nn.Module):
    """ALBEF's towers, of transformers' own BERT layers: the last ``across`` of them look at pictures."""

    def __init__(self, width=128, depth=3, across=1):
        super().__init__()
        self.visual_encoder = PaperVit(width=128)
        config = {"vocab_size": 60, "max_position_embeddings": 16, "hidden_size": width, "num_attention_heads": width // 64}
        plain = BertConfig(**config, intermediate_size=4 * width, attn_implementation="eager")
        seeing = BertConfig(
            **config, intermediate_size=4 * width, is_decoder=True, add_cross_attention=True, encoder_width=128, attn_implementation="eager"
        )
        layers = [BertLayer(plain) for _ in range(depth - across)] + [BertLayer(seeing) for _ in range(across)]
        encoder = torch.nn.ModuleDict({"layer": torch.nn.ModuleList(layers)})
        self.text_encoder = torch.nn.ModuleDict(
            {"bert": torch.nn.ModuleDict({"embeddings": BertEmbeddings(plain), "encoder": encoder}), "cls": torch.nn.Linear(2, 3)}
        )

    def forward(self, words, images):
        tokens, seen = self.text_encoder["bert"]["embeddings"](words.ids_BT), self.visual_encoder.tokens(images)
        mask = torch.zeros(words.real_BT.shape).masked_fill(~words.real_BT, -1e30)[:, None, None]
        told = []
        for layer in self.text_encoder["bert"]["encoder"]["layer"]:
            tokens = layer(tokens, mask, encoder_hidden_states=seen) if hasattr(layer, "crossattention") else layer(tokens, mask)
            tokens = tokens[0] if isinstance(tokens, tuple) else tokens
            told.append(tokens)
        return told


def albef_file(folder):
    model = shaken(Albef())
    torch.save({"model": model.state_dict() | {"text_queue": torch.zeros(2, 2)}}, with_vocabulary(folder) / "albef.pth")
    return model, folder / "albef.pth"


@torch.no_grad()
def test_albefs_text_layers_and_those_that_look_at_pictures_give_their_features(tmp_path):
    model, file = albef_file(tmp_path / "source")
    assert set(foreign.read(file).unused) == {"text_encoder.cls.weight", "text_encoder.cls.bias", "text_queue"}
    for place in places(tmp_path, file):
        towers = towers_of(place)
        words = towers.text.words(CAPTIONS[:2])
        expected = model(words, IMAGES)
        text = towers.text(words)
        close(text.tokens_BTD, expected[1], words)
        close(towers.fusion(towers.image.full(IMAGES), text).tokens_BTD, expected[2], words)


@pytest.mark.slow
def test_pretraining_goes_on_with_albefs_three_towers(tmp_path, capsys):
    _, file = albef_file(tmp_path / "source")
    words = ["--model.text", "mae_vlm.encoders.text.transformer.Transformer",
             "--model.fusion", "mae_vlm.encoders.fusion.cross.CrossAttention",
             "--model.objectives.words", "mae_vlm.objectives.masked_language.MaskedLanguage"]  # fmt: skip
    still = ["--trainer.max_steps", "1", "--model.optimizer.init_args.base_lr", "0", "--pictures.count", "2"]
    root = ["--trainer.default_root_dir", tmp_path / "runs"]
    assert in_process("fit", *MACHINE, *DATA, *still, *words, *root, "--model.weights", file) == 0
    state, given = content(next((tmp_path / "runs").glob("*/version_0")))["state_dict"], native.stated_words(file)[1]
    assert f"towers of words: {len(given)} weights taken" in capsys.readouterr().out
    assert [name for name, value in given.items() if not torch.equal(state[f"towers.{name}"], value)] == []
