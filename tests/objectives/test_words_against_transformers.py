"""With copied weights, losses and scores are those of transformers' models, to 1e-5. What differs by design is named in each test."""

from __future__ import annotations

import tempfile

import torch
import transformers
from captioned import a_batch, an_image, vocabulary_file
from torch.nn import functional

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.fusion.cross import CrossAttention
from mae_vlm.encoders.fusion.early import Early
from mae_vlm.encoders.joint import Embedded
from mae_vlm.encoders.text.transformer import Transformer
from mae_vlm.encoders.towers import Towers
from mae_vlm.objectives.image_text import SigmoidContrast, SoftmaxContrast
from mae_vlm.objectives.masked_language import MaskedLanguage
from mae_vlm.objectives.matching import Matching
from mae_vlm.pairing.pairs import pairs
from mae_vlm.types import Encoded

TOLD = [("a red square",), ("a large blue circle on the left",), ("two green stars",), ("a ring",)]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128, "max_position_embeddings": 16}
VISION = {name: size for name, size in SIZES.items() if not name.startswith("max")} | {"image_size": 32, "patch_size": 8}


def a_text(model_type: str, **more) -> Transformer:
    with tempfile.TemporaryDirectory() as place:
        return Transformer(vocabulary=vocabulary_file(place), length=16, config={"model_type": model_type, **SIZES, **more})


def random_weights(model):
    """Of some size, that a wrong one shows."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape) * 0.2 if weight.ndim else weight)
    return model.eval()


def test_softmax_contrast_is_clips_loss():
    """Ours pools a picture as the mean of its patches: here it gets CLIP's own pictures. The text tower and all after it are compared."""
    numbers = {"vocab_size": 80, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    text = a_text("clip_text_model", **numbers)
    assert (text.vocabulary.pad, text.vocabulary.begin, text.vocabulary.end) == (0, 2, 3)
    clip = random_weights(
        transformers.CLIPModel(transformers.CLIPConfig(text_config={**SIZES, **numbers}, vision_config=VISION, projection_dim=24))
    )
    text.model.load_state_dict(clip.text_model.state_dict())
    house = Towers(an_image(), text)
    objective = SoftmaxContrast(house, width=24, pool="end").eval()
    house.eval()
    with torch.no_grad():
        house.joint.text.weight.copy_(clip.text_projection.weight)
        objective.log_scale.copy_(clip.logit_scale)
    features = Features(house, a_batch(TOLD))
    words = features.words
    theirs = clip(input_ids=words.ids_BT, attention_mask=words.real_BT.long(), pixel_values=features.images_BCHW, return_loss=True)
    ours = Embedded(theirs.image_embeds, house.joint.of_text(features.text))
    assert torch.allclose(ours.text_BE, theirs.text_embeds, atol=1e-5)
    loss = objective.contrast(ours, pairs(features), features) / len(TOLD)
    assert theirs.loss > 0.5 and abs(float(loss - theirs.loss)) < 1e-5


def test_sigmoid_contrast_is_siglips_loss():
    """SigLIP pads every text to 64 tokens without a mask and pools the last one, its pictures by attention: its embeddings are taken."""
    model = random_weights(
        transformers.SiglipModel(
            transformers.SiglipConfig(text_config={**SIZES, "vocab_size": 99, "projection_size": 32}, vision_config=VISION)
        )
    )
    batch = a_batch(TOLD)
    house = Towers(an_image(), a_text("bert")).eval()
    objective = SigmoidContrast(house, width=32)
    with torch.no_grad():
        model.logit_scale.copy_(torch.tensor([1.5]))
        model.logit_bias.copy_(torch.tensor([-1.0]))
        objective.log_scale.copy_(model.logit_scale[0])
        objective.bias.copy_(model.logit_bias[0])
    features = Features(house, batch)
    ids = torch.randint(0, 99, (4, 16), generator=torch.Generator().manual_seed(0))
    theirs = model(input_ids=ids, pixel_values=features.images_BCHW, return_loss=True)
    loss = objective.contrast(Embedded(theirs.image_embeds, theirs.text_embeds), pairs(features), features) / len(TOLD)
    assert theirs.loss > 0.5 and abs(float(loss - theirs.loss)) < 1e-5


def test_masked_language_without_the_picture_is_berts_loss():
    """Nothing differs but the choice of masked words, which both get from here."""
    text = a_text("bert")
    bert = random_weights(transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=len(text.vocabulary), **SIZES)))
    text.model.load_state_dict(bert.bert.state_dict())
    house = Towers(an_image(), text).eval()
    objective = MaskedLanguage(house, share=0.4, picture=False).eval()
    told = bert.cls.predictions
    objective.head.load_state_dict(
        {f"dense.{name}": value for name, value in told.transform.dense.state_dict().items()}
        | {f"norm.{name}": value for name, value in told.transform.LayerNorm.state_dict().items()}
        | {"bias": told.bias}
    )
    features = Features(house, a_batch(TOLD))
    loss, masked = objective(features, features.batch), objective._masked(features)
    labels = torch.full_like(features.words.ids_BT, -100)
    labels.scatter_(1, masked.slots_BS, masked.truth_BS.where(masked.hidden_BS, -100))
    theirs = bert(input_ids=masked.words.ids_BT, attention_mask=masked.words.real_BT.long(), labels=labels)
    assert int((labels >= 0).sum()) == int(objective.counts(features)["cross_entropy"]) > 4
    assert theirs.loss > 0.5 and abs(float(loss.value - theirs.loss)) < 1e-5


