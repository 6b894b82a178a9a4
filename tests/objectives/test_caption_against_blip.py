"""The captioning loss is that of transformers' BLIP with the same weights.

Design differences: our text tower is BERT's, whose embeddings also have a token type (zero here), and has layers of its own before the
first that looks at the picture (none here), where BLIP's looks at it in every layer; the picture's tokens go through a linear layer into
the text's width (the identity here); and validation does not smooth.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from captioned import a_batch, a_text, an_image
from transformers import BlipTextConfig
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.fusion.cross import CrossAttention
from mae_vlm.encoders.towers import Towers
from mae_vlm.objectives.caption import Caption

LAYERS = 2


def theirs(vocabulary) -> BlipTextLMHeadModel:
    config = BlipTextConfig(
        vocab_size=len(vocabulary), hidden_size=16, encoder_hidden_size=16, intermediate_size=64, num_hidden_layers=LAYERS,
        num_attention_heads=2, max_position_embeddings=24, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, hidden_act="gelu",
        pad_token_id=vocabulary.pad, bos_token_id=vocabulary.begin, eos_token_id=vocabulary.end, sep_token_id=vocabulary.end,
        label_smoothing=0.1,
    )  # fmt: skip
    return BlipTextLMHeadModel(config)


def copied(blip, towers: Towers, objective: Caption) -> None:
    """BLIP's weights into ours, all of them."""
    state = {name: value for name, value in blip.state_dict().items() if "decoder" not in name}
    embeddings = {name.removeprefix("bert.embeddings."): value for name, value in state.items() if name.startswith("bert.embeddings.")}
    layers = {name.removeprefix("bert.encoder."): value for name, value in state.items() if name.startswith("bert.encoder.")}
    words = towers.told_text().model.embeddings
    missing, unexpected = words.load_state_dict(embeddings, strict=False)
    assert missing == ["token_type_embeddings.weight"] and not unexpected
    towers.told_fusion().layers.load_state_dict(layers)
    last = {
        "cls.predictions.transform.dense": objective.captioning.head.dense,
        "cls.predictions.transform.LayerNorm": objective.captioning.head.norm,
    }
    with torch.no_grad():
        words.token_type_embeddings.weight.zero_()
        towers.told_fusion().picture.weight.copy_(torch.eye(16))
        towers.told_fusion().picture.bias.zero_()
        objective.captioning.head.bias.copy_(state["cls.predictions.bias"])
        for name, layer in last.items():
            layer.weight.copy_(state[f"{name}.weight"])
            layer.bias.copy_(state[f"{name}.bias"])


@pytest.mark.parametrize("prompt", ["", "a picture of"])
def test_loss_and_gradient_of_the_words_are_blips(prompt):
    torch.manual_seed(0)
    towers = Towers(an_image(), a_text(depth=0), partial(CrossAttention, depth=LAYERS, heads=2))
    objective = Caption(towers, prompt=prompt)
    blip = theirs(towers.told_text().vocabulary)
    with torch.no_grad():
        for weight in blip.parameters():
            weight += 0.1 * torch.randn(weight.shape)
    copied(blip, towers, objective)
    towers.train(), objective.train(), blip.train()
    features = Features(towers, a_batch([("a red square",), ("two green stars and a ring",), ("a cross", "one yellow cross")]))
    told = objective.captioning.told(features.texts, torch.device("cpu"))
    labels_BT = told.words.ids_BT.masked_fill(~told.words.real_BT, -100)
    labels_BT[:, : objective.captioning.begins] = -100  # as BlipForConditionalGeneration's caller does with a prompt
    found = objective(features, features.batch).value
    expected = blip(
        input_ids=told.words.ids_BT,
        attention_mask=told.words.real_BT.long(),
        encoder_hidden_states=features.full.tokens_BTD,
        labels=labels_BT,
    ).loss
    assert (labels_BT[:, 1:] >= 0).sum() == told.counts_BS.sum() > 5
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    ours = torch.autograd.grad(found, towers.told_text().word_table.weight, retain_graph=True)[0]
    their = torch.autograd.grad(expected, blip.bert.embeddings.word_embeddings.weight, retain_graph=True)[0]
    pad = towers.told_text().vocabulary.pad
    ours[pad] = their[pad] = 0  # the output layer's part of it, which torch leaves out of neither; the input's is left out of both
    torch.testing.assert_close(ours, their, rtol=0, atol=1e-5)
