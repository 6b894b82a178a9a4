"""Promises of mae_vlm.learners.finetune."""

from __future__ import annotations

import multiprocessing
import os
import socket
from functools import partial

import pytest
import torch
from one_step import first_gradients

from mae_vlm.data.module import Data
from mae_vlm.encoders.vit import Vit
from mae_vlm.heads.classify import Classify
from mae_vlm.learners.finetune import Finetuner
from mae_vlm.learners.optim import AdamW
from mae_vlm.types import Batch

HEAD = partial(Classify, classes=7)
PARTS = [(1, 1), (1, 4), (2, 1), (2, 4), (4, 1), (4, 4)]  # processes x accumulated batches


def a_finetuner(heads=None, size=16, **more) -> Finetuner:
    torch.manual_seed(0)
    encoder = Vit(width=32, depth=2, heads=4, patch=8, image_size=size)
    return Finetuner(encoder, heads or {"classify": HEAD}, AdamW(base_lr=1e-3), **more)


def a_batch(labels) -> Batch:
    count = len(labels)
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ids = [str(number) for number in range(count)]
    return Batch(images, torch.arange(count), torch.ones(count, dtype=torch.bool), torch.tensor(labels), ids)


class Uneven(Classify):
    """Knows the labels of some pictures alone: of one micro-batch all, of another none."""

    def _known_B(self, batch):
        return super()._known_B(batch) & torch.tensor([int(name.rpartition("-")[2]) % 7 < 3 for name in batch.ids])


def gradients(processes: int, accumulation: int) -> dict[str, torch.Tensor]:
    """Those of the first step of 16 pictures: two heads on one encoder, which count different pictures."""
    learner = a_finetuner({"some": partial(Uneven, classes=7), "all": partial(Classify, classes=7, weight=0.5)}, size=32)
    for head in learner.heads.values():
        torch.nn.init.normal_(head.linear.weight, std=0.5, generator=torch.Generator().manual_seed(1))
    return {name: torch.from_numpy(value) for name, value in first_gradients(learner, 16, processes, accumulation).items()}


def work(rank: int, processes: int, port: int, out: str) -> None:
    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "GROUP_RANK": 0}
    os.environ |= {name: str(value) for name, value in place.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}
    found = {accumulation: gradients(processes, accumulation) for accumulation in (1, 4)}
    if rank == 0:
        torch.save(found, out)


@pytest.fixture(scope="module")
def every_way(tmp_path_factory):
    """Gradients of the same step on 1, 2 and 4 processes; the server imports torch once, and its children start at once."""
    place = tmp_path_factory.mktemp("gradients")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mae_vlm.learners.finetune", "mae_vlm.data.module", "lightning.pytorch"])
    running = []
    for processes in (2, 4):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        for rank in range(processes):
            running.append(context.Process(target=work, args=(rank, processes, port, str(place / f"{processes}.pt"))))
            running[-1].start()
    found = {(1, accumulation): gradients(1, accumulation) for accumulation in (1, 4)}
    for process in running:
        process.join(120)
        assert process.exitcode == 0
    for processes in (2, 4):
        found |= {(processes, accumulation): one for accumulation, one in torch.load(place / f"{processes}.pt").items()}
    return found


@pytest.mark.parametrize("parts", PARTS[1:], ids=str)
def test_labels_spread_unevenly_over_processes_and_accumulated_batches_change_no_gradient(every_way, parts):
    whole, dealt = every_way[1, 1], every_way[parts]
    assert whole.keys() == dealt.keys() and len(whole) > 20
    assert all(value.abs().max() > 1e-4 for name, value in whole.items() if "bias" not in name)
    for name, value in whole.items():
        torch.testing.assert_close(dealt[name], value, rtol=0, atol=1e-5)


def test_a_mean_of_means_would_have_changed_them():
    """The parts above do differ in their labels, or they would show nothing."""
    learner = a_finetuner({"some": partial(Uneven, classes=7)}, size=32)
    data = Data(scenes=64, val_scenes=0, image_size=32, batch_size=16, num_workers=0)
    batch = next(iter(data.train_dataloader()))
    counts = {float(learner.heads["some"].counts(batch[start : start + 4])["cross_entropy"]) for start in range(0, 16, 4)}
    assert len(counts) > 1


