"""Automatic choices: whatever the user left open, chosen from the data and the machine, with the reason.

A pure function of config, collection and machine. A value that somebody gave, on the command line, in a config or
in a checkpoint, is never touched.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

from mae_vlm.cli import answering, continuing, finetuning, wording
from mae_vlm.cli.chooser import Choice, Chooser
from mae_vlm.cli.continuing import PIXELS, PRETRAINER
from mae_vlm.cli.machine import Machine
from mae_vlm.convert.found import OTHERS, TIMM_VIT, VIT, encoder_class
from mae_vlm.data.sources.base import Source
from mae_vlm.data.summary import Summary, automatic_batch_size, automatic_size, automatic_workers
from mae_vlm.encoders.arithmetic import encoder_step, masked_step
from mae_vlm.learners.optim import default_base_lr
from mae_vlm.types import TokenSpace, sides

ADAMW = "mae_vlm.learners.optim.AdamW"


def choose(
    config: dict[str, Any],
    summary: Summary,
    machine: Machine,
    training: bool = True,
    start: finetuning.Start | None = None,
    train: Callable[[], Source] | None = None,
    said: frozenset[str] = frozenset(),
) -> list[Choice]:
    """Fill what is open in ``config`` (changed in place) and return the choices in the order they were made.

    ``start`` is the encoder that a fine-tuning starts from: what is open in the config's is as there. ``train`` opens the training
    pictures, whose captions a vocabulary is learned from; ``said`` are the flat keys that the user has set.
    """
    chooser = Chooser(config, summary, machine)
    if start is not None:
        finetuning.encoder_as(chooser, start)
        finetuning.words_as(chooser, start)
        continuing.words_as(chooser, start.words, start.weights, start.explicit)
    _data(chooser)
    if train is not None and training:
        wording.words(chooser, train, said)
    if str(chooser.get("model.class_path")) == PRETRAINER:
        _encoder(chooser)
        if start is not None and start.decoder is not None:
            continuing.decoder_as(chooser, start.decoder, start.weights, start.explicit)
        _decoder(chooser)
    elif finetuning.is_one(chooser):
        _encoder(chooser)
        finetuning.heads(chooser)
    if train is not None:
        answering.answers(chooser, train)
    _trainer(chooser, training)
    return chooser.choices


def _data(c: Chooser) -> None:
    seen = c.summary
    c.fill("data.format", lambda: (seen.format, "told from the content"), unset=(None, "auto"))
    for name in ("image_size", "channels"):  # an encoder that is told its size wants pictures of it
        told = c.get(f"model.init_args.encoder.init_args.{name}")
        if told is not None:
            c.fill(f"data.{name}", partial(_told, told, f"as the encoder's {name}"))
    c.fill("data.image_size", lambda: _image_size(seen, c.machine))
    c.fill("data.channels", lambda: (seen.channels, "of the first pictures"))
    if seen.bits != 8:
        c.fill("data.bits", lambda: (seen.bits, "most pictures have more than 8"))
    if seen.moments is not None:
        for name, values in zip(("mean", "std"), seen.moments, strict=True):
            c.fill(f"data.{name}", partial(_told, values, "of 64 pictures; python -m data_prep statistics SRC measures all"))
    seed = c.get("seed_everything")
    c.fill("data.seed", lambda: (int(seed), "seed_everything") if type(seed) is int else (0, "no seed_everything given"))
    c.fill("data.num_workers", lambda: _workers(c.machine))
    c.fill("data.batch_size", lambda: _batch_size(c))


def _image_size(seen: Summary, machine: Machine) -> tuple[Any, str]:
    usual = 224 if machine.kind == "cuda" else 96
    height, width = automatic_size(seen.height, seen.width, usual)
    reason = f"pictures are {seen.height} x {seen.width} (median)" + (
        f"; {usual} is what a {machine.kind} affords" if height == usual else ""
    )
    return height if height == width else [height, width], reason


def _workers(machine: Machine) -> tuple[int, str]:
    if machine.kind == "cuda":
        return automatic_workers(machine.devices), f"{machine.cores} cores for {machine.devices} devices"
    return max(1, min(4, machine.cores // 2)), f"{machine.cores} cores, which also train"


def _batch_size(c: Chooser) -> tuple[int, str]:
    parts = _processes(c) * int(c.get("trainer.accumulate_grad_batches") or 1)
    size = automatic_batch_size(c.summary.train, parts, usual=1024 if c.machine.kind == "cuda" else 128)
    return size, f"{c.summary.train:,} training pictures on {c.machine.kind}" + (f", {parts} parts a step" if parts > 1 else "")


def _encoder(c: Chooser) -> None:
    at = "model.init_args.encoder.init_args"
    kind = c.get("model.init_args.encoder.class_path")
    if kind not in (VIT, TIMM_VIT, *OTHERS):
        return
    for name in ("image_size", "channels", "mean", "std"):
        value = c.get(f"data.{name}")
        if value is not None:
            c.fill(f"{at}.{name}", partial(_told, value, f"from data.{name}"))
    if c.get(f"{at}.name") is not None or kind in OTHERS:
        return
    width, depth, heads, reason = _size(c)
    c.fill(f"{at}.patch", lambda: _patch(c))
    if c.get(f"{at}.width") is not None:  # the user sized it in part: complete it to that width
        width, reason = int(c.get(f"{at}.width")), "to go with the width given"
        depth, heads = (6, max(1, width // 32)) if width < 192 else (12, max(1, width // 64))
    c.fill(f"{at}.width", lambda: (width, reason))
    c.fill(f"{at}.depth", lambda: (depth, reason))
    c.fill(f"{at}.heads", lambda: (heads, reason))


def _told(value: Any, reason: str) -> tuple[Any, str]:
    return value, reason


def _patch(c: Chooser) -> tuple[int, str]:
    height, width = sides(c.get("data.image_size"))
    short = min(height, width)
    wanted = 4 if short <= 40 else 8 if short <= 128 else 16
    patch = next((p for p in (wanted, 16, 14, 8, 7, 4, 2) if height % p == 0 and width % p == 0), wanted)
    return patch, f"divides {height} x {width} into {height // patch} x {width // patch} patches"


def _size(c: Chooser) -> tuple[int, int, int, str]:
    count, kind = c.summary.train, c.machine.kind
    if kind == "cpu":
        return 128, 6, 4, "a CPU: small enough to learn within the hour"
    if count < 100_000:
        return 384, 12, 6, f"ViT-S: {count:,} training pictures"
    return 768, 12, 12, f"ViT-B: {count:,} training pictures"


def _decoder(c: Chooser) -> None:
    for name, objective in (c.get("model.init_args.objectives") or {}).items():
        if isinstance(objective, dict) and objective.get("class_path") == PIXELS:
            decoder_width, decoder_depth, reason = decoder_for(_encoder_sizes(c)[0])
            at = f"model.init_args.objectives.{name}.init_args"
            c.fill(f"{at}.width", partial(_told, decoder_width, reason))
            c.fill(f"{at}.depth", partial(_told, decoder_depth, reason))


def decoder_for(width: int) -> tuple[int, int, str]:
    """Decoder width and depth for an encoder's width: the paper's from 768 up, below what was measured (BENCHMARKS.md, decoder)."""
    if width >= 768:
        return 512, 8, "the paper's, for encoders of width 768 and more"
    return max(64, width // 2), 2, f"as measured at width 128; 8 x 512 would be most of the arithmetic at width {width}"


def _encoder_sizes(c: Chooser) -> tuple[int, int]:
    at = "model.init_args.encoder.init_args"
    name = c.get(f"{at}.name")
    if c.get("model.init_args.encoder.class_path") in OTHERS:
        return int(_other(c).width), 1
    if c.get("model.init_args.encoder.class_path") == TIMM_VIT:
        from mae_vlm.convert.timm_vit import TimmVit

        timm_vit = TimmVit(name, c.get(f"{at}.arguments"), image_size=c.get(f"{at}.image_size"))
        return timm_vit.width, len(timm_vit.vit.blocks)
    if name is None:
        return int(c.get(f"{at}.width") or 768), int(c.get(f"{at}.depth") or 12)
    import torch

    from mae_vlm.encoders.vit import Vit

    with torch.device("meta"):
        vit = Vit(name)
    return vit.width, len(vit.vit.blocks)


def _other(c: Chooser) -> Any:
    """An encoder that is no plain ViT, built to ask it for its sizes."""
    stated = c.get("model.init_args.encoder")
    return encoder_class(stated["class_path"])(**(stated.get("init_args") or {}))


def _trainer(c: Chooser, training: bool) -> None:
    c.fill("trainer.precision", lambda: _precision(c.machine))
    if not training:
        return
    if _open_length(c):
        c.fill("trainer.max_steps", lambda: _length(c), unset=(None, -1))
    steps = _steps(c)
    every = 10 if steps >= 20 or not steps else 1
    c.fill("trainer.log_every_n_steps", lambda: (every, f"every curve has a point at least every {every} steps"))
    batches = steps * int(c.get("trainer.accumulate_grad_batches") or 1)
    if steps and c.get("trainer.val_check_interval") is None and c.get("trainer.check_val_every_n_epoch") in (None, 1):
        c.fill("trainer.val_check_interval", lambda: (max(1, batches // 10), "ten validations a run"))
        c.config["trainer"]["check_val_every_n_epoch"] = None  # Lightning then counts batches across epochs
    interval = c.get("trainer.val_check_interval")
    if type(interval) is int and c.get("trainer.check_val_every_n_epoch") == 1:
        c.config["trainer"]["check_val_every_n_epoch"] = None  # so many batches, also where an epoch has fewer
    if c.get("model.init_args.optimizer.class_path") != ADAMW:
        return
    if finetuning.is_one(c):
        finetuning.rates(c)
    elif c.get("model.init_args.weights") is not None:
        rate = min(default_base_lr(steps), continuing.BASE_LR)
        c.fill(
            "model.init_args.optimizer.init_args.base_lr", lambda: (rate, "goes on from trained weights: the paper's of long runs at most")
        )
    else:
        c.fill("model.init_args.optimizer.init_args.base_lr", lambda: (default_base_lr(steps), f"for {steps:,} optimizer steps"))


def _precision(machine: Machine) -> tuple[str, str]:
    if machine.bfloat16:
        return "bf16-mixed", f"this {machine.kind} multiplies bfloat16 in hardware"
    return "32-true", f"this {machine.kind} has no bfloat16 hardware"


def _open_length(c: Chooser) -> bool:
    return c.get("trainer.max_epochs") is None and c.get("trainer.max_steps") in (None, -1)


def _length(c: Chooser) -> tuple[int, str]:
    epoch = max(1, c.summary.train // int(c.get("data.batch_size")))
    if c.get("trainer.max_time") is not None:
        steps = max(1, round(_seconds(c.get("trainer.max_time")) / _step_seconds(c)))
        return steps, f"what max_time affords at {c.machine.flops / 1e9:.0f} GFLOP/s measured here; the rate comes down to its end there"
    if c.summary.format == "scenes":
        return 400, "the demo's length: some minutes on two CPU cores"
    epochs, least = (finetuning.EPOCHS, 5_000) if finetuning.is_one(c) else (300, 20_000)
    if c.machine.kind == "cuda":
        steps = max(least, epochs * epoch)
        return steps, f"{epochs} epochs of {epoch:,} steps, at least {least:,} steps"
    seconds = _step_seconds(c)
    steps = max(10 * epoch, min(epochs * epoch, round(3600 / seconds)))
    return (
        steps,
        f"about {steps * seconds / 60:.0f} minutes at {c.machine.flops / 1e9:.0f} GFLOP/s measured here, {steps / epoch:.0f} epochs",
    )


def _seconds(time: Any) -> float:
    """Seconds of Lightning's ``max_time``: DD:HH:MM:SS, or a mapping of days, hours, minutes and seconds."""
    if isinstance(time, dict):
        return timedelta(**time).total_seconds()
    days, hours, minutes, seconds = (int(part) for part in str(time).split(":"))
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds).total_seconds()


