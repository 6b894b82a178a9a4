"""Speed of a training step with words: shared passes against separate ones, and image-text contrast against transformers' CLIPModel.

``python -m tools.words_speed`` times, in turn and round after round: one step of contrast, matching and masked language that share their
passes, the same with passes of their own for each objective (same weights, optimizer and captions), then a step of contrast alone beside
CLIPModel of the same sizes. Pictures are in memory; captions of 30 tokens are given as text to ours and as numbers to CLIPModel, so ours
includes their tokenizing. Prints medians and ratios round by round.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.fusion.cross import CrossAttention
from mae_vlm.encoders.text.transformer import Transformer
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.objectives.base import Objective
from mae_vlm.objectives.image_text import SoftmaxContrast
from mae_vlm.objectives.masked_language import MaskedLanguage
from mae_vlm.objectives.matching import Matching
from mae_vlm.tokens.words import learn
from mae_vlm.types import Batch
from tools.step_speed import SIZES, Sizes, seconds

TOKENS, VOCABULARY, DEPTH = 30, 30_522, 6  # of a caption; of BERT; layers of the text tower, and of the fusion
_WORDS = ("red", "green", "blue", "small", "large", "circle", "square", "star", "left", "right", "above", "below")


class Together(nn.Module):
    """Towers and objectives; a step's loss with shared passes, or with passes of their own."""

    def __init__(self, towers: Towers, parts: list[Callable[[Towers], Objective]]) -> None:
        super().__init__()
        self.towers = towers
        self.parts = nn.ModuleList(build(towers) for build in parts)

    def forward(self, batch: Batch, shared: bool = True) -> Tensor:
        seen = Features(self.towers, batch)
        losses = [part(seen if shared else Features(self.towers, batch), batch).value for part in self.parts]
        return torch.stack(losses).sum()


def house(sizes: Sizes, parts: list[Callable[[Towers], Objective]], fusion: bool) -> Together:
    """Towers of these sizes, text (and fusion) of 6 layers as wide as the image tower, and objectives on them."""
    own = {"model_type": "bert", "vocab_size": VOCABULARY, "max_position_embeddings": TOKENS, "hidden_size": sizes.width}
    own |= {"num_hidden_layers": DEPTH, "num_attention_heads": sizes.heads, "intermediate_size": 4 * sizes.width}
    with TemporaryDirectory() as folder:
        file = Path(folder) / "vocabulary.json"
        file.write_text(learn(list(_WORDS), 200).json)
        text = Transformer(vocabulary=str(file), config=own, length=TOKENS)
    image = Vit(width=sizes.width, depth=sizes.depth, heads=sizes.heads, patch=sizes.patch, image_size=sizes.image)
    return Together(Towers(image, text, partial(CrossAttention, depth=DEPTH, heads=sizes.heads) if fusion else None), parts).train()


def clip(sizes: Sizes) -> nn.Module:
    """CLIPModel of the same sizes."""
    from transformers import CLIPConfig, CLIPModel

    tower = {"hidden_size": sizes.width, "intermediate_size": 4 * sizes.width, "num_attention_heads": sizes.heads}
    text = tower | {"num_hidden_layers": DEPTH, "vocab_size": VOCABULARY, "max_position_embeddings": TOKENS}
    text |= {"bos_token_id": 0, "eos_token_id": 3}  # which token it pools costs the same
    vision = tower | {"num_hidden_layers": sizes.depth, "patch_size": sizes.patch, "image_size": sizes.image}
    model: nn.Module = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=256))
    return model.train()


def pictures(count: int, side: int, device: str) -> Batch:
    """Noise, each with another caption of more than 30 words, which the tower cuts to 30 tokens."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=draw).to(device)
    chosen = torch.randint(len(_WORDS), (count, TOKENS + 2), generator=draw).tolist()
    captions: list[tuple[str, ...]] = [(" ".join(_WORDS[word] for word in row),) for row in chosen]
    names, keys = [str(number) for number in range(count)], torch.arange(count, device=device)
    return Batch(images, keys, keys >= 0, torch.full_like(keys, -1), names, captions)


def stepper(loss: Callable[[], Tensor], bfloat16: bool, device: str, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """One whole training step of ``loss``: forward, backward, the optimizer's step."""

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            value = loss()
        torch.autograd.backward(value)
        optimizer.step()
        optimizer.zero_grad()

    return step


def compare(steps: dict[str, Callable[[], None]], given: argparse.Namespace) -> dict[str, object]:
    """Images/s of each, and how many times as fast the first is as each other, round by round."""
    for step in steps.values():
        seconds(step, 2, given.device == "cuda")  # warm-up
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(given.rounds):
        for name, step in steps.items():
            rates[name].append(given.batch / seconds(step, given.steps, given.device == "cuda"))
    first = next(iter(steps))
    told: dict[str, object] = {name: _spread(found) for name, found in rates.items()}
    for name in list(steps)[1:]:
        told[f"{first} / {name}"] = _spread([ours / theirs for ours, theirs in zip(rates[first], rates[name], strict=True)])
    return told


def _spread(found: list[float]) -> list[float]:
    """Median, minimum, maximum."""
    return [round(number, 2) for number in (statistics.median(found), min(found), max(found))]


def sharing(sizes: Sizes, batch: Batch, given: argparse.Namespace) -> dict[str, object]:
    """Contrast, matching and masked language at once: shared passes against separate ones."""
    model = house(sizes, [SoftmaxContrast, Matching, MaskedLanguage], fusion=True).to(given.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    make = partial(stepper, bfloat16=given.bfloat16, device=given.device, optimizer=optimizer)
    return compare({"shared": make(lambda: model(batch)), "separate": make(lambda: model(batch, shared=False))}, given)


def contrast(sizes: Sizes, batch: Batch, given: argparse.Namespace) -> dict[str, object]:
    """Contrast alone, beside CLIPModel."""
    ours, theirs = house(sizes, [SoftmaxContrast], fusion=False).to(given.device), clip(sizes).to(given.device)
    ids_BT = ours.towers.told_text().words([told[0] for told in batch.captions]).ids_BT
    assert ids_BT.shape[1] == TOKENS, ids_BT.shape

    def peer() -> Tensor:
        pixels = ours.towers.image.normalise(batch.images_BCHW)
        value: Tensor = theirs(input_ids=ids_BT.to(given.device), pixel_values=pixels, return_loss=True).loss
        return value

    steps = {}
    for name, loss, model in (("mae_vlm", lambda: ours(batch), ours), ("CLIPModel", peer, theirs)):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        steps[name] = stepper(loss, given.bfloat16, given.device, optimizer)
    return compare(steps, given)


def main() -> None:
    """Print a line of JSON for each comparison: median, minimum, maximum."""
    parser = argparse.ArgumentParser(prog="python -m tools.words_speed", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1, help="per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bfloat16", action="store_true")
    given = parser.parse_args()
    sizes = SIZES[given.size]
    torch.manual_seed(0)
    batch = pictures(given.batch, sizes.image, given.device)
    for name, measure in (("sharing", sharing), ("contrast", contrast)):
        print(json.dumps({"of": name, "size": given.size, "batch": given.batch} | measure(sizes, batch, given)), flush=True)
        gc.collect()


if __name__ == "__main__":
    main()
