"""Our MAE step is that of ``transformers``' ViTMAEForPreTraining: the loss and every gradient, in float64.

transformers builds ViTMAE with positions and tokens at zero and a norm epsilon of 1e-12; both are filled alike here,
else positions would not be tested at all.
"""

import pytest
import torch
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.objectives.pixels import Pixels
from mae_vlm.tokens.masking import Mask
from mae_vlm.types import Batch

DEPTH, DECODER_DEPTH, SIZE, PATCH = 3, 2, 32, 4
PATCHES = (SIZE // PATCH) ** 2


class FromNoise(Mask):
    """The ranking of given noise, for every key."""

    def __init__(self, ratio: float, noise_BN: torch.Tensor) -> None:
        super().__init__(ratio)
        self.noise_BN = noise_BN

    def scores(self, keys_B, space):
        return self.noise_BN


def name_pairs():
    """Ours to theirs, one to one, or one to (q, k, v)."""
    image, theirs = "towers.image.vit.", "vit."
    yield image + "cls_token", theirs + "embeddings.cls_token"
    yield image + "pos_embed", theirs + "embeddings.position_embeddings"
    yield "pixels.decoder.mask_token", "decoder.mask_token"
    yield "pixels.decoder.decoder_pos_embed", "decoder.decoder_pos_embed"
    leaves = {
        image + "patch_embed.proj": theirs + "embeddings.patch_embeddings.projection",
        image + "norm": theirs + "layernorm",
        "pixels.decoder.decoder_embed": "decoder.decoder_embed",
        "pixels.decoder.decoder_norm": "decoder.decoder_norm",
        "pixels.decoder.decoder_pred": "decoder.decoder_pred",
    }
    stacks = [(image + "blocks.", theirs + "layers.", DEPTH), ("pixels.decoder.decoder_blocks.", "decoder.decoder_layers.", DECODER_DEPTH)]
    inside = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.o_proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    for ours, other, depth in stacks:
        for block in range(depth):
            leaves |= {f"{ours}{block}.{a}": f"{other}{block}.{b}" for a, b in inside.items()}
            for kind in ("weight", "bias"):
                yield f"{ours}{block}.attn.qkv.{kind}", tuple(f"{other}{block}.attention.{x}_proj.{kind}" for x in "qkv")
    for ours, other in leaves.items():
        for kind in ("weight", "bias"):
            yield f"{ours}.{kind}", f"{other}.{kind}"


def as_ours(theirs: dict[str, torch.Tensor], name: str | tuple[str, ...]) -> torch.Tensor:
    return theirs[name] if isinstance(name, str) else torch.cat([theirs[part] for part in name])


def both(normalise: bool, ratio: float):
    torch.manual_seed(0)
    config = ViTMAEConfig(
        hidden_size=32, num_hidden_layers=DEPTH, num_attention_heads=4, intermediate_size=128, image_size=SIZE, patch_size=PATCH,
        decoder_hidden_size=16, decoder_num_hidden_layers=DECODER_DEPTH, decoder_num_attention_heads=2, decoder_intermediate_size=64,
        layer_norm_eps=1e-6, mask_ratio=ratio, norm_pix_loss=normalise, qkv_bias=True,
    )  # fmt: skip
    theirs = ViTMAEForPreTraining(config).double().train()
    for parameter in theirs.parameters():  # positions, tokens, biases and norms too
        parameter.requires_grad_(True)
        parameter.data.copy_(torch.randn(parameter.shape, dtype=torch.float64) * 0.3)
    towers = Towers(Vit(width=32, depth=DEPTH, heads=4, patch=PATCH, image_size=SIZE))
    pixels = Pixels(towers, width=16, depth=DECODER_DEPTH, heads=2, normalise=normalise)
    ours = torch.nn.ModuleDict({"towers": towers, "pixels": pixels}).double().train()
    mine, weights = dict(ours.named_parameters()), dict(theirs.named_parameters())
    pairs = dict(name_pairs())
    assert pairs.keys() == mine.keys(), "every weight of ours has its counterpart"
    assert {part for name in pairs.values() for part in ([name] if isinstance(name, str) else name)} == weights.keys(), "and of theirs"
    for name, other in pairs.items():
        mine[name].requires_grad_(True)
        mine[name].data.copy_(as_ours(weights, other))
    return ours, theirs, pairs


@pytest.mark.parametrize("ratio", [0.75, 0.4])
@pytest.mark.parametrize("normalise", [True, False], ids=["normalised targets", "plain targets"])
def test_loss_and_every_gradient_equal_those_of_transformers_in_float64(normalise, ratio, record_property):
    ours, theirs, pairs = both(normalise, ratio)
    images = torch.randint(0, 256, (3, 3, SIZE, SIZE), dtype=torch.uint8)
    noise_BN = torch.rand(3, PATCHES, dtype=torch.float64)
    batch = Batch(images, torch.arange(3), torch.ones(3, dtype=torch.bool), torch.full((3,), -1))

    features = Features(ours["towers"], batch, FromNoise(ratio, noise_BN))
    loss = ours["pixels"](features, batch).value
    loss.backward()
    reference = theirs(pixel_values=ours["towers"].image.normalise(images), noise=noise_BN)
    reference.loss.backward()

    assert loss.dtype == torch.float64
    assert torch.equal(features.masking.hidden_BN().double(), reference.mask.double())
    assert abs(loss.item() - reference.loss.item()) < 1e-12
    predicted_BNP = ours["pixels"].decoder(features.masked, features.masking)
    assert (predicted_BNP - reference.logits).abs().max() < 1e-10

    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    worst = 0.0
    for name, parameter in ours.named_parameters():
        expected = as_ours(gradients, pairs[name])
        assert expected.abs().max() > 1e-6, f"{name} takes no part in the loss, so this proves nothing"
        largest = expected.abs().max().item()
        difference = (parameter.grad - expected).abs().max().item()
        assert difference <= 1e-9 * min(1.0, largest), f"{name}: gradients of up to {largest:.3g} differ by {difference:.3g}"
        worst = max(worst, difference / largest)
    record_property("loss difference", abs(loss.item() - reference.loss.item()))
    record_property("largest gradient difference, relative", worst)


def test_the_comparison_notices_swapped_position_halves():
    """The proof above rests on positions: with rows and columns swapped the loss must differ."""
    ours, theirs, _ = both(True, 0.75)
    images = torch.randint(0, 256, (3, 3, SIZE, SIZE), dtype=torch.uint8)
    noise_BN = torch.rand(3, PATCHES, dtype=torch.float64)
    batch = Batch(images, torch.arange(3), torch.ones(3, dtype=torch.bool), torch.full((3,), -1))
    table = ours["towers"].image.vit.pos_embed
    table.data = torch.cat([table[..., 16:], table[..., :16]], dim=-1)
    loss = ours["pixels"](Features(ours["towers"], batch, FromNoise(0.75, noise_BN)), batch).value
    reference = theirs(pixel_values=ours["towers"].image.normalise(images), noise=noise_BN).loss
    assert abs(loss.item() - reference.item()) > 1e-6
