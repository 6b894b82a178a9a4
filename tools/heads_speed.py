"""Speed of heads beside the same design in transformers: ``python -m tools.heads_speed [classify masks queries]``.

Both have the same sizes, pictures (in memory, uint8 to ours, normalised to theirs), targets and AdamW, and take turns, round after round:
a training step (forward, loss, backward, AdamW) and a prediction (forward without gradients). Printed are images/s of each and
the ratio round by round, as median, minimum and maximum. transformers has no counterpart of ``dense``, ``segment``, ``mask_rcnn``.
"""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.heads.base import Head
from mae_vlm.heads.classify import Classify
from mae_vlm.heads.masks import Masks
from mae_vlm.heads.queries import Queries
from mae_vlm.types import Batch, Frame, Target
from tools.step_speed import SIZES, Sizes
from tools.words_speed import compare, stepper

CLASSES, QUERIES, OBJECTS = 80, 100, 6
TAPS, WHOLE, WINDOWS = (2, 5, 8, 11), (2, 5, 8, 11), 2  # of 12 blocks; windows in height and width


@dataclass
class Race:
    """Ours and theirs: what each computes of a batch in training and in prediction."""

    ours: nn.Module
    theirs: nn.Module
    train: tuple[Callable[[], Tensor], Callable[[], Tensor]]
    predict: tuple[Callable[[], Any], Callable[[], Any]]


