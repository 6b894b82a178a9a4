"""Promises of the image towers that are no plain ViT: a CNN, a ViT behind a convolutional stem, and both side by side."""

from __future__ import annotations

import pytest
import timm
import torch
from captioned import CAPTIONS, a_batch, a_text
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mae_vlm.encoders.arithmetic import encoder_step
from mae_vlm.encoders.cnn import Cnn
from mae_vlm.encoders.feature_colours import colour_pictures
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.fusion.early import Early
from mae_vlm.encoders.hybrid import Hybrid
from mae_vlm.encoders.image import ImageTower
from mae_vlm.encoders.intermediate import block_means
from mae_vlm.encoders.stemmed import StemmedVit
from mae_vlm.encoders.teacher import copied, follow
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.heads.classify import Classify
from mae_vlm.heads.segment import Segment
from mae_vlm.learners.finetune import Finetuner
from mae_vlm.learners.optim import AdamW, parameter_groups
from mae_vlm.learners.pretrain import Pretrainer
from mae_vlm.objectives.image_text import SoftmaxContrast
from mae_vlm.objectives.pixels import Pixels
from mae_vlm.tokens.masking import RandomMask

SIZES = {"width": 16, "depth": 2, "heads": 2, "patch": 8, "image_size": 64}
TOWERS = {
    "cnn": lambda: Cnn("resnet10t", 64),
    "cnn with a norm behind its map": lambda: Cnn("convnext_atto", 64),
    "cnn that ends early": lambda: Cnn("resnet10t", 64, stride=8),
    "stem": lambda: StemmedVit(**SIZES),
    "timm's hybrid": lambda: StemmedVit("vit_tiny_r_s16_p8_224", image_size=64),
    "side by side": lambda: Hybrid("resnet10t", **SIZES, joined=24),
}
GRIDS = {"cnn": 2, "cnn with a norm behind its map": 2, "cnn that ends early": 8, "stem": 8, "timm's hybrid": 2, "side by side": 8}
with_each = pytest.mark.parametrize("name", TOWERS)


def a_tower(name: str) -> ImageTower:
    torch.manual_seed(0)
    return TOWERS[name]()


