"""Our query detector is ``transformers``' LwDetrForObjectDetection: logits, boxes, loss and gradients.

Differences of design, bridged here: theirs has batch norms in the projector and none before it, where ours has norms over channels (theirs
are exchanged for its own LayerNorm); its encoder has layer scales, keys without a bias and no class token (ours is built so, its biases of
the keys 0); it adds 1e-8 to probabilities before their logarithm; it counts all objects, ours at most as many as there are queries.
Our losses are float32, which the tolerances allow for.
"""

from __future__ import annotations

import pytest
import timm
import torch
from transformers import LwDetrConfig, LwDetrForObjectDetection
from transformers.models.lw_detr.modeling_lw_detr import LwDetrLayerNorm

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.heads.queries import Queries
from mae_vlm.types import Batch, Frame, Target

DEPTH, SIZE, PATCH, WIDTH, QUERIES, CLASSES, LAYERS, F = 4, 32, 4, 24, 6, 5, 2, 16
TAPS, WHOLE = (1, 2, 3), (1, 3)


def name_pairs(groups: int):
    """Ours to theirs, one to one, or one to several behind each other; where theirs has none there are zeros."""
    image, encoder = "towers.image.vit.", "model.backbone.backbone."
    leaves = {image + "patch_embed.proj": encoder + "embeddings.projection"}
    inside = {"norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.o_proj"}
    inside |= {"mlp.fc1": "intermediate.fc1", "mlp.fc2": "intermediate.fc2"}
    for block in range(DEPTH):
        leaves |= {f"{image}blocks.{block}.{ours}": f"{encoder}encoder.layer.{block}.{theirs}" for ours, theirs in inside.items()}
        for number in (1, 2):
            yield f"{image}blocks.{block}.ls{number}.gamma", f"{encoder}encoder.layer.{block}.gamma_{number}"
        for kind in ("weight", "bias"):
            yield (
                f"{image}blocks.{block}.attn.qkv.{kind}",
                tuple(f"{encoder}encoder.layer.{block}.attention.{x}_proj.{kind}" for x in "qkv"),
            )
    projector = "model.backbone.projector.scale_layers.0."
    leaves |= {f"head.project.norms.{number}": f"{projector}sampling_layers.{number}.layers.0" for number in range(len(TAPS))}
    leaves |= {"head.project.norm": projector + "layer_norm"}
    convolved = {"narrow": "conv1", "merge": "conv2"}
    convolved |= {f"pairs.{pair}.{k}": f"bottlenecks.{pair}.conv{k + 1}" for pair in range(3) for k in range(2)}
    for ours, theirs in convolved.items():
        yield f"head.project.merge.{ours}.0.weight", f"{projector}projector_layer.{theirs}.conv.weight"
        leaves |= {f"head.project.merge.{ours}.1": f"{projector}projector_layer.{theirs}.norm"}
    for group in range(groups):
        leaves |= {
            f"head.propose.{group}.look.0": f"model.enc_output.{group}",
            f"head.propose.{group}.look.1": f"model.enc_output_norm.{group}",
        }
        leaves |= {f"head.propose.{group}.classes": f"model.enc_out_class_embed.{group}"}
        leaves |= {f"head.propose.{group}.boxes.{2 * k}": f"model.enc_out_bbox_embed.{group}.layers.{k}" for k in range(3)}
    yield "head.content", "model.query_feat.weight"
    yield "head.shift", "model.reference_point_embed.weight"
    leaves |= {f"head.decode.position.{2 * k}": f"model.decoder.ref_point_head.layers.{k}" for k in range(2)}
    leaves |= {"head.decode.norm": "model.decoder.layernorm", "head.classify": "class_embed"}
    leaves |= {f"head.place.{2 * k}": f"bbox_embed.layers.{k}" for k in range(3)}
    parts = {"others.value": "self_attn.v_proj", "others.out": "self_attn.o_proj", "mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2"}
    parts |= {"places.offsets": "cross_attn.sampling_offsets", "places.weights": "cross_attn.attention_weights"}
    parts |= {"places.values": "cross_attn.value_proj", "places.out": "cross_attn.output_proj"}
    parts |= {f"norms.{number}": name for number, name in enumerate(("self_attn_layer_norm", "cross_attn_layer_norm", "layer_norm"))}
    for layer in range(LAYERS):
        leaves |= {f"head.decode.layers.{layer}.{ours}": f"model.decoder.layers.{layer}.{theirs}" for ours, theirs in parts.items()}
        for kind in ("weight", "bias"):
            both = tuple(f"model.decoder.layers.{layer}.self_attn.{x}_proj.{kind}" for x in "qk")
            yield f"head.decode.layers.{layer}.others.query_key.{kind}", both
    for ours, theirs in leaves.items():
        for kind in ("weight", "bias"):
            yield f"{ours}.{kind}", f"{theirs}.{kind}"


