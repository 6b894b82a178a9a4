"""A checkpoint in pieces is as good as one in a file: any number of processes goes on from it, and damage is seen."""

from __future__ import annotations

import datetime
import errno
import os
import pickle
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import TorchElasticEnvironment
from several_processes import on_processes
from tiny_runs import REPOSITORY, TINY, content, curve, in_process
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from mae_vlm import pieces, storage
from mae_vlm.convert import native
from mae_vlm.learners.sharding import Fsdp

pytestmark = pytest.mark.faults

STEPS = 8
LENGTH = ["--trainer.max_steps", str(STEPS), "--trainer.log_every_n_steps", "1", "--checkpoint.every_n_steps", "2"]
LENGTH += ["--checkpoint.keep_last", "4", "--trainer.val_check_interval", "4", "--probes.pictures", "0"]
FSDP = ["--config", str(REPOSITORY / "configs" / "trainer" / "cpu_two_processes_fsdp.yaml"), "--name", "default"]
IN_PIECES = [*FSDP, "--trainer.strategy.init_args.save_distributed_checkpoint", "true"]
DDP = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]


def fit(root, *words):
    assert in_process("fit", *TINY, *LENGTH, "--trainer.default_root_dir", root, *words) == 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    fit(root)
    return root / "default" / "version_0"


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run that two processes with sharded weights have begun: steps 2 and 4, in pieces."""
    root = tmp_path_factory.mktemp("begun")
    on_processes(2, fit, str(root), *IN_PIECES)
    return cut_off(root / "default" / "version_0")


def cut_off(run: Path) -> Path:
    """The run as it was after its fourth step: another length would have had another learning rate."""
    folder = run / "checkpoints"
    for step in (6, 8):
        storage.remove(folder / f"step_{step:08d}.ckpt")
    storage.point(folder / storage.LAST, folder / "step_00000004.ckpt")
    return run


def copied(run: Path, root: Path) -> Path:
    shutil.copytree(run.parent.parent, root, symlinks=True, dirs_exist_ok=True)
    return root / "default" / "version_0"


def test_it_is_a_folder_with_a_part_of_each_process_and_checksums_of_all(begun):
    folder = begun / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", storage.MANIFEST, "step_00000002.ckpt", "step_00000004.ckpt"]
    newest = (folder / "last.ckpt").resolve()
    assert newest.name == "step_00000004.ckpt" and storage.damage(newest) is None
    names = {path.name for path in newest.iterdir()} - {storage.MANIFEST}
    assert {"__0_0.distcp", "__1_0.distcp", "meta.pt", ".metadata"} == names == set(storage.entries(newest))


def test_every_verb_reads_it(begun, tmp_path):
    newest = begun / "checkpoints" / "step_00000004.ckpt"
    assert native.find_checkpoint(begun) == native.find_checkpoint(newest) == newest
    assert native.step_of(begun) == 4 and native.data_state(begun)
    features_BD = native.load(begun).encode(torch.zeros(2, 3, 32, 32))
    assert features_BD.shape == (2, 32) and bool(features_BD.isfinite().all())
    assert in_process("validate", "--ckpt_path", newest, "--trainer.default_root_dir", tmp_path, "--trainer.accelerator", "cpu") == 0


@pytest.mark.parametrize("count, words", [(1, []), (1, [*FSDP, "--trainer.devices", "1"]), (2, DDP), (2, FSDP), (2, IN_PIECES)],
                         ids=["one process", "one sharded", "ddp", "a file", "pieces"])  # fmt: skip
def test_any_strategy_and_number_of_processes_goes_on_from_pieces(whole, begun, tmp_path, count, words):
    run = copied(begun, tmp_path)
    if count == 1 and not words:
        fit(str(tmp_path), "--ckpt_path", "last")
    else:
        on_processes(count, fit, str(tmp_path), "--ckpt_path", "last", *words)
    ends_as(whole, run)


@pytest.mark.parametrize("first", ["one process", "ddp"])
def test_sharded_processes_go_on_from_a_file(whole, tmp_path, first):
    if first == "ddp":
        on_processes(2, fit, str(tmp_path), *DDP)
    else:
        fit(str(tmp_path))
    cut_off(tmp_path / "default" / "version_0")
    on_processes(2, fit, str(tmp_path), "--ckpt_path", "last", *IN_PIECES)
    ends_as(whole, tmp_path / "default" / "version_0")


def ends_as(whole, run):
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]
    ours, theirs = pieces_or_file(run), content(whole)
    assert ours["global_step"] == STEPS
    for name, value in theirs["state_dict"].items():
        torch.testing.assert_close(ours["state_dict"][name], value, atol=2e-4, rtol=0)
    moments, others = ours["optimizer_states"][0]["state"], theirs["optimizer_states"][0]["state"]
    assert moments.keys() == others.keys()
    for number, moment in moments.items():
        assert moment["step"] == others[number]["step"] and moment["exp_avg"].shape == others[number]["exp_avg"].shape
    losses, expected = curve(run, "train/loss"), curve(whole, "train/loss")
    late = [step for step in losses if step >= 4]
    assert len(late) == 4 and max(abs(losses[step] - expected[step]) for step in late) < 1e-4


def pieces_or_file(run: Path) -> dict:
    newest = native.find_checkpoint(run)
    return pieces.read(newest) if newest.is_dir() else torch.load(newest, weights_only=True)


@pytest.mark.parametrize("name", ["__1_0.distcp", "meta.pt", ".metadata", storage.MANIFEST])
@pytest.mark.parametrize("harm", ["flip", "cut", "gone"])
def test_a_damaged_piece_is_named_and_the_checkpoint_before_taken(begun, tmp_path, name, harm):
    folder = copied(begun, tmp_path) / "checkpoints"
    file = folder / "step_00000004.ckpt" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes(bytes(data) if harm == "flip" else data[: len(data) // 2])
    with pytest.warns(RuntimeWarning, match=rf"damaged checkpoint .*step_00000004\.ckpt: .*{name.strip('_')}"):
        assert native.find_checkpoint(folder.parent) == folder / "step_00000002.ckpt"
    with pytest.raises(ValueError, match="is damaged: "):
        native.find_checkpoint(folder / "step_00000004.ckpt")


def test_a_half_written_folder_is_never_taken_and_goes_away(begun, tmp_path):
    run = copied(begun, tmp_path)
    shutil.copytree(run / "checkpoints" / "step_00000004.ckpt", run / "checkpoints" / "step_00000006.ckpt.partial")
    assert native.find_checkpoint(run).name == "step_00000004.ckpt"
    fit(str(tmp_path), "--ckpt_path", "last", "--trainer.max_steps", "5")
    assert not list(run.rglob("*.partial"))


class Code:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("name", [".metadata", "meta.pt"])
def test_an_index_that_would_run_code_is_refused(begun, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(begun / "checkpoints" / "step_00000004.ckpt", tmp_path / "handed_over.ckpt")
    (folder / name).write_bytes(pickle.dumps(Code()))
    (folder / storage.MANIFEST).unlink()
    with pytest.raises(ValueError, match="cannot be read as a checkpoint in pieces"):
        pieces.read(folder)
    assert not (tmp_path / "ran").exists()


def own_process() -> Fsdp:
    """The strategy on this process of several; a hang ends in an error."""
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
    strategy = Fsdp(save_distributed_checkpoint=True, process_group_backend="gloo")
    strategy.cluster_environment = TorchElasticEnvironment()
    return strategy


def sharded(sharded_numbers: int, whole_numbers: int, step: int) -> dict:
    shards = distribute_tensor(torch.ones(sharded_numbers), init_device_mesh("cpu", (dist.get_world_size(),)), [Shard(0)])
    return {"global_step": step, "state_dict": {"weight": shards}, "callbacks": {"whole": torch.ones(whole_numbers)}}


def raised(work) -> tuple[str, int | None, str]:
    try:
        work()
    except BaseException as problem:
        return type(problem).__name__, getattr(problem, "errno", None), str(problem)
    return "nothing", None, ""


def save_without_room(root: str) -> list:
    """What each process meets where the shards, then the rest, are too large for the disk; and then with room."""
    strategy, target = own_process(), Path(root) / "checkpoints" / "step_00000004.ckpt"
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails as on a full disk, instead of ending the process
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    met = []
    for sizes in ((400_000, 10), (1000, 200_000)):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, unlimited[1]))
        met.append(raised(lambda sizes=sizes: strategy.save_checkpoint(sharded(*sizes, 4), target)))
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        dist.barrier()  # fails, or waits for ever, where the processes are out of step
        met.append(sorted(path.name for path in target.parent.iterdir()))
        dist.barrier()
    met.append(raised(lambda: strategy.save_checkpoint(sharded(1000, 10, 4), target)))
    return met


def test_pieces_that_do_not_fit_are_refused_on_all_processes_which_go_on(tmp_path):
    for shards, after_shards, rest, after_rest, then in on_processes(2, save_without_room, str(tmp_path)):
        assert shards[:2] == rest[:2] == ("OSError", errno.EFBIG)
        assert "_0.distcp" in shards[2] and "meta.pt" in rest[2] and "it needs" in rest[2]
        assert after_shards == after_rest == []  # nothing half written is left
        assert then[0] == "nothing"
    assert storage.damage(tmp_path / "checkpoints" / "step_00000004.ckpt") is None


def fail_alone() -> list:
    strategy = own_process()

    def work():
        if dist.get_rank() == 1:
            raise KeyError("lost")
        return "done"

    return [raised(lambda: strategy._together(work)), strategy._together(dist.get_rank)]


def test_an_error_of_one_process_is_that_of_all():
    for (kind, _, words), ranks in on_processes(2, fail_alone):
        assert kind == "RuntimeError" and words == "KeyError: 'lost'" and ranks == [0, 1]


def test_where_only_torch_says_that_it_could_not_write_the_disk_was_full(tmp_path):
    words = RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 704 vs 598")
    refused = pieces._refusal(words, tmp_path / "piece")
    assert refused is not None and refused.errno == errno.ENOSPC and refused.filename == str(tmp_path / "piece")
    assert pieces._refusal(RuntimeError("a fault of ours"), tmp_path) is None
