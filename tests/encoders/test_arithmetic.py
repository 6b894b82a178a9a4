"""The arithmetic that parts state of themselves is what torch counts."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mae_vlm.encoders.arithmetic import encoder_step
from mae_vlm.encoders.vit import Vit
from mae_vlm.learners.optim import AdamW
from mae_vlm.learners.pretrain import Pretrainer
from mae_vlm.objectives.base import Objective
from mae_vlm.objectives.pixels import Pixels
from mae_vlm.tokens.masking import RandomMask
from mae_vlm.types import Batch, Encoded, Loss

COUNT = 2
SMALL = {"width": 32, "depth": 2, "heads": 4, "patch": 4, "image_size": (16, 24)}
DECODER = {"width": 16, "depth": 1, "heads": 2}


class Whole(Objective):
    """Trains through the full view, with no weights of its own."""

    views = ("full",)

    def forward(self, features, batch):
        return Loss(features.full.tokens_BTD.square().mean())


class Both(Objective):
    views = ("masked", "full")

    def forward(self, features, batch):
        return Loss(features.full.tokens_BTD.square().mean() + features.masked.tokens_BTD.square().mean())


def counted(step) -> int:
    """Operations of ``step()`` and its backward pass, per picture."""
    plain = sdpa_kernel(SDPBackend.MATH)  # fused attention computes its scores again backward, which is no arithmetic of the model
    with FlopCounterMode(display=False) as counter, plain:
        step().backward()
    return counter.get_total_flops() // COUNT


def a_learner(sizes=SMALL, ratio=0.75, **objectives) -> Pretrainer:
    return Pretrainer(Vit(**sizes), RandomMask(ratio), objectives or {"pixels": partial(Pixels, **DECODER)}, AdamW())


def a_batch(learner: Pretrainer) -> Batch:
    space = learner.towers.image.space
    images = torch.zeros(COUNT, space.channels, space.height, space.width, dtype=torch.uint8)
    keys_B = torch.arange(COUNT)
    return Batch(images, keys_B, torch.ones(COUNT, dtype=torch.bool), keys_B)


def whole_step(learner: Pretrainer) -> int:
    batch = a_batch(learner)
    return counted(lambda: learner.training_step(batch, 0))


@pytest.mark.parametrize(
    "sizes, ratio",
    [
        (SMALL, 0.75),
        (SMALL, 0.5),
        (SMALL | {"image_size": 32, "channels": 1}, 0.9),
        (SMALL | {"class_tokens": 4, "registers": 2}, 0.75),
        (SMALL | {"class_tokens": 0, "mlp_ratio": 2.5}, 0.6),
        ({"name": "vit_tiny_patch16_224", "image_size": (64, 96)}, 0.75),
        ({"name": "eva02_tiny_patch14_224", "image_size": 56}, 0.75),  # rotary positions and SwiGLU
        ({"name": "vit_small_patch16_dinov3", "image_size": 64}, 0.5),
    ],
    ids=str,
)
def test_a_step_of_any_encoder_is_what_is_stated(sizes, ratio):
    learner = a_learner(sizes, ratio)
    assert learner.flops_per_image() == whole_step(learner)


@pytest.mark.parametrize("decoder", [DECODER, {"width": 64, "depth": 0, "heads": 4}, {"width": 48, "depth": 3, "heads": 6}], ids=str)
def test_the_pixel_objective_states_what_its_decoder_does(decoder):
    learner = a_learner(pixels=partial(Pixels, **decoder))
    features = learner.features(a_batch(learner))
    encoded = features.masked
    tokens = Encoded(encoded.tokens_BTD.detach().requires_grad_(), encoded.prefix)  # the encoder's own pass stays outside
    vars(features)["masked"] = tokens
    own = counted(lambda: learner.objectives["pixels"](features, features.batch).value)
    assert learner.objectives["pixels"].flops_per_image(visible=6) == own > 0


@pytest.mark.parametrize(
    "objectives",
    [
        {"pixels": partial(Pixels, **DECODER), "raw": partial(Pixels, normalise=False, **DECODER)},
        {"whole": Whole},
        {"pixels": partial(Pixels, **DECODER), "whole": Whole},
        {"both": Both, "whole": Whole},
    ],
    ids=lambda objectives: "+".join(objectives),
)
def test_passes_that_objectives_share_are_counted_once(objectives):
    learner = a_learner(**objectives)
    assert learner.flops_per_image() == whole_step(learner)


def test_objectives_train_through_the_views_that_they_name():
    for build in (partial(Pixels, **DECODER), Whole, Both):
        learner = a_learner(one=build)
        features = learner.features(a_batch(learner))
        learner._losses(features)
        assert {"masked", "full"} & vars(features).keys() == set(learner.objectives["one"].views)


def test_activation_checkpointing_is_no_arithmetic_of_the_model():
    learner = a_learner()
    stated = learner.flops_per_image()
    learner.towers.image.vit.set_grad_checkpointing(True)
    assert learner.flops_per_image() == stated


def test_the_papers_vit_base_is_58_gflop_per_picture():
    with torch.device("meta"):
        learner = a_learner({"name": "vit_base_patch16_224"}, 0.75, pixels=Pixels)
    assert encoder_step(learner.towers.image, 49) / 1e9 == pytest.approx(3 * 8.586 + 2 * 49 * 768 * 768 * 2 / 1e9, rel=1e-3)
    assert learner.flops_per_image() / 1e9 == pytest.approx(58.0, abs=0.5)
