"""Speed and memory of one MAE training step beside the peers', in one run.

``python -m tools.step_speed --size tiny`` times our step, transformers' ViTMAE and a MAE from lightly's modules: the same
sizes, batch, precision, optimizer and pictures (already in memory), in turn, round after round, and prints medians and ratios to ours.
Peers that are not installed are left out, by name.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mae_vlm.cli.automatic import decoder_for
from mae_vlm.encoders.arithmetic import masked_step
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.objectives.pixels import Pixels
from mae_vlm.tokens.masking import RandomMask
from mae_vlm.types import Batch

PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "B200": 2250e12}  # dense bf16, per second


@dataclass(frozen=True)
class Sizes:
    """One model and its decoder; the decoder is the one that the command line would choose."""

    width: int
    depth: int
    heads: int
    patch: int
    image: int

    @property
    def decoder(self) -> tuple[int, int]:
        """Width and depth."""
        return decoder_for(self.width)[:2]


SIZES = {
    "cifar": Sizes(128, 6, 4, 4, 32),
    "tiny": Sizes(192, 12, 3, 16, 224),
    "small": Sizes(384, 12, 6, 16, 224),
    "base": Sizes(768, 12, 12, 16, 224),
    "large": Sizes(1024, 24, 16, 16, 224),
}


class Ours(nn.Module):
    """From uint8 pictures to the loss, as the learner composes it."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.towers = Towers(Vit(width=s.width, depth=s.depth, heads=s.heads, patch=s.patch, image_size=s.image))
        width, depth = s.decoder
        self.pixels = Pixels(self.towers, width=width, depth=depth)
        self.mask = RandomMask(0.75)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        keys_B = torch.randint(0, 2**62, (len(images_BCHW),), device=images_BCHW.device)
        real_B = torch.ones_like(keys_B, dtype=torch.bool)
        batch = Batch(images_BCHW, keys_B, real_B, keys_B)
        value: Tensor = self.pixels(Features(self.towers, batch, self.mask), batch).value
        return value