def pictures(count: int, side: int, device: str) -> Batch:
    """Noise with six objects in each picture."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=draw).to(device)
    targets = []
    for _ in range(count):
        corner_N2 = torch.rand(OBJECTS, 2, generator=draw) * side * 0.6
        boxes_N4 = torch.cat([corner_N2, corner_N2 + side * (0.1 + 0.3 * torch.rand(OBJECTS, 2, generator=draw))], dim=1)
        rows = torch.arange(side) + 0.5
        inside = (rows > boxes_N4[:, None, None, 0]) & (rows < boxes_N4[:, None, None, 2])
        inside = inside & (rows[:, None] > boxes_N4[:, None, None, 1]) & (rows[:, None] < boxes_N4[:, None, None, 3])
        classes = torch.randint(CLASSES, (OBJECTS,), generator=draw)
        frame, crowds = Frame(side, side, 0, 0, side, side, side, side), torch.zeros(OBJECTS, dtype=torch.bool)
        targets.append(Target(frame, boxes_N4.to(device), classes.to(device), crowds.to(device), inside.to(device)))
    keys = torch.arange(count, device=device)
    return Batch(images, keys, keys >= 0, keys % CLASSES, [str(number) for number in range(count)], targets=targets)


def _race(house: Towers, head: Head, theirs: nn.Module, batch: Batch, told: dict[str, Any]) -> Race:
    ours = nn.ModuleList([house, head])

    def see() -> Any:
        return head(Features(house, batch))

    def loss() -> Tensor:
        value: Tensor = head.loss(see(), batch).value
        return value

    def peer(**labels: Any) -> Any:
        return theirs(pixel_values=house.image.normalise(batch.images_BCHW), **labels)

    return Race(ours, theirs, (loss, lambda: peer(**told).loss), (see, peer))


def classify(sizes: Sizes, batch: Batch) -> Race:
    """Mean of the patch tokens against ViTForImageClassification, which looks at the class token."""
    from transformers import ViTConfig, ViTForImageClassification

    peer = ViTForImageClassification(ViTConfig(**_sizes(sizes), num_labels=CLASSES, patch_size=sizes.patch, image_size=sizes.image))
    house = Towers(_vit(sizes))
    return _race(house, Classify(house, classes=CLASSES), peer, batch, {"labels": batch.labels_B})


def masks(sizes: Sizes, batch: Batch) -> Race:
    """EoMT, masked attention on in training."""
    from transformers import EomtConfig, EomtForUniversalSegmentation

    config = EomtConfig(
        **_sizes(sizes), image_size=sizes.image, patch_size=sizes.patch, num_blocks=3, num_upscale_blocks=2, num_queries=QUERIES,
        num_register_tokens=0, num_labels=CLASSES,
    )  # fmt: skip
    peer = EomtForUniversalSegmentation(config)
    peer.attn_mask_probs.fill_(1)
    house = Towers(_vit(sizes))
    masks = [target.masks.float() for target in batch.targets if target.masks is not None]
    told = {"mask_labels": masks, "class_labels": [target.classes for target in batch.targets]}
    return _race(house, Masks(house, classes=CLASSES, queries=QUERIES, last=3), peer, batch, told)


def queries(sizes: Sizes, batch: Batch) -> Race:
    """LW-DETR with 13 groups of queries in training and one in prediction."""
    from transformers import LwDetrConfig, LwDetrForObjectDetection

    encoder = _sizes(sizes) | {"model_type": "lw_detr_vit", "image_size": sizes.image, "pretrain_image_size": sizes.image}
    encoder |= {"patch_size": sizes.patch, "num_windows": WINDOWS**2, "out_indices": [tap + 1 for tap in TAPS]}
    encoder["window_block_indices"] = [block for block in range(sizes.depth) if block not in WHOLE]
    config = LwDetrConfig(
        backbone_config=encoder, projector_scale_factors=[1.0], d_model=256, decoder_ffn_dim=1024, decoder_layers=3, num_queries=QUERIES,
        decoder_self_attention_heads=8, decoder_cross_attention_heads=16, group_detr=13, num_labels=CLASSES,
    )  # fmt: skip
    house = Towers(_vit(sizes))
    head = Queries(
        house, classes=CLASSES, queries=QUERIES, groups=13, width=256, layers=3, heads=8, hidden=1024, taps=TAPS, windows=WINDOWS,
        whole=WHOLE,
    )  # fmt: skip
    labels = []
    for target in batch.targets:
        assert target.boxes is not None
        left, top, right, bottom = (target.boxes / sizes.image).unbind(1)
        boxes = torch.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], dim=1)
        labels.append({"class_labels": target.classes, "boxes": boxes})
    return _race(house, head, LwDetrForObjectDetection(config), batch, {"labels": labels})


def _sizes(sizes: Sizes) -> dict[str, Any]:
    same = {"hidden_size": sizes.width, "num_hidden_layers": sizes.depth, "num_attention_heads": sizes.heads}
    return same | {"intermediate_size": 4 * sizes.width}


def _vit(sizes: Sizes) -> Vit:
    return Vit(width=sizes.width, depth=sizes.depth, heads=sizes.heads, patch=sizes.patch, image_size=sizes.image)


RACES = {"classify": (classify, 224), "masks": (masks, 320), "queries": (queries, 320)}


def run(name: str, given: argparse.Namespace) -> None:
    """Print training and prediction of one head."""
    torch.manual_seed(0)
    build, side = RACES[name]
    plain = SIZES[given.size]
    sizes = Sizes(plain.width, plain.depth, plain.heads, plain.patch, side)
    race = build(sizes, pictures(given.batch, side, given.device))
    pair = ("mae_vlm", "transformers")
    trained = {}
    for who, model, loss in zip(pair, (race.ours, race.theirs), race.train, strict=True):
        model.to(given.device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        trained[who] = stepper(loss, given.bfloat16, given.device, optimizer)
    told = {"head": name, "size": given.size, "side": side, "batch": given.batch}
    print(json.dumps(told | {"of": "training"} | compare(trained, given)), flush=True)
    race.ours.eval()
    race.theirs.eval()
    seen = {who: _quietly(see, given) for who, see in zip(pair, race.predict, strict=True)}
    print(json.dumps(told | {"of": "prediction"} | compare(seen, given)), flush=True)


def _quietly(see: Callable[[], Any], given: argparse.Namespace) -> Callable[[], None]:
    def step() -> None:
        with torch.inference_mode(), torch.autocast(given.device, torch.bfloat16, enabled=given.bfloat16):
            see()

    return step


def main() -> None:
    """A line of JSON for each head and task."""
    parser = argparse.ArgumentParser(prog="python -m tools.heads_speed", description=__doc__)
    parser.add_argument("heads", nargs="*", help=f"of {', '.join(RACES)}; default: all")
    parser.add_argument("--size", choices=("tiny", "small", "base"), default="tiny")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=1, help="per round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bfloat16", action="store_true")
    given = parser.parse_args()
    for name in given.heads or RACES:
        run(name, given)
        gc.collect()


if __name__ == "__main__":
    main()