def pictures(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@with_each
def test_a_token_stands_for_each_patch_of_the_grid(name):
    tower = a_tower(name).eval()
    found, side = tower.full(pictures()), GRIDS[name]
    assert (tower.space.rows, tower.space.columns, tower.space.patch) == (side, side, 64 // side)
    assert found.patches_BND.shape == found.unnormed_BND.shape == (2, side * side, tower.width)
    assert found.prefix == tower.prefix and found.tokens_BTD.shape[1] == tower.prefix + side * side


def test_a_cnn_gives_what_timm_gives_row_by_row():
    tower = a_tower("cnn").eval()
    theirs = timm.create_model("resnet10t", num_classes=0).eval()
    theirs.load_state_dict(tower.cnn.state_dict())
    map_BDhw = theirs.forward_features(pictures())
    assert torch.allclose(tower.full(pictures()).patches_BND[:, 1], map_BDhw[:, :, 0, 1], atol=1e-6)
    assert torch.allclose(tower.full(pictures()).patches_BND.mean(1), theirs(pictures()), atol=1e-6)


@pytest.mark.parametrize("network", ["resnet10t", "convnext_atto", "efficientnet_b0", "mobilenetv3_small_050"])
def test_a_cnn_that_ends_early_gives_timms_map_of_that_stride(network):
    torch.manual_seed(0)
    tower = Cnn(network, 64, stride=8).eval()
    theirs = timm.create_model(network).eval()
    assert not theirs.load_state_dict(tower.cnn.state_dict(), strict=False).unexpected_keys
    found = [map_BDhw for map_BDhw in theirs.forward_intermediates(pictures(), intermediates_only=True) if map_BDhw.shape[-1] == 8][-1]
    assert torch.allclose(tower.full(pictures()).patches_BND, found.flatten(2).transpose(1, 2), atol=1e-6)
    assert tower.width == found.shape[1]


def test_a_hybrid_of_timm_gives_what_timm_gives():
    tower = a_tower("timm's hybrid").eval()
    theirs = timm.create_model("vit_tiny_r_s16_p8_224", num_classes=0, img_size=64).eval()
    theirs.load_state_dict(tower.vit.state_dict())
    assert torch.allclose(tower.full(pictures()).tokens_BTD, theirs.forward_features(pictures()), atol=1e-6)


def test_side_by_side_both_are_seen_at_their_place():
    tower = a_tower("side by side").eval()
    with torch.no_grad():
        tower.project.weight[:, : tower.transformer.width] = 0  # the CNN alone
    whole, there = pictures(1), pictures(1).clone()
    there[..., :32, :32] += 3
    moved_N = (tower.full(there).unnormed_BND - tower.full(whole).unnormed_BND)[0].norm(dim=-1).view(8, 8)
    assert moved_N[:4, :4].mean() > 1.2 * moved_N[4:, 4:].mean() > 0


@with_each
def test_every_weight_that_is_trained_has_a_gradient(name):
    tower = a_tower(name).train()
    (tower.full(pictures()).tokens_BTD * torch.randn(tower.width)).square().sum().backward()
    assert not [weight for weight, value in tower.named_parameters() if value.requires_grad and value.grad is None]


@with_each
def test_arithmetic_is_what_torch_counts(name):
    tower = a_tower(name).eval()
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # fused attention is not counted everywhere
        tower.full(pictures(1))
    forward = counter.get_total_flops()
    assert tower.flops(tower.space.patches) == pytest.approx(forward, rel=1e-9)
    assert encoder_step(tower, tower.space.patches) == 3 * tower.flops(tower.space.patches) - tower.first_flops(tower.space.patches)


def test_a_tower_is_built_without_moving_what_its_norms_measure():
    assert all(not value.any() for name, value in a_tower("cnn").named_buffers() if name.endswith(("running_mean", "num_batches_tracked")))
    assert a_tower("cnn").training


@with_each
def test_probes_and_colours_look_at_it(name):
    tower = a_tower(name).eval()
    means_LBD = block_means(tower, pictures())
    assert means_LBD.shape == (2 if name == "stem" else len(means_LBD), 2, tower.width)
    assert torch.allclose(means_LBD[-1], tower.full(pictures()).patches_BND.mean(1), atol=1e-6)
    assert colour_pictures(tower, pictures(4)).isfinite().all()


@with_each
def test_what_hides_patches_is_refused_when_it_is_built(name):
    parts = {"pixels": lambda towers: Pixels(towers, width=16, depth=1)}
    with pytest.raises(ValueError, match=r"objective pixels looks at the visible patches alone, which .* cannot") as told:
        Pretrainer(a_tower(name), RandomMask(0.5), parts, AdamW())
    assert "\n" not in str(told.value)
    masked = {"image_text": lambda towers: SoftmaxContrast(towers, width=8, view="masked")}
    with pytest.raises(ValueError, match="give it view full"):
        Pretrainer(a_tower(name), RandomMask(0.5), masked, AdamW(), text=a_text())


@with_each
def test_a_contrast_trains_through_it(name):
    contrast = {"image_text": lambda towers: SoftmaxContrast(towers, width=8)}
    learner = Pretrainer(a_tower(name), RandomMask(0.5), contrast, AdamW(), text=a_text())
    batch = a_batch(CAPTIONS[:6], side=64)
    found = learner.objectives["image_text"](learner.features(batch), batch)
    found.value.backward()
    assert found.value.isfinite() and learner.flops_per_image() > 0
    assert not [weight for weight, value in learner.named_parameters() if value.requires_grad and value.grad is None]


def test_batch_norm_in_chunks_is_refused():
    contrast = {"image_text": lambda towers: SoftmaxContrast(towers, width=8)}
    with pytest.raises(ValueError, match="normalises over a batch"):
        Pretrainer(a_tower("cnn"), RandomMask(0.5), contrast, AdamW(), text=a_text(), chunks=2)
    assert Pretrainer(a_tower("stem"), RandomMask(0.5), contrast, AdamW(), text=a_text(), chunks=2).chunks == 2


@pytest.mark.parametrize("name", ["cnn", "side by side"])
def test_heads_that_look_into_blocks_refuse_it_in_one_line(name):
    for part in (lambda towers: Segment(towers, classes=["a", "b"]), Early):
        with pytest.raises(ValueError, match=r"needs a plain ViT, .* is none: set model.encoder to Vit") as told:
            part(Towers(a_tower(name), a_text()))
        assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match="needs a plain ViT"):
        Finetuner(a_tower(name), {"classify": lambda towers: Classify(towers, classes=2)}, AdamW(), freeze=1)


@with_each
@pytest.mark.parametrize("freeze", ["none", "all"])
def test_a_classifier_stands_on_it(name, freeze):
    learner = Finetuner(a_tower(name), {"classify": lambda towers: Classify(towers, classes=3)}, AdamW(), freeze=freeze)
    learner.train()
    answer = learner.heads["classify"](Features(learner.towers, a_batch(side=64)))
    answer["logits"].square().sum().backward()
    waiting = [weight for weight, value in learner.named_parameters() if value.requires_grad and value.grad is None]
    assert not waiting and any(value.requires_grad for value in learner.towers.parameters()) == (freeze == "none")


@with_each
def test_lower_layers_learn_less_and_none_more(name):
    groups = parameter_groups(torch.nn.ModuleDict({"image": a_tower(name)}), 0.05, 0.5)
    scales = sorted({group["lr_scale"] for group in groups if group["params"]})
    assert scales[0] < scales[-1] and scales[-1] in (1.0, 0.5)  # half, where the topmost layer is a norm that nobody looks at


def test_a_teacher_has_the_running_means_of_those_it_follows():
    towers = Towers(a_tower("cnn"))
    teacher = copied(towers)
    towers.train()
    towers.image.full(pictures(4))
    follow(teacher, towers, 0.9)
    assert torch.equal(teacher.image.cnn.bn1.running_mean, towers.image.cnn.bn1.running_mean)
    assert teacher.image.cnn.bn1.running_mean.any()


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Cnn("resnet5"), "timm has no model named 'resnet5'; did you mean"),
        (lambda: Cnn("resnet10t", 48), "image height 48 is not a multiple of the patch 32"),
        (lambda: Cnn("vit_tiny_patch16_224"), "is no CNN that tells its stride"),
        (lambda: Cnn("swin_tiny_patch4_window7_224", 64), "does not take 64 x 64 pixels"),
        (lambda: Cnn("swin_tiny_patch4_window7_224", 224), "choose a CNN such as resnet50"),
        (lambda: Cnn("resnet10t", 64, stride=6), "stride 6 given, the maps of resnet10t have 2, 4, 8, 16, 32"),
        (lambda: Cnn("resnet10t", 64, drop_path=1.0), "drop_path 1.0 given"),
        (lambda: Cnn("resnet10t", 64, mean=[0.5]), "mean has 1 values, the pictures have 3 channels"),
        (lambda: StemmedVit("resnet10t", image_size=64), "timm cannot build resnet10t as a hybrid"),
        (lambda: StemmedVit("vit_tiny_patch16_224"), "vit_tiny_patch16_224 is no ViT behind a CNN"),
        (lambda: StemmedVit(patch=12, image_size=48), "patch 12 given, a stem of stride 2 convolutions makes"),
        (lambda: StemmedVit(class_tokens=2), "class_tokens 2 given"),
        (lambda: StemmedVit(width=15, heads=2), "width 15, depth 11, heads 2 given"),
        (lambda: Hybrid("resnet10t", **SIZES, joined=0), "joined 0 given"),
        (lambda: Hybrid("resnet5", **SIZES), "timm has no model named 'resnet5'"),
    ],
)
def test_wrong_options_are_told_in_one_line(build, says):
    with pytest.raises(ValueError, match=says) as told:
        build()
    assert "\n" not in str(told.value)


def test_a_plain_vit_follows_the_same_contract():
    assert issubclass(Vit, ImageTower) and Vit(**SIZES).masks and Vit(**SIZES).last_norm is not None
