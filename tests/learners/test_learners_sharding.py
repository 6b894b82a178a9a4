"""Sharded weights change where numbers live, not which numbers they are. On two CPU processes."""

from __future__ import annotations

import pytest
import torch
from several_processes import on_processes
from test_learners_pretrain import a_batch, a_pretrainer
from timm.layers import DropPath
from tiny_runs import REPOSITORY, TINY, check_same_losses, content, curve, in_process

from mae_vlm.encoders.vit import Vit

STEPS = 8
LENGTH = ["--trainer.max_steps", str(STEPS), "--trainer.log_every_n_steps", "1", "--trainer.gradient_clip_val", "0.5"]
LENGTH += ["--trainer.val_check_interval", "4", "--checkpoint.every_n_steps", "4"]
FSDP = ["--config", str(REPOSITORY / "configs" / "trainer" / "cpu_two_processes_fsdp.yaml")]


def fit(root, *words):
    """In each of the processes: the real command."""
    assert in_process("fit", *FSDP, "--name", "default", *TINY, *LENGTH, "--trainer.default_root_dir", root, *words) == 0


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    root = tmp_path_factory.mktemp("alone")
    assert in_process("fit", *TINY, *LENGTH, "--trainer.default_root_dir", root) == 0
    return root / "default" / "version_0"


def check_same_run(run, alone):
    check_same_losses(run, alone, STEPS)
    for tag in ("val/loss", "val/pixels/other_picture"):
        ours, theirs = curve(run, tag), curve(alone, tag)  # an interval counts micro-steps: with accumulation there are more
        assert {step: ours[step] for step in theirs} == pytest.approx(theirs, abs=1e-4)
    assert curve(run, "optimizer/grad_norm") == pytest.approx(curve(alone, "optimizer/grad_norm"), rel=1e-3)
    ours, theirs = content(run), content(alone)
    assert ours["state_dict"].keys() == theirs["state_dict"].keys()
    for name, value in ours["state_dict"].items():
        torch.testing.assert_close(value, theirs["state_dict"][name], atol=1e-3, rtol=0)
    (ours,), (theirs,) = ours["optimizer_states"], theirs["optimizer_states"]
    assert [group["params"] for group in ours["param_groups"]] == [group["params"] for group in theirs["param_groups"]]
    for number, moments in ours["state"].items():
        assert moments["step"] == STEPS
        torch.testing.assert_close(moments["exp_avg"], theirs["state"][number]["exp_avg"], atol=1e-3, rtol=0.1)


@pytest.mark.parametrize(
    "words",
    [[], ["--trainer.accumulate_grad_batches", "2", "--model.encoder.checkpoint_blocks", "true"]],
    ids=["", "accumulating, with checkpointed blocks"],
)
def test_sharded_processes_have_the_losses_of_one_and_its_checkpoint(alone, tmp_path, words):
    on_processes(2, fit, str(tmp_path), *words)
    run = tmp_path / "default" / "version_0"
    assert (run / "pictures" / f"reconstruction_{STEPS:08d}.png").is_file()
    check_same_run(run, alone)