def as_ours(theirs: dict[str, torch.Tensor], name: str | tuple[str, ...]) -> torch.Tensor:
    if isinstance(name, str):
        return theirs[name]
    return torch.cat([theirs[part] if part in theirs else torch.zeros(WIDTH, dtype=torch.float64) for part in name])


def with_channel_norms(theirs: torch.nn.Module) -> None:
    """Their own norm over channels in place of batch norms, as in RF-DETR, and one for each tapped map."""
    for module in theirs.modules():
        if isinstance(getattr(module, "norm", None), torch.nn.BatchNorm2d):
            module.norm = LwDetrLayerNorm(module.norm.num_features, data_format="channels_first")
    for sampling in theirs.model.backbone.projector.scale_layers[0].sampling_layers:
        sampling.layers.append(LwDetrLayerNorm(WIDTH, data_format="channels_first"))


def both(groups: int = 1, windows: int = 2):
    torch.manual_seed(0)
    encoder_config = {
        "model_type": "lw_detr_vit", "hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": 4, "image_size": SIZE,
        "pretrain_image_size": SIZE, "patch_size": PATCH, "num_windows": windows**2, "out_indices": [tap + 1 for tap in TAPS],
        "window_block_indices": [block for block in range(DEPTH) if block not in WHOLE],
    }  # fmt: skip
    config = LwDetrConfig(
        backbone_config=encoder_config, projector_scale_factors=[1.0], d_model=F, decoder_ffn_dim=40, decoder_n_points=2,
        decoder_layers=LAYERS, decoder_self_attention_heads=2, decoder_cross_attention_heads=4, num_queries=QUERIES, group_detr=groups,
        num_labels=CLASSES,
    )  # fmt: skip
    theirs = LwDetrForObjectDetection(config)
    with_channel_norms(theirs)
    theirs = theirs.double()
    for parameter in theirs.parameters():  # layer scales, positions, biases and norms too
        parameter.data.copy_(torch.randn(parameter.shape, dtype=torch.float64) * 0.3)
    encoder = Vit(width=WIDTH, depth=DEPTH, heads=4, patch=PATCH, image_size=SIZE, class_tokens=0, positions="learned")
    encoder.vit = timm.create_model(encoder.architecture, **encoder.model_args | {"init_values": 1.0})
    towers = Towers(encoder)
    head = Queries(
        towers, classes=CLASSES, queries=QUERIES, groups=groups, width=F, layers=LAYERS, heads=2, hidden=40, taps=TAPS, windows=windows,
        whole=WHOLE,
    )  # fmt: skip
    ours = torch.nn.ModuleDict({"towers": towers, "head": head}).double()
    mine, weights, pairs = dict(ours.named_parameters()), dict(theirs.named_parameters()), dict(name_pairs(groups))
    positions = {"towers.image.vit.pos_embed": "model.backbone.backbone.embeddings.position_embeddings"}
    final = {"towers.image.vit.norm.weight", "towers.image.vit.norm.bias"}  # which neither looks through
    assert pairs.keys() | positions.keys() | final == mine.keys(), "every weight of ours has its counterpart"
    named = {part for name in pairs.values() for part in ([name] if isinstance(name, str) else name)}
    without = {name for name in named if "k_proj.bias" in name and "decoder" not in name}
    assert (named - without) | set(positions.values()) == weights.keys(), "and of theirs"
    for name, other in pairs.items():
        mine[name].data.copy_(as_ours(weights, other).view_as(mine[name]))
    mine["towers.image.vit.pos_embed"].data.copy_(weights["model.backbone.backbone.embeddings.position_embeddings"][:, 1:])
    return ours, theirs, pairs