def _step_seconds(c: Chooser) -> float:
    """Expected time of a step, taking half of the measured matrix rate as reachable."""
    of_step = int(c.get("data.batch_size")) / (0.5 * c.machine.flops * _processes(c))
    if c.get("model.init_args.encoder.class_path") in OTHERS:
        encoder = _other(c)
        return encoder_step(encoder, encoder.space.patches) * of_step
    height, width = sides(c.get("data.image_size"))
    at = "model.init_args.encoder.init_args"
    space = TokenSpace(
        height, width, int(c.get(f"{at}.patch") or (c.get(f"{at}.arguments") or {}).get("patch_size") or 16), int(c.get("data.channels"))
    )
    encoder_width, depth = _encoder_sizes(c)
    decoder_width, decoder_depth, _ = decoder_for(encoder_width)
    visible = max(1, int(space.patches * 0.25))
    if finetuning.is_one(c):  # every patch, no decoder
        visible, decoder_depth = space.patches, 0
    per_picture = masked_step(space, visible, encoder_width, depth, decoder_width, decoder_depth)
    return per_picture * of_step


def _steps(c: Chooser) -> int:
    steps = c.get("trainer.max_steps")
    if steps not in (None, -1):
        return int(steps)
    epochs = c.get("trainer.max_epochs")
    return int(epochs) * max(1, c.summary.train // int(c.get("data.batch_size"))) if epochs not in (None, -1) else 0


def _processes(c: Chooser) -> int:
    devices = c.get("trainer.devices")
    nodes = int(c.get("trainer.num_nodes") or 1)
    if devices in (None, "auto", -1, "-1"):
        return nodes * (c.machine.devices if c.machine.kind == "cuda" else 1)
    if isinstance(devices, list):
        return nodes * len(devices)
    return nodes * (int(devices) if str(devices).isdigit() else len(str(devices).split(",")))
