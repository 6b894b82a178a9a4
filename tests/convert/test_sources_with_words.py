"""Promises of the readers of CLIP, SigLIP, ViLT, BLIP and DINOv3: our encoder gives their numbers, and the rest is listed."""

from __future__ import annotations

import pytest
import torch
from paper_mae import PaperVit, shaken
from test_sources import IMAGES, SIZES
from transformers import (
    BlipConfig,
    BlipForImageTextRetrieval,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SiglipConfig,
    SiglipModel,
    ViltConfig,
    ViltForImageAndTextRetrieval,
)  # fmt: skip

from mae_vlm.convert import foreign, native
from mae_vlm.convert.conversion import convert
from mae_vlm.encoders.text.transformer import Transformer
from mae_vlm.tokens.words import learn

BODY = {name: value for name, value in SIZES.items() if name not in ("image_size", "patch_size")}
TEXT = BODY | {"vocab_size": 320, "max_position_embeddings": 16}
CAPTIONS = ["a red square above a blue disc", "two green discs", "nothing"]


def clip_folder(folder, vocabulary=True):
    model = shaken(CLIPModel(CLIPConfig(text_config=TEXT | {"bos_token_id": 2, "eos_token_id": 3}, vision_config=SIZES, projection_dim=24)))
    model.save_pretrained(folder)
    if vocabulary:
        (folder / "tokenizer.json").write_text(learn(CAPTIONS, 320, kind="bpe").json, encoding="utf-8")
    return model


@torch.no_grad()
def test_clips_picture_tower_gives_its_features(tmp_path):
    vision = clip_folder(tmp_path).vision_model
    found = foreign.read(tmp_path)
    expected = vision.post_layernorm(vision(IMAGES).last_hidden_state)
    torch.testing.assert_close(found.build().full(IMAGES).tokens_BTD, expected, rtol=0, atol=1e-5)
    assert set(found.unused) == {"logit_scale", "text_projection.weight", "visual_projection.weight"}
    assert found.encoder["init_args"]["mean"] == pytest.approx([0.48145466, 0.4578275, 0.40821073])


