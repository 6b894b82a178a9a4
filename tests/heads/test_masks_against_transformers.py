"""Our mask head is ``transformers``' EomtForUniversalSegmentation: logits, masks, loss and gradients.

Differences of design, bridged here: theirs keeps positions of the patches alone and no drop path by depth; it draws points from the global
generator, each mask its own candidates, where ours draws them from the pictures' keys, one set of candidates for a picture; it divides the
class term by one process's queries, ours by those of all; it counts all objects, ours at most as many as there are queries. Their softmax
and our losses are float32, which the tolerances allow for.
"""

from __future__ import annotations

import pytest
import timm
import torch
from transformers import EomtConfig, EomtForUniversalSegmentation

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.heads.masks import Masks
from mae_vlm.heads.parts.mask_set_loss import CANDIDATES, MATCH, RANDOM, STREAMS
from mae_vlm.heads.parts.point_loss import random_points
from mae_vlm.types import Batch, Frame, Target

DEPTH, LAST, SIZE, PATCH, QUERIES, CLASSES, POINTS = 4, 3, 32, 8, 6, 5, 32


def name_pairs():
    """Ours to theirs, one to one, or one to (q, k, v)."""
    image = "towers.image.vit."
    yield image + "cls_token", "embeddings.cls_token"
    yield image + "reg_token", "embeddings.register_tokens"
    yield image + "pos_embed", "embeddings.position_embeddings.weight"
    yield "head.queries", "query.weight"
    leaves = {image + "patch_embed.proj": "embeddings.patch_embeddings.projection", image + "norm": "layernorm"}
    leaves |= {"head.classify": "class_predictor"} | {f"head.draw.{2 * k}": f"mask_head.fc{k + 1}" for k in range(3)}
    inside = {"norm1": "norm1", "norm2": "norm2", "attn.proj": "attention.out_proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    for block in range(DEPTH):
        leaves |= {f"{image}blocks.{block}.{ours}": f"layers.{block}.{theirs}" for ours, theirs in inside.items()}
        for number in (1, 2):
            yield f"{image}blocks.{block}.ls{number}.gamma", f"layers.{block}.layer_scale{number}.lambda1"
        for kind in ("weight", "bias"):
            yield f"{image}blocks.{block}.attn.qkv.{kind}", tuple(f"layers.{block}.attention.{x}_proj.{kind}" for x in "qkv")
    yield "head.upscale.0.2.weight", "upscale_block.block.0.conv2.weight"
    leaves |= {"head.upscale.0.0": "upscale_block.block.0.conv1", "head.upscale.0.3": "upscale_block.block.0.layernorm2d"}
    for ours, theirs in leaves.items():
        for kind in ("weight", "bias"):
            yield f"{ours}.{kind}", f"{theirs}.{kind}"


def as_ours(theirs: dict[str, torch.Tensor], name: str | tuple[str, ...]) -> torch.Tensor:
    return theirs[name] if isinstance(name, str) else torch.cat([theirs[part] for part in name])


def both():
    torch.manual_seed(0)
    config = EomtConfig(
        hidden_size=32, num_hidden_layers=DEPTH, num_attention_heads=4, image_size=SIZE, patch_size=PATCH, num_blocks=LAST,
        num_upscale_blocks=1, num_queries=QUERIES, num_register_tokens=2, num_labels=CLASSES, train_num_points=POINTS,
    )  # fmt: skip
    config._attn_implementation = "eager"  # the other one adds its float32 mask wrongly to float64 scores
    theirs = EomtForUniversalSegmentation(config).double()
    for parameter in theirs.parameters():  # layer scales, positions, biases and norms too
        parameter.data.copy_(torch.randn(parameter.shape, dtype=torch.float64) * 0.3)
    encoder = Vit(width=32, depth=DEPTH, heads=4, patch=PATCH, image_size=SIZE, registers=2, positions="learned")
    encoder.vit = timm.create_model(  # with layer scale, and positions of patches alone
        encoder.architecture, **encoder.model_args | {"init_values": 1.0, "no_embed_class": True}
    )
    towers = Towers(encoder)
    head = Masks(towers, classes=CLASSES, queries=QUERIES, last=LAST, points=POINTS)
    ours = torch.nn.ModuleDict({"towers": towers, "head": head}).double()
    mine, weights, pairs = dict(ours.named_parameters()), dict(theirs.named_parameters()), dict(name_pairs())
    assert pairs.keys() == mine.keys(), "every weight of ours has its counterpart"
    assert {part for name in pairs.values() for part in ([name] if isinstance(name, str) else name)} == weights.keys(), "and of theirs"
    for name, other in pairs.items():
        mine[name].data.copy_(as_ours(weights, other).view_as(mine[name]))
    return ours, theirs, pairs


def a_batch() -> Batch:
    """Pictures with 2, no and 4 objects."""
    chance = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (3, 3, SIZE, SIZE), dtype=torch.uint8, generator=chance)
    targets = []
    for count in (2, 0, 4):
        masks = torch.rand(count, SIZE // 8, SIZE // 8, generator=chance).gt(0.5).repeat_interleave(8, 1).repeat_interleave(8, 2)
        classes = torch.randint(0, CLASSES, (count,), generator=chance)
        targets.append(Target(Frame(SIZE, SIZE, 0, 0, SIZE, SIZE, SIZE, SIZE), None, classes, torch.zeros(count, dtype=torch.bool), masks))
    return Batch(images, torch.arange(3), torch.ones(3, dtype=torch.bool), torch.full((3,), -1), ["a", "b", "c"], targets=targets)


class OurPoints:
    """``torch.rand`` for theirs: the points that ours draws, asked for in their order."""

    def __init__(self, batch: Batch) -> None:
        self.keys_B, self.counts, self.asked = batch.keys_B, torch.tensor([len(one.classes) for one in batch.targets]), 0

    def __call__(self, count: int, points: int, _: int, device: object = None) -> torch.Tensor:
        output, call = divmod(self.asked, len(self.keys_B) + 2)
        self.asked += 1
        if call < len(self.keys_B):
            assert (count, points) == (1, POINTS)
            return random_points(self.keys_B[call : call + 1], points, STREAMS * output + MATCH).double()
        kind = CANDIDATES if call == len(self.keys_B) else RANDOM
        return random_points(self.keys_B, points, STREAMS * output + kind).repeat_interleave(self.counts, 0).double()


def test_classes_and_masks_equal_those_of_transformers_at_inference():
    ours, theirs, _ = both()
    batch = a_batch()
    theirs.attn_mask_probs.zero_()  # theirs masks also at inference until annealing is over
    with torch.no_grad():
        answer = ours.eval()["head"](Features(ours["towers"], batch))
        reference = theirs.eval()(pixel_values=ours["towers"].image.normalise(batch.images_BCHW))
    torch.testing.assert_close(answer["classes"], reference.class_queries_logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(answer["masks"], reference.masks_queries_logits, rtol=0, atol=1e-5)
    assert set(answer.tensors) == {"classes", "masks"}


def test_masked_training_has_the_loss_and_every_gradient_of_transformers(monkeypatch, record_property):
    ours, theirs, pairs = both()
    batch = a_batch()
    answer = ours.train()["head"](Features(ours["towers"], batch))
    loss = ours["head"].loss(answer, batch).value
    loss.backward()
    points = OurPoints(batch)
    monkeypatch.setattr(torch, "rand", points)
    reference = theirs.train()(
        pixel_values=ours["towers"].image.normalise(batch.images_BCHW),
        mask_labels=[target.masks.double() for target in batch.targets],
        class_labels=[target.classes for target in batch.targets],
    )
    monkeypatch.undo()
    reference.loss.backward()
    assert points.asked == (LAST + 1) * 5
    torch.testing.assert_close(answer["masks"], reference.masks_queries_logits, rtol=0, atol=1e-5)
    assert loss.item() == pytest.approx(reference.loss.item(), rel=1e-5)
    gradients, worst = {name: parameter.grad for name, parameter in theirs.named_parameters()}, 0.0
    for name, parameter in ours.named_parameters():
        expected = as_ours(gradients, pairs[name]).view_as(parameter)
        largest, difference = expected.abs().max().item(), (parameter.grad - expected).abs().max().item()
        assert largest > 1e-6, f"{name} takes no part in the loss, so this proves nothing"
        assert difference <= 1e-4 * largest, f"{name}: gradients of up to {largest:.3g} differ by {difference:.3g}"
        worst = max(worst, difference / largest)
    record_property("loss difference", abs(loss.item() - reference.loss.item()))
    record_property("largest gradient difference, relative", worst)


def test_the_comparison_notices_an_open_query():
    """The masked attention above is at work: unmasked, the masks differ."""
    ours, theirs, _ = both()
    batch = a_batch()
    ours["head"].masked = False
    open_to_all = ours.train()["head"](Features(ours["towers"], batch))
    reference = theirs.train()(pixel_values=ours["towers"].image.normalise(batch.images_BCHW))
    assert (open_to_all["masks"] - reference.masks_queries_logits).abs().max() > 1e-3