def test_a_step_without_any_label_has_a_finite_loss_and_a_gradient_for_every_trained_weight():
    learner = a_finetuner()
    batch = a_batch([-1, -1, -1, -1])
    learner.shares.begin([learner._counts(batch)], 1, learner.device)
    loss = learner.training_step(batch, 0)
    loss.backward()
    assert loss.item() == 0
    assert all(weight.grad is not None and not weight.grad.any() for weight in learner.parameters() if weight.requires_grad)


def test_an_encoders_final_norm_that_no_head_looks_at_is_not_trained():
    learner = a_finetuner()
    assert not any(weight.requires_grad for weight in learner.towers.image.vit.norm.parameters())


@pytest.mark.parametrize("freeze, trained", [("none", 2), (1, 1), ("2", 0), ("all", 0)])
def test_freeze_keeps_the_first_blocks_and_what_is_below_them(freeze, trained):
    learner = a_finetuner(freeze=freeze).train()
    vit = learner.towers.image.vit
    moving = [any(weight.requires_grad for weight in block.parameters()) for block in vit.blocks]
    assert moving == [False] * (2 - trained) + [True] * trained
    assert vit.patch_embed.proj.weight.requires_grad == vit.cls_token.requires_grad == (freeze == "none")
    assert [block.training for block in vit.blocks] == moving
    assert all(weight.requires_grad for weight in learner.heads.parameters())


@pytest.mark.parametrize("freeze", ["some", 3, "-1", "1.5"])
def test_an_unknown_freeze_is_refused(freeze):
    with pytest.raises(ValueError, match=f"freeze {freeze} given, allowed are none, all, or how many of the encoder's 2 blocks"):
        a_finetuner(freeze=freeze)


def test_no_head_and_heads_that_disturb_each_other_are_refused():
    with pytest.raises(ValueError, match="no head given"):
        Finetuner(Vit(width=32, depth=1, heads=4, patch=8, image_size=16), {}, AdamW())
    with pytest.raises(ValueError, match="head one mixes pictures, of which no other head could learn"):
        a_finetuner({"one": partial(HEAD, mixup=0.8), "two": HEAD})


def test_weights_that_nobody_read_are_told_and_not_trained_without():
    learner = a_finetuner(weights="runs/somewhere")
    with pytest.raises(ValueError, match="weights runs/somewhere are not read"):
        learner.on_fit_start()
    learner.on_load_checkpoint({})  # a run that goes on has all weights from its checkpoint
    learner.on_fit_start()


def test_weights_of_another_grid_are_taken_with_their_positions_resampled():
    theirs, ours = Vit(width=32, depth=2, heads=4, patch=8, image_size=16), a_finetuner()
    wider = Finetuner(Vit(width=32, depth=2, heads=4, patch=8, image_size=(32, 48)), {"classify": HEAD}, AdamW())
    filled = wider.adopt(theirs.state_dict(), (2, 2))
    assert filled == ([], [], "positions resampled from 2 x 2 to 4 x 6 patches")
    assert wider.towers.image.vit.pos_embed.shape == (1, 25, 32) and wider.towers.image.vit.pos_embed.dtype == torch.float32
    assert torch.equal(wider.towers.image.vit.pos_embed[:, 0], theirs.vit.pos_embed[:, 0])
    assert ours.adopt(theirs.state_dict(), (2, 2)).resampled == ""
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.towers.image.state_dict().items())


def test_weights_of_other_sizes_are_refused_with_both():
    theirs = Vit(width=16, depth=2, heads=4, patch=8, image_size=16)
    with pytest.raises(ValueError, match=r"the weights don't fit the encoder: .* is \[.*16\] there and \[.*32\] here"):
        a_finetuner().adopt(theirs.state_dict(), (2, 2))


def test_tags_name_the_head_where_there_are_several():
    assert a_finetuner().watched == {"classify": ("val/top1", True)}
    assert a_finetuner({"one": HEAD, "two": HEAD}).watched == {"one": ("val/one/top1", True), "two": ("val/two/top1", True)}