@torch.no_grad()
def test_clips_picture_tower_alone_is_read(tmp_path):
    model = shaken(CLIPVisionModel(CLIPVisionConfig(**SIZES)))
    model.save_pretrained(tmp_path)
    body = getattr(model, "vision_model", model)
    expected = body.post_layernorm(model(IMAGES).last_hidden_state)
    torch.testing.assert_close(foreign.read(tmp_path).build().full(IMAGES).tokens_BTD, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("by", ["the folder", "a run made of it"])
@torch.no_grad()
def test_clips_text_tower_gives_its_features(tmp_path, by):
    model = clip_folder(tmp_path / "clip")
    place = tmp_path / "clip"
    if by == "a run made of it":
        convert(str(place), "native", tmp_path / "run")
        place = tmp_path / "run"
    stated, weights = native.stated_words(place)
    tower = Transformer(**stated["text"]["init_args"]).eval()
    own = {name.removeprefix("text."): value for name, value in weights.items() if name.startswith("text.")}
    tower.load_state_dict(own, strict=True)
    words = tower.words(CAPTIONS)
    expected = model.text_model(input_ids=words.ids_BT, attention_mask=words.real_BT.long()).last_hidden_state
    found = tower(words).tokens_BTD
    assert expected.std() > 0.1
    torch.testing.assert_close(found[words.real_BT], expected[words.real_BT], rtol=0, atol=1e-5)


def test_a_text_tower_without_a_vocabulary_is_left_behind_and_listed(tmp_path):
    clip_folder(tmp_path, vocabulary=False)
    found = foreign.read(tmp_path)
    assert found.text is None and "text_model.embeddings.token_embedding.weight" in found.unused
    assert any("no tokenizer.json there" in line for line in found.told())


def theirs(model, kind):
    if kind == "vilt":  # its pictures without any word
        body = model.vilt
        embedded = body.embeddings.patch_embeddings(IMAGES)
        embedded = embedded.flatten(2).transpose(1, 2) if embedded.ndim == 4 else embedded
        first = body.embeddings.cls_token.expand(len(IMAGES), -1, -1)
        tokens = torch.cat([first, embedded], 1) + body.embeddings.position_embeddings + body.embeddings.token_type_embeddings.weight[1]
        for layer in body.encoder.layer:
            tokens = layer(tokens)
            tokens = tokens[0] if isinstance(tokens, tuple) else tokens
        return body.layernorm(tokens)
    return (model if kind == "dinov3" else model.vision_model)(IMAGES).last_hidden_state


MODELS = {
    "siglip": lambda: SiglipModel(SiglipConfig(text_config=TEXT, vision_config=SIZES)),
    "blip": lambda: BlipForImageTextRetrieval(
        BlipConfig(
            text_config=TEXT | {"encoder_hidden_size": 32, "bos_token_id": 2, "sep_token_id": 3},
            vision_config=SIZES,
            image_text_hidden_size=24,
        )
    ),
    "vilt": lambda: ViltForImageAndTextRetrieval(ViltConfig(**SIZES, vocab_size=60, max_position_embeddings=16)),
    "dinov3": lambda: DINOv3ViTModel(DINOv3ViTConfig(**SIZES, num_register_tokens=4, layerscale_value=0.5)),
}
LEFT = {"siglip": "vision_model.head.probe", "blip": "text_encoder.embeddings.word_embeddings.weight",
        "vilt": "embeddings.text_embeddings.word_embeddings.weight", "dinov3": "embeddings.mask_token"}  # fmt: skip


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_the_picture_tower_gives_its_features_and_the_rest_is_listed(tmp_path, kind):
    model = shaken(MODELS[kind]())
    model.save_pretrained(tmp_path / "source")
    found = foreign.read(tmp_path / "source")
    expected = theirs(model, kind)
    assert expected.std() > 0.1
    torch.testing.assert_close(found.build().full(IMAGES).tokens_BTD, expected, rtol=0, atol=1e-5)
    assert LEFT[kind] in found.unused and not any("pos_embed" in name or ("layers.0" in name and "vision" in name) for name in found.unused)
    convert(str(tmp_path / "source"), "native", tmp_path / "ours")
    torch.testing.assert_close(native.read_encoder(tmp_path / "ours").full(IMAGES).tokens_BTD, expected, rtol=0, atol=1e-5)


def test_an_option_that_ours_has_not_is_refused(tmp_path):
    DINOv3ViTModel(DINOv3ViTConfig(**SIZES, use_gated_mlp=True)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a DINOv3 with use_gated_mlp True has no place in timm's architecture"):
        foreign.read(tmp_path)


# -- .pth files of whole models, by their key names


class Resblock(torch.nn.Module):
    """open_clip's residual block, written afresh."""

    def __init__(self, width):
        super().__init__()
        self.attn = torch.nn.MultiheadAttention(width, width // 64, batch_first=True)
        self.ln_1, self.ln_2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.mlp = torch.nn.ModuleDict({"c_fc": torch.nn.Linear(width, 4 * width), "c_proj": torch.nn.Linear(4 * width, width)})

    def forward(self, tokens):
        normed = self.ln_1(tokens)
        tokens = tokens + self.attn(normed, normed, normed, need_weights=False)[0]
        return tokens + self.mlp["c_proj"](torch.nn.functional.gelu(self.mlp["c_fc"](self.ln_2(tokens))))


class OpenClipVisual(torch.nn.Module):
    def __init__(self, width=128, patch=4, size=16):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = torch.nn.Parameter(torch.zeros(width))
        self.positional_embedding = torch.nn.Parameter(torch.zeros((size // patch) ** 2 + 1, width))
        self.ln_pre, self.ln_post = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.transformer = torch.nn.ModuleDict({"resblocks": torch.nn.ModuleList(Resblock(width) for _ in range(2))})
        self.proj = torch.nn.Parameter(torch.zeros(width, 8))

    def forward(self, images):
        tokens = self.conv1(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_embedding.expand(len(images), 1, -1), tokens], 1) + self.positional_embedding
        tokens = self.ln_pre(tokens)
        for block in self.transformer["resblocks"]:
            tokens = block(tokens)
        return self.ln_post(tokens)


@pytest.mark.parametrize("beside", ["alone", "in a training's checkpoint"])
@torch.no_grad()
def test_a_pt_of_open_clip_gives_its_features(tmp_path, beside):
    model = shaken(torch.nn.ModuleDict({"visual": OpenClipVisual()}))
    state = model.state_dict() | {"logit_scale": torch.ones(()), "token_embedding.weight": torch.zeros(4, 4)}
    torch.save(
        state if beside == "alone" else {"epoch": 1, "state_dict": {f"module.{name}": one for name, one in state.items()}},
        tmp_path / "a.pt",
    )
    found = foreign.read(tmp_path / "a.pt")
    torch.testing.assert_close(found.build().full(IMAGES).tokens_BTD, model["visual"](IMAGES), rtol=0, atol=1e-5)
    assert set(found.unused) == {"logit_scale", "token_embedding.weight", "visual.proj"}
    assert any("OpenAI's have quick GELU" in line for line in found.told())


@torch.no_grad()
def test_a_pth_of_albef_gives_its_features(tmp_path):
    tower = shaken(PaperVit())
    state = {f"visual_encoder.{name}": value for name, value in tower.state_dict().items()} | {"text_encoder.cls.bias": torch.zeros(3)}
    torch.save({"model": state}, tmp_path / "albef.pth")
    found = foreign.read(tmp_path / "albef.pth")
    assert found.kind == "ALBEF" and found.unused == ("text_encoder.cls.bias",)
    torch.testing.assert_close(found.build().full(IMAGES).tokens_BTD, tower.tokens(IMAGES), rtol=0, atol=1e-5)