class TransformersMae(nn.Module):
    """ViTMAEForPreTraining of transformers, normalised targets, attention through SDPA."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        from transformers import ViTMAEConfig, ViTMAEForPreTraining

        width, depth = s.decoder
        config = ViTMAEConfig(
            hidden_size=s.width, num_hidden_layers=s.depth, num_attention_heads=s.heads, intermediate_size=4 * s.width,
            image_size=s.image, patch_size=s.patch, decoder_hidden_size=width, decoder_num_hidden_layers=depth,
            decoder_num_attention_heads=max(1, width // 32), decoder_intermediate_size=4 * width, mask_ratio=0.75, norm_pix_loss=True,
        )  # fmt: skip
        self.model = ViTMAEForPreTraining(config)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        value: Tensor = self.model(pixel_values=_normalised(images_BCHW)).loss
        return value


class LightlyMae(nn.Module):
    """A MAE composed of lightly's modules as its documentation does; plain targets, which lightly's loss has (a little less work)."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM
        from timm.models.vision_transformer import VisionTransformer

        width, depth = s.decoder
        vit = VisionTransformer(s.image, s.patch, embed_dim=s.width, depth=s.depth, num_heads=s.heads, num_classes=0)
        self.patch = s.patch
        self.backbone = MaskedVisionTransformerTIMM(vit=vit)
        self.decoder = MAEDecoderTIMM(
            num_patches=vit.patch_embed.num_patches, patch_size=s.patch, embed_dim=s.width, decoder_embed_dim=width,
            decoder_depth=depth, decoder_num_heads=max(1, width // 32), mlp_ratio=4.0, proj_drop_rate=0.0, attn_drop_rate=0.0,
        )  # fmt: skip

    def forward(self, images_BCHW: Tensor) -> Tensor:
        from lightly.models import utils

        images = _normalised(images_BCHW)
        count, length = len(images), self.backbone.sequence_length
        keep, hide = utils.random_token_mask(size=(count, length), mask_ratio=0.75, device=images.device)
        visible = self.decoder.embed(self.backbone.encode(images=images, idx_keep=keep))
        tokens = utils.repeat_token(self.decoder.mask_token, (count, length))
        tokens = self.decoder.decode(utils.set_at_index(tokens, keep, visible.type_as(tokens)))
        predicted = self.decoder.predict(utils.get_at_index(tokens, hide))
        target = utils.get_at_index(utils.patchify(images, self.patch), hide - 1)
        return nn.functional.mse_loss(predicted, target)


CONTENDERS: dict[str, Callable[[Sizes], nn.Module]] = {"mae_vlm": Ours, "transformers": TransformersMae, "lightly": LightlyMae}


def stepper(model: nn.Module, images_BCHW: Tensor, bfloat16: bool) -> Callable[[], None]:
    """One whole training step: forward, backward, AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)

    def step() -> None:
        with torch.autocast(images_BCHW.device.type, torch.bfloat16, enabled=bfloat16):
            loss = model(images_BCHW)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds(step: Callable[[], None], steps: int, cuda: bool) -> float:
    """Seconds per step over ``steps`` steps, the device's work included."""
    began = time.perf_counter()
    for _ in range(steps):
        step()
    if cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / steps


def main() -> None:
    """Print a table: images/s (median, minimum, maximum), the ratio to ours round by round, and memory on a GPU."""
    options = _options()
    sizes, cuda = SIZES[options.size], options.device == "cuda"
    images = torch.randint(0, 256, (options.batch, 3, sizes.image, sizes.image), dtype=torch.uint8, device=options.device)
    steps: dict[str, Callable[[], None]] = {}
    for name, build in CONTENDERS.items():
        torch.manual_seed(0)
        try:
            model = build(sizes).to(options.device).train()
        except ImportError as problem:
            print(f"{name} is left out: {problem}")
            continue
        if options.compile:
            _compile_blocks(model)
        steps[name] = stepper(model, images, options.bfloat16)
    memory = {name: _peak_memory(step, cuda) for name, step in steps.items()}  # also the warm-up
    rounds = {name: [] for name in steps}  # type: dict[str, list[float]]
    for _ in range(options.rounds):
        for name, step in steps.items():
            rounds[name].append(options.batch / seconds(step, options.steps, cuda))
    _report(sizes, rounds, memory, cuda)


def _report(sizes: Sizes, rounds: dict[str, list[float]], memory: dict[str, float], cuda: bool) -> None:
    ours = rounds["mae_vlm"]
    print("| step | images/s (min to max) | ours / theirs (min to max) | peak GiB |\n|---|---|---|---|")
    for name, rates in rounds.items():
        ratios = [a / b for a, b in zip(ours, rates, strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        gib = f"{memory[name]:.2f}" if cuda else "-"
        print(f"| {name} | {statistics.median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f}) | {spread} | {gib} |")
    if cuda:
        space = Vit(width=sizes.width, depth=1, heads=sizes.heads, patch=sizes.patch, image_size=sizes.image).space
        width, depth = sizes.decoder
        flops = masked_step(space, int(space.patches * 0.25), sizes.width, sizes.depth, width, depth)
        peak = next((value for key, value in PEAKS.items() if key in torch.cuda.get_device_name()), None)
        share = f", {flops * statistics.median(ours) / peak:.1%} of the dense bf16 peak" if peak else ", peak of this device unknown"
        print(f"{torch.cuda.get_device_name()}: {flops / 1e9:.1f} GFLOP per picture{share}")


def _compile_blocks(model: nn.Module) -> None:
    for module in model.modules():
        if type(module).__name__ in ("Block", "ViTMAELayer"):
            module.compile(dynamic=False)


def _peak_memory(step: Callable[[], None], cuda: bool) -> float:
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        step()
    return torch.cuda.max_memory_allocated() / 2**30 if cuda else float("nan")


def _normalised(images_BCHW: Tensor) -> Tensor:
    return (images_BCHW.float() / 255 - 0.5) / 0.5


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.step_speed", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3, help="per round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--compile", action="store_true", help="torch.compile on each transformer block, of every contender")
    return parser.parse_args()


if __name__ == "__main__":
    main()