def test_validation_counts_every_labelled_picture_once_and_padding_not_at_all(monkeypatch):
    learner, logged = a_finetuner().eval(), {}
    torch.nn.init.normal_(learner.heads["classify"].linear.weight)
    monkeypatch.setattr(learner, "log", lambda name, value, **_: logged.update({name: float(value)}))
    whole = a_batch([0, 1, -1, 3, 4, 5])
    padded = whole[3:]
    padded = Batch(*(torch.cat([value, value[:1]]) for value in (padded.images_BCHW, padded.keys_B, padded.real_B, padded.labels_B)))
    padded.real_B[-1] = False
    with torch.no_grad():
        for batch in (whole[:3], padded):
            learner.validation_step(batch, 0)
        learner.on_validation_epoch_end()
        apart = dict(logged)
        learner.validation_step(whole, 0)
        learner.on_validation_epoch_end()
    assert {"val/loss", "val/top1", "val/top5", "val/f1", "val/calibration_error", "val/classify/cross_entropy"} == apart.keys()
    assert apart == pytest.approx(logged, rel=1e-5)
    assert 0 < apart["val/top1"] < 1 or apart["val/top5"] > 0


def test_a_step_can_be_repeated_from_its_keys():
    def loss():
        learner, batch = a_finetuner({"classify": partial(HEAD, mixup=0.8, cutmix=1.0, smoothing=0.1)}), a_batch([0, 1, 2, 3])
        torch.nn.init.normal_(learner.heads["classify"].linear.weight, generator=torch.Generator().manual_seed(2))
        learner.shares.begin([learner._counts(batch)], 1, learner.device)
        return learner.training_step(batch, 0)

    assert torch.equal(loss(), loss())


def test_layers_learn_at_decaying_rates_every_weight_once():
    learner = a_finetuner()
    optimizer, _ = AdamW(base_lr=1e-3, layer_decay=0.5).build(learner, 256, 100)
    rates = {id(weight): group["initial_lr"] for group in optimizer.param_groups for weight in group["params"]}
    assert len(rates) == sum(len(group["params"]) for group in optimizer.param_groups)
    assert rates.keys() == {id(weight) for weight in learner.parameters() if weight.requires_grad}
    vit = learner.towers.image.vit
    assert rates[id(learner.heads["classify"].linear.weight)] == pytest.approx(1e-3)
    assert rates[id(vit.blocks[1].attn.qkv.weight)] == pytest.approx(0.5e-3)
    assert rates[id(vit.blocks[0].attn.qkv.weight)] == pytest.approx(0.25e-3)
    assert rates[id(vit.patch_embed.proj.weight)] == rates[id(vit.cls_token)] == pytest.approx(0.125e-3)


def test_paths_are_dropped_in_training_alone_and_more_of_them_higher_up():
    encoder = Vit(width=32, depth=3, heads=4, patch=8, image_size=16, drop_path=0.5)
    assert [getattr(block.drop_path1, "drop_prob", 0.0) for block in encoder.vit.blocks] == pytest.approx([0.0, 0.25, 0.5])
    images = encoder.normalise(a_batch([0] * 8).images_BCHW)
    with torch.no_grad():
        assert not torch.equal(*(encoder.train().full(images).tokens_BTD for _ in range(2)))
        assert torch.equal(*(encoder.eval().full(images).tokens_BTD for _ in range(2)))


def test_an_epochs_last_step_with_fewer_batches_weighs_its_labels_alike():
    """Accumulating 4, an epoch may end with 2: the trainer still divides by 4."""
    learner = a_finetuner()
    torch.nn.init.normal_(learner.heads["classify"].linear.weight)
    whole = a_batch([0, -1, -1, 3])
    learner.shares.begin([learner._counts(whole)], 1, learner.device)
    expected = learner.training_step(whole, 0).item()
    parts = [whole[:2], whole[2:]]
    learner.shares.begin([learner._counts(one) for one in parts], 4, learner.device)
    assert sum(learner.training_step(one, 0).item() for one in parts) / 4 == pytest.approx(expected)