def look_inside():
    """In each process: what is sharded, when, and that a bad step moves nothing."""
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import Callback
    from torch.distributed.tensor import DTensor

    from mae_vlm.callbacks.guard import Guard
    from mae_vlm.learners.sharding import Fsdp, whole

    learner, plain = a_pretrainer(), a_pretrainer()
    expected = plain.training_step(a_batch(), 0)
    found = {}

    class Look(Callback):
        def on_train_start(self, trainer, module):
            found["sharded"] = all(isinstance(weight, DTensor) for weight in module.parameters())
            found["share"] = sum(weight.to_local().numel() for weight in module.parameters()) / sum(w.numel() for w in module.parameters())
            with whole(module):
                found["whole"] = not any(isinstance(weight, DTensor) for weight in module.parameters())
                if trainer.is_global_zero:  # alone: no other process is asked
                    torch.manual_seed(0)
                    found["loss"] = abs(float(module._losses(module.features(a_batch()))["pixels"].value) - float(expected))
            found["again"] = all(isinstance(weight, DTensor) for weight in module.parameters())

        def on_before_optimizer_step(self, trainer, module, optimizer):
            if trainer.global_step == 1 and trainer.global_rank == 1:
                module.towers.image.vit.blocks[0].attn.qkv.weight.grad.to_local()[0, 0] = float("nan")
            found["before"] = [weight.to_local().clone() for weight in module.parameters()]

        def on_train_batch_end(self, trainer, module, *arguments):
            moved = any(not torch.equal(a, b.to_local()) for a, b in zip(found["before"], module.parameters(), strict=True))
            found.setdefault("moved", []).append(moved)

    class Data(pl.LightningDataModule):
        batch_size = 8

        def train_dataloader(self):
            return torch.utils.data.DataLoader([a_batch()] * 3, batch_size=None)

    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy=Fsdp(process_group_backend="gloo"), max_epochs=1, log_every_n_steps=1,
        callbacks=[Look(), Guard()], use_distributed_sampler=False, **quiet,
    )  # fmt: skip
    trainer.fit(learner, datamodule=Data())
    return {name: value for name, value in found.items() if name != "before"}


def test_every_weight_is_a_shard_but_for_who_asks_and_a_bad_step_moves_no_shard():
    first, second = on_processes(2, look_inside)
    for found in (first, second):
        assert found["sharded"] and found["whole"] and found["again"]
        assert found["moved"] == [True, False, True], "the second step had a NaN in one shard of one process"
    assert first["share"] + second["share"] == pytest.approx(1) and 0.3 < first["share"] < 0.7
    assert first["loss"] < 1e-6


def stored_bytes(learner) -> int:
    """What autograd keeps between the passes: bytes of different storages that are no weights."""
    weights = {weight.untyped_storage().data_ptr() for weight in learner.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        learner.training_step(a_batch(), 0)
    return sum(kept.values())


@pytest.mark.parametrize("view", ["visible", "full"])
@pytest.mark.parametrize("name", [None, "vit_small_patch16_rope_224"], ids=["", "with rotary positions"])
def test_checkpointed_blocks_have_the_same_output_and_gradients_also_with_dropped_paths(view, name):
    found = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        sizes = {"width": 32, "depth": 3, "heads": 4, "patch": 4} if name is None else {"name": name}
        encoder = Vit(**sizes, image_size=16 if name is None else 32, checkpoint_blocks=checkpointed)
        for block in encoder.vit.blocks:
            block.drop_path1 = DropPath(0.5)
        torch.manual_seed(1)
        images_BCHW = torch.randn(4, 3, *(2 * [16 if name is None else 32]))
        for _ in range(2):  # two micro-steps, whose gradients add up
            if view == "full":
                tokens_BTD = encoder.full(images_BCHW).tokens_BTD
            else:
                keep_BK = torch.rand(4, encoder.space.patches).argsort(dim=1)[:, :3]
                tokens_BTD = encoder.visible(encoder.patchify(images_BCHW), keep_BK).tokens_BTD
            tokens_BTD.square().mean().backward()
        found.append([tokens_BTD.detach(), *(weight.grad for weight in encoder.parameters() if weight.grad is not None)])
    assert len(found[0]) == len(found[1]) > 20
    assert all(torch.equal(left, right) for left, right in zip(*found, strict=True))


def test_checkpointed_blocks_keep_less():
    plain, sparing = a_pretrainer(), a_pretrainer()
    sparing.towers.image.vit.set_grad_checkpointing(True)
    before, after = stored_bytes(plain), stored_bytes(sparing)
    print(f"kept for the backward pass: {before:,} bytes, with checkpointed blocks {after:,}")
    assert after < 0.7 * before