def a_batch() -> Batch:
    """Pictures with 2, no and 4 objects."""
    chance = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (3, 3, SIZE, SIZE), dtype=torch.uint8, generator=chance)
    targets = []
    for count in (2, 0, 4):
        corner_N2 = torch.rand(count, 2, generator=chance) * 16
        boxes_N4 = torch.cat([corner_N2, corner_N2 + 2 + torch.rand(count, 2, generator=chance) * 14], dim=1)
        classes = torch.randint(0, CLASSES, (count,), generator=chance)
        targets.append(Target(Frame(SIZE, SIZE, 0, 0, SIZE, SIZE, SIZE, SIZE), boxes_N4, classes, torch.zeros(count, dtype=torch.bool)))
    return Batch(images, torch.arange(3), torch.ones(3, dtype=torch.bool), torch.full((3,), -1), ["a", "b", "c"], targets=targets)


def labels(batch: Batch) -> list[dict[str, torch.Tensor]]:
    found = []
    for target in batch.targets:
        left, top, right, bottom = (target.boxes.double() / SIZE).unbind(1)
        boxes = torch.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], dim=1)
        found.append({"class_labels": target.classes, "boxes": boxes})
    return found


@pytest.mark.parametrize("windows", [1, 2])
def test_classes_and_boxes_equal_those_of_transformers_at_inference(windows, record_property):
    ours, theirs, _ = both(windows=windows)
    batch = a_batch()
    with torch.no_grad():
        answer = ours.eval()["head"](Features(ours["towers"], batch))
        reference = theirs.eval()(pixel_values=ours["towers"].image.normalise(batch.images_BCHW))
    torch.testing.assert_close(answer["classes"], reference.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(answer["boxes"], reference.pred_boxes, rtol=1e-5, atol=1e-5)
    assert set(answer.tensors) == {"classes", "boxes"} and reference.logits.std() > 0.1
    record_property("largest difference of a logit", (answer["classes"] - reference.logits).abs().max().item())


@pytest.mark.parametrize("groups", [1, 3])
def test_training_has_the_loss_and_every_gradient_of_transformers(groups, record_property):
    ours, theirs, pairs = both(groups)
    batch = a_batch()
    answer = ours.train()["head"](Features(ours["towers"], batch))
    loss = ours["head"].loss(answer, batch).value
    loss.backward()
    reference = theirs.train()(pixel_values=ours["towers"].image.normalise(batch.images_BCHW), labels=labels(batch))
    reference.loss.backward()
    torch.testing.assert_close(answer["classes"], reference.logits, rtol=0, atol=1e-5)
    assert answer["classes"].shape[1] == groups * QUERIES
    assert loss.item() == pytest.approx(reference.loss.item(), rel=1e-5)
    gradients, worst = {name: parameter.grad for name, parameter in theirs.named_parameters()}, 0.0
    for name, parameter in ours.named_parameters():
        if name not in pairs:
            continue
        expected = as_ours(gradients, pairs[name]).view_as(parameter)
        found = parameter.grad if "qkv.bias" not in name else parameter.grad.clone().index_fill_(0, torch.arange(WIDTH, 2 * WIDTH), 0)
        largest, difference = expected.abs().max().item(), (found - expected).abs().max().item()
        assert largest > 1e-7, f"{name} takes no part in the loss, so this proves nothing"
        assert difference <= 1e-4 * largest, f"{name}: gradients of up to {largest:.3g} differ by {difference:.3g}"
        worst = max(worst, difference / largest)
    record_property("loss difference", abs(loss.item() - reference.loss.item()))
    record_property("largest gradient difference, relative", worst)


def test_the_comparison_notices_a_query_of_another_group():
    """Attention within groups is at work above: among all queries, the classes differ."""
    ours, theirs, _ = both(3)
    batch = a_batch()
    for layer in theirs.model.decoder.layers:
        layer.self_attn.training = False
    answer = ours.train()["head"](Features(ours["towers"], batch))
    theirs.train()
    for layer in theirs.model.decoder.layers:
        layer.self_attn.eval()
    reference = theirs(pixel_values=ours["towers"].image.normalise(batch.images_BCHW))
    assert (answer["classes"] - reference.logits).abs().max() > 1e-3