def test_matching_scores_are_blips():
    """Ours has a linear layer from the picture's width to the text's, BLIP none; BERT's embeddings add a text type, BLIP's none."""
    text = a_text("bert", num_hidden_layers=0)
    numbers = {"vocab_size": len(text.vocabulary), "encoder_hidden_size": 32, "layer_norm_eps": 1e-12}
    blip = random_weights(
        transformers.BlipForImageTextRetrieval(transformers.BlipConfig(text_config={**SIZES, **numbers}, vision_config=VISION))
    )
    house = Towers(an_image(width=32), text, lambda towers: CrossAttention(towers, depth=2, heads=2)).eval()
    objective = Matching(house).eval()
    missing = text.model.embeddings.load_state_dict(blip.text_encoder.embeddings.state_dict(), strict=False)
    assert missing.missing_keys == ["token_type_embeddings.weight"] and not missing.unexpected_keys
    house.fusion.layers.load_state_dict(blip.text_encoder.encoder.state_dict())
    objective.head.load_state_dict(blip.itm_head.state_dict())
    with torch.no_grad():
        text.model.embeddings.token_type_embeddings.weight.zero_()
        house.fusion.picture.weight.copy_(torch.eye(32))
        house.fusion.picture.bias.zero_()
    features = Features(house, a_batch(TOLD))
    words = features.words
    theirs = blip(input_ids=words.ids_BT, attention_mask=words.real_BT.long(), pixel_values=features.images_BCHW)
    fused = features.fuse(features.text, Encoded(theirs.last_hidden_state, 1))
    real = words.real_BT[..., None]
    assert torch.allclose(fused.tokens_BTD * real, theirs.question_embeds * real, atol=1e-5)
    assert theirs.itm_score.std() > 0.1 and torch.allclose(objective.head(fused.pooled_BD), theirs.itm_score, atol=1e-5)
    alike = Features(house, a_batch([TOLD[0]] * 4))  # no pair has a wrong one: only right ones count
    alike.seen = Encoded(theirs.last_hidden_state, 1)
    words = alike.words
    theirs = blip(input_ids=words.ids_BT, attention_mask=words.real_BT.long(), pixel_values=features.images_BCHW)
    wanted = functional.cross_entropy(theirs.itm_score, torch.ones(4, dtype=torch.int64))
    assert abs(float(objective(alike, alike.batch).value - wanted)) < 1e-5


def vilt_weights(model) -> dict[str, torch.Tensor]:
    """ViLT's weights under timm's names."""
    state, found = model.state_dict(), {}
    for name in ("weight", "bias"):
        found[f"patch_embed.proj.{name}"] = state[f"embeddings.patch_embeddings.projection.{name}"]
        found[f"norm.{name}"] = state[f"layernorm.{name}"]
        for number in range(2):
            layer, block = f"encoder.layer.{number}", f"blocks.{number}"
            own = [state[f"{layer}.attention.attention.{part}.{name}"] for part in ("query", "key", "value")]
            found |= {
                f"{block}.attn.qkv.{name}": torch.cat(own),
                f"{block}.attn.proj.{name}": state[f"{layer}.attention.output.dense.{name}"],
                f"{block}.mlp.fc1.{name}": state[f"{layer}.intermediate.dense.{name}"],
                f"{block}.mlp.fc2.{name}": state[f"{layer}.output.dense.{name}"],
                f"{block}.norm1.{name}": state[f"{layer}.layernorm_before.{name}"],
                f"{block}.norm2.{name}": state[f"{layer}.layernorm_after.{name}"],
            }
    return found | {"cls_token": state["embeddings.cls_token"], "pos_embed": state["embeddings.position_embeddings"]}


def test_the_single_stream_is_vilts():
    """ViLT pools by a linear layer and tanh, which is left to the heads here; its patches come in an order drawn anew at every call."""
    text = a_text("bert", num_hidden_layers=0, layer_norm_eps=1e-6)
    config = transformers.ViltConfig(
        vocab_size=len(text.vocabulary), image_size=32, patch_size=8, layer_norm_eps=1e-6, max_image_length=-1, **SIZES
    )
    vilt = random_weights(transformers.ViltModel(config))
    text.model.embeddings.load_state_dict(vilt.embeddings.text_embeddings.state_dict())
    house = Towers(an_image(width=32, positions="learned"), text, Early).eval()
    house.image.vit.load_state_dict(vilt_weights(vilt))
    house.fusion.marks.load_state_dict(vilt.embeddings.token_type_embeddings.state_dict())
    features = Features(house, a_batch(TOLD))
    words = features.words
    theirs = vilt(input_ids=words.ids_BT, attention_mask=words.real_BT.long(), pixel_values=features.images_BCHW).last_hidden_state
    fused, across = features.fused, words.ids_BT.shape[1]
    real = words.real_BT[..., None]
    assert theirs.std() > 0.1 and torch.allclose(fused.tokens_BTD * real, theirs[:, :across] * real, atol=1e-5)
    in_order = [
        patches_BND.gather(1, patches_BND[..., :1].argsort(1).expand_as(patches_BND))
        for patches_BND in (fused.patches_BND, theirs[:, across + 1 :])
    ]
    assert torch.allclose(*in_order, atol=1e-5)
