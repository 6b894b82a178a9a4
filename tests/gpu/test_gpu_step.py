"""What must hold on a CUDA device. Skipped without one."""

from functools import partial

import pytest
import torch

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.learners.optim import AdamW
from mae_vlm.learners.pretrain import Pretrainer
from mae_vlm.objectives.pixels import Pixels
from mae_vlm.tokens.chance import key_of, uniform
from mae_vlm.tokens.masking import BlockMask, CellMask, GridMask, InverseBlockMask, RandomMask
from mae_vlm.types import Batch, TokenSpace

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]

KINDS = [RandomMask, CellMask, BlockMask, GridMask, InverseBlockMask]
SIZES = {"width": 192, "depth": 4, "heads": 3, "patch": 16, "image_size": 224}


def some_keys(count: int) -> torch.Tensor:
    return torch.tensor([key_of(0, 0, sample) for sample in range(count)])


def a_batch(count: int = 16, size: int = 224) -> Batch:
    keys_B = some_keys(count)
    images = (uniform(keys_B, 3 * size * size, stream=9) * 255).to(torch.uint8).view(count, 3, size, size)
    return Batch(images, keys_B, torch.ones(count, dtype=torch.bool), torch.full((count,), -1))


def a_pretrainer(**sizes) -> Pretrainer:
    torch.manual_seed(0)
    pixels = partial(Pixels, width=128, depth=2)
    return Pretrainer(Vit(**SIZES | sizes), RandomMask(0.75), {"pixels": pixels}, AdamW(base_lr=1e-3))


def test_chance_is_the_same_bits_on_both_devices():
    keys_B = some_keys(1000)
    for stream in (0, 1):
        assert torch.equal(uniform(keys_B, 1000, stream), uniform(keys_B.cuda(), 1000, stream).cpu())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ratio", [0.6, 0.75])
@pytest.mark.parametrize("space", [TokenSpace(224, 224, 16), TokenSpace(32, 96, 4)], ids=str)
def test_masks_are_the_same_on_both_devices(kind, ratio, space):
    keys_B = some_keys(4096)
    here, there = kind(ratio)(keys_B, space), kind(ratio)(keys_B.cuda(), space)
    assert torch.equal(here.keep_BK, there.keep_BK.cpu())
    assert torch.equal(here.hide_BM, there.hide_BM.cpu())


def test_the_loss_in_float32_is_that_of_the_cpu():
    learner, batch = a_pretrainer(), a_batch(4)
    here = learner.training_step(batch, 0).item()
    tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        there = learner.cuda().training_step(batch.to("cuda"), 0).item()
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32
    assert there == pytest.approx(here, rel=1e-5)


def test_bfloat16_steps_stay_finite_and_learn():
    learner, batch = a_pretrainer().cuda(), a_batch().to("cuda")
    optimizer, schedule = learner.optimizer.build(learner, 256, 20)
    assert optimizer.defaults["fused"]
    losses = []
    for step in range(20):
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            loss = learner.training_step(batch, step)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss)
        assert loss.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in learner.parameters() if p.grad is not None)
    assert torch.stack(losses).isfinite().all()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("kind", KINDS)
def test_forward_and_backward_never_wait_for_the_host(kind):
    learner, batch = a_pretrainer().cuda(), a_batch(4).pin_memory()
    learner.masking = kind(0.75)

    def step() -> None:
        on_device = batch.to("cuda", non_blocking=True)
        with torch.autocast("cuda", torch.bfloat16):
            loss = learner.training_step(on_device, 0)
        loss.backward()

    step()  # libraries initialise themselves with synchronisations
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_compiled_blocks_give_the_same_loss():
    learner, batch = a_pretrainer().cuda(), a_batch(4).to("cuda")
    plain = learner.training_step(batch, 0)
    for block in [*learner.towers.image.vit.blocks, *learner.objectives["pixels"].decoder.decoder_blocks]:
        block.compile()
    compiled = learner.training_step(batch, 0)
    compiled.backward()
    assert compiled.item() == pytest.approx(plain.item(), rel=1e-4)


def test_a_rope_model_runs_masked_on_the_gpu_as_on_the_cpu():
    torch.manual_seed(0)
    towers = Towers(Vit("vit_small_patch16_dinov3", image_size=64)).eval()
    batch = a_batch(2, 64)
    with torch.no_grad():
        here = Features(towers, batch, RandomMask(0.75)).masked.tokens_BTD
        there = Features(towers.cuda(), batch.to("cuda"), RandomMask(0.75)).masked.tokens_BTD
    torch.testing.assert_close(there.cpu(), here, rtol=0, atol=1e-3)
