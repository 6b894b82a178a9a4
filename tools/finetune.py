"""Fine-tuning on a few labels, from pretrained weights or from scratch, with the same recipe."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn
from torch.nn import functional

from mae_vlm.encoders.init import mae_init
from mae_vlm.encoders.vit import Vit
from mae_vlm.learners.schedule import warmup_cosine
from mae_vlm.tokens.chance import key_of
from tools.cifar_pictures import CLASSES, Pictures, balanced, keys, order

_KEEP = 100  # steps


@dataclass(frozen=True)
class Finetuning:
    """AdamW (.9, .999), 10 % warm-up and half cosine, crops from ``crop_min`` of the area up, and flips."""

    lr: float = 1e-3
    epochs: int = 30
    multiple: int = 1  # the run is this many times as long
    batch: int = 128
    weight_decay: float = 0.05
    layer_decay: float = 1.0
    crop_min: float = 0.6
    per_class: int = 200
    seed: int = 0  # of the head, the order and the crops; the labelled pictures are always the same


def classifier(encoder: Vit, pretrained: bool) -> nn.Module:
    """The encoder with a fresh norm on the mean of its patch tokens and a linear head; the final norm is dropped (MAE, appendix A.1)."""
    model: nn.Module = timm.create_model(encoder.architecture, **encoder.model_args | {"num_classes": CLASSES, "fc_norm": True})
    mae_init(model)
    nn.init.trunc_normal_(model.get_parameter("head.weight"), std=2e-5)
    state = encoder.vit.state_dict()
    wanted = {name: value for name, value in state.items() if not name.startswith("norm.") and (pretrained or name == "pos_embed")}
    missing = model.load_state_dict(wanted, strict=False)
    assert not missing.unexpected_keys, missing
    model.get_parameter("pos_embed").requires_grad = False
    return model


def finetune(
    encoder: Vit, pretrained: bool, train: Pictures, val: Pictures, setting: Finetuning, kept: Path | None = None
) -> dict[str, float]:
    """Top-1 % on all validation pictures after the last step, and the seconds of the loop.

    With ``kept``, a file, the run may be killed: it writes its state there every ``_KEEP`` steps and goes on from it, to the same weights.
    """
    torch.manual_seed(setting.seed)
    few = balanced(train, setting.per_class)
    model = classifier(encoder, pretrained)
    groups = param_groups_layer_decay(model, weight_decay=setting.weight_decay, layer_decay=setting.layer_decay)
    per_epoch = len(few) // setting.batch
    steps = per_epoch * setting.epochs * setting.multiple
    optimizer = torch.optim.AdamW(groups, lr=setting.lr, fused=True)
    scales = [group.get("lr_scale", 1.0) for group in optimizer.param_groups]
    first, mean, before, before_cpu = _gone_on(kept, model, optimizer, setting)
    began, began_cpu = time.perf_counter() - before, time.process_time() - before_cpu
    model.train()
    for step in range(first, steps):
        factor = setting.lr * warmup_cosine(step, steps, round(0.1 * steps))
        for group, scale in zip(optimizer.param_groups, scales, strict=True):
            group["lr"] = factor * scale
        loss = _step(model, encoder, few, step, per_epoch, setting)
        optimizer.step()
        mean += (loss - mean) * 0.05
        if kept is not None and (step + 1) % _KEEP == 0:
            _keep(kept, model, optimizer, setting, (step + 1, mean, time.perf_counter() - began, time.process_time() - began_cpu))
    seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    return {"top1": _top1(model, encoder, val), "train_loss": mean, "steps": steps, "seconds": seconds, "cpu_seconds": cpu}


def _keep(kept: Path, model: nn.Module, optimizer: torch.optim.Optimizer, setting: Finetuning, told: tuple[float, ...]) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "setting": asdict(setting), "told": told}
    part = kept.with_suffix(".part")
    torch.save(state, part)
    part.replace(kept)


def _gone_on(kept: Path | None, model: nn.Module, optimizer: torch.optim.Optimizer, setting: Finetuning) -> tuple[int, float, float, float]:
    """First step, mean loss, seconds and processor seconds so far; zeros where nothing was kept or it was of another setting."""
    state = torch.load(kept, weights_only=True) if kept is not None and kept.exists() else {}
    if state.get("setting") != asdict(setting):
        return 0, 0.0, 0.0, 0.0
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    step, mean, seconds, cpu = state["told"]
    return int(step), mean, seconds, cpu


def _step(model: nn.Module, encoder: Vit, few: Pictures, step: int, per_epoch: int, setting: Finetuning) -> float:
    """Gradients of one batch; the crop of a picture depends on seed, epoch and place alone."""
    epoch, place = divmod(step, per_epoch)
    index_B = order(len(few), setting.seed, epoch)[place * setting.batch : (place + 1) * setting.batch]
    batch = few.batch(index_B, keys(key_of(setting.seed, 1), epoch, index_B), setting.crop_min)
    model.zero_grad()
    loss = functional.cross_entropy(model(encoder.normalise(batch.images_BCHW)), batch.labels_B)
    torch.autograd.backward(loss)
    return loss.item()


@torch.inference_mode()
def _top1(model: nn.Module, encoder: Vit, val: Pictures, batch: int = 500) -> float:
    model.eval()
    right = torch.zeros((), dtype=torch.int64)
    for start in range(0, len(val), batch):
        scores_BL: Tensor = model(encoder.normalise(val.images_BCHW[start : start + batch]))
        right += (scores_BL.argmax(1) == val.labels_B[start : start + batch]).sum()
    return 100 * right.item() / len(val)
