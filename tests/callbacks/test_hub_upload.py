"""A run that uploads itself: when, by whom, and that nothing of it ever holds up or ends the run."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import ClassVar

import pytest
import yaml
from hub_server import running
from hub_state import TOKEN, point_at
from tiny_runs import TINY, in_process

from mae_vlm.callbacks import hub as module
from mae_vlm.callbacks.hub import HubUpload
from mae_vlm.callbacks.signals import Signals

QUIET = ["--probes.pictures", "0", "--trainer.max_steps", "4"]
TO = ["--hub.repo", "org/name", "--hub.license", "mit"]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with running() as hub:
        point_at(monkeypatch, hub, tmp_path / "hub_home")
        yield hub


# -- a real run, real processes


def test_a_run_uploads_itself_at_its_end_and_says_so(hub, tmp_path, capfd):
    hub.fail("POST .*/commit/", "mute")  # tried again
    assert in_process("fit", *TINY, *QUIET, *TO, "--hub.with_state", "true", "--trainer.default_root_dir", tmp_path / "runs") == 0
    done = capfd.readouterr()
    repo = hub.repos["org/name"]
    assert repo.private and {"README.md", "model.safetensors", "checkpoints/last.ckpt"} < set(repo.files)
    assert "weights after 4 optimizer steps." in repo.files["README.md"].decode(), "its last, and the run had finished"
    assert f"uploaded step 4 to {hub.url}/org/name/commit/{repo.head}" in done.out
    config = yaml.safe_load((tmp_path / "runs" / "default" / "version_0" / "config.yaml").read_text())
    assert config["hub"]["repo"] == "org/name" and config["hub"]["public"] is False
    said = [done.out, done.err, *(file.read_bytes().decode("latin-1") for file in (tmp_path / "runs").rglob("*") if file.is_file())]
    assert not any(TOKEN in text for text in said)


def test_a_network_that_is_gone_ends_no_run_and_the_wait_for_it_is_bounded(hub, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert in_process("fit", *TINY, *QUIET, *TO, "--hub.wait", "2", "--trainer.default_root_dir", tmp_path / "runs") == 0
    done = capfd.readouterr()
    assert "uploading to org/name, for 2 s at most ..." in done.out
    lines = [line for line in done.err.splitlines() if "org/name" in line]
    assert len(lines) == 1 and "the upload to org/name was not done in time; the run is whole, upload it with: " in lines[0]
    command = lines[0].partition("upload it with: python -m mae_vlm ")[2].split()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    assert in_process(*command) == 0 and "model.safetensors" in hub.repos["org/name"].files


# -- options


@pytest.mark.parametrize(
    "options, said",
    [
        ({"repo": "org/name"}, "no licence given"),
        ({"repo": "org/name", "license": "mitt"}, "licence 'mitt' is none that the hub knows; did you mean mit?"),
        ({"repo": "name", "license": "mit"}, "'name' is no name of a repository"),
        ({"repo": "org/name", "to": "x", "license": "mit"}, "give one target"),
        ({"every_n_steps": 0}, "hub.every_n_steps 0, every_n_minutes 60.0 and wait 300.0 must be positive"),
        ({"every_n_minutes": 0.0}, "must be positive"),
        ({"weights": "best"}, "hub.weights 'best' given, allowed are raw and ema"),
    ],
)
def test_a_wrong_option_is_told_before_the_run(options, said):
    with pytest.raises(ValueError, match=said):
        HubUpload(**options)


def test_it_is_off_by_default_and_a_wrong_option_of_fit_is_one_line(tmp_path, monkeypatch, capsys):
    assert not HubUpload().on and HubUpload().words == []
    monkeypatch.chdir(tmp_path)
    assert in_process("fit", *TINY, "--hub.repo", "org/name") == 1
    told = capsys.readouterr().err.strip()
    assert told.startswith("mae_vlm: error: no licence given") and "\n" not in told
    assert list(tmp_path.iterdir()) == []


# -- when, with processes that only pretend


class Pretended:
    """Stands for an upload: ends when a test says so."""

    started: ClassVar[list[Pretended]] = []

    def __init__(self, words):
        self.words, self.checks, self.code, self.line, self.closed = words, "--check" in words, None, "uploaded", False
        Pretended.started.append(self)

    @property
    def ended(self):
        return self.code is not None

    def end(self, code, line="uploaded"):
        self.code, self.line = code, line

    def wait(self, seconds):
        Pretended.run.now += 0 if self.ended else seconds
        return self.ended

    def close(self):
        self.closed = True
        return -9 if self.code is None else self.code


class Run:
    """A run that takes a step whenever a test says so; its clock is the test's."""

    def __init__(self, folder, patch, first=True, **options):
        self.now, self.step = 1000.0, 0
        patch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))
        patch.setattr(module, "Upload", Pretended)
        patch.setattr(module.atexit, "register", lambda *call: self.later.append(call))
        Pretended.started, Pretended.run, self.later = [], self, []
        self.checkpoints = folder / "checkpoints"
        self.checkpoints.mkdir(parents=True)
        self.callback = HubUpload("org/name", license="mit", **options)
        self.callback.folder = folder
        self.trainer = SimpleNamespace(is_global_zero=first, state=SimpleNamespace(fn="fit"), global_step=0, callbacks=[])
        self.callback.on_train_start(self.trainer, None)

    def save(self, name):
        (self.checkpoints / name).write_text(f"{self.now}")

    def steps(self, count, seconds=1.0):
        for _ in range(count):
            self.now += seconds
            self.trainer.global_step += 1
            self.callback.on_train_batch_end(self.trainer, None, None, None, 0)

    @property
    def uploads(self):
        return [one for one in Pretended.started if not one.checks]


@pytest.fixture
def begin(tmp_path, monkeypatch):
    def run(**options):
        run = Run(tmp_path / "run", monkeypatch, **options)
        if Pretended.started:
            Pretended.started[0].end(0)  # the check
        return run

    return run


def test_the_target_is_looked_at_when_the_run_begins(begin, capsys):
    run = begin()
    assert Pretended.started[0].words == [str(run.callback.folder), "--repo", "org/name", "--license", "mit", "--weights", "raw", "--check"]
    Pretended.started[0].end(1, "upload to org/name failed: the token is missing or not valid (401)")
    run.steps(3)
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "not valid (401); the run goes on, tried again in 1 min and at its end" in told


def test_every_n_steps_the_newest_checkpoint_goes_up_if_there_is_a_new_one(begin):
    run = begin(every_n_steps=10, every_n_minutes=None)
    run.steps(15)
    assert run.uploads == [], "nothing is saved yet"
    run.save("step_00000015.ckpt")
    run.steps(1)
    assert len(run.uploads) == 1
    run.uploads[0].end(0)
    run.steps(30)
    assert len(run.uploads) == 1, "nothing new"
    run.save("step_00000040.ckpt")
    run.steps(10)
    assert len(run.uploads) == 2


def test_every_n_minutes_one_goes_up_and_never_two_at_a_time(begin):
    run = begin(every_n_minutes=10)
    run.save("step_00000001.ckpt")
    run.steps(9, seconds=60)
    assert run.uploads == []
    run.steps(2, seconds=60)
    assert len(run.uploads) == 1
    run.save("step_00000011.ckpt")
    run.steps(30, seconds=60)
    assert len(run.uploads) == 1, "the first is not done"
    run.uploads[0].end(0)
    run.steps(1)
    assert len(run.uploads) == 2


def test_a_new_best_goes_up_before_its_time_but_not_each_one(begin):
    run = begin(every_n_minutes=600)
    run.save("best.ckpt")
    run.steps(1)
    assert run.uploads == []
    run.steps(1, seconds=300)
    assert len(run.uploads) == 1
    run.uploads[0].end(0)
    run.save("step_00000002.ckpt")
    run.steps(5, seconds=300)
    assert len(run.uploads) == 1, "newer, but no better"


def test_failures_are_told_in_a_line_each_and_tried_again_ever_later(begin, capsys):
    run = begin(every_n_minutes=1)
    run.save("step_00000001.ckpt")
    run.steps(61)
    for pause in (1, 2, 4):
        run.uploads[-1].end(1, "upload to org/name failed after 6 attempts: the target is out of order (500)")
        count = len(run.uploads)
        run.steps(1)
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and f"(500); the run goes on, tried again in {pause} min and at its end" in told
        run.steps(60 * pause - 1)
        assert len(run.uploads) == count
        run.steps(1)
        assert len(run.uploads) == count + 1
    run.uploads[-1].end(0, "uploaded step 1")
    run.steps(1)
    assert capsys.readouterr().out == "uploaded step 1\n" and run.callback.failures == 0


def test_the_end_of_a_run_catches_up_whatever_failed_before(begin, capsys):
    run = begin(every_n_minutes=1)
    run.save("step_00000001.ckpt")
    run.steps(61)
    under_way = run.uploads[-1]
    run.save("last.ckpt")
    run.callback.teardown(run.trainer, None, "fit")
    assert under_way.closed and len(run.uploads) == 2 and run.uploads[-1].closed
    told = capsys.readouterr()
    assert told.out == "uploading to org/name, for 300 s at most ...\n"
    assert "was not done in time; the run is whole, upload it with: python -m mae_vlm push " in told.err


def test_a_run_that_fails_leaves_its_upload_to_go_on_and_waits_for_it_when_python_ends(begin):
    run = begin()
    run.callback.on_exception(run.trainer, None, RuntimeError())
    assert run.uploads == [] and run.later == [], "nothing was saved"
    run.save("step_00000001.ckpt")
    run.callback.on_exception(run.trainer, None, RuntimeError())
    assert len(run.uploads) == 1 and not run.uploads[0].closed
    assert len(run.later) == 1
    call, *words = run.later[0]
    assert not run.uploads[0].closed
    call(*words)
    assert run.uploads[0].closed and run.now == pytest.approx(1030.0)


def test_a_second_interrupt_waits_for_nothing(begin):
    run = begin()
    run.save("step_00000001.ckpt")
    run.callback.on_exception(run.trainer, None, KeyboardInterrupt())
    assert run.uploads == [] and run.later == []


def test_a_run_that_is_over_and_told_to_end_stops_waiting(begin, capsys):
    run = begin()
    run.save("step_00000001.ckpt")
    signals = Signals()
    signals.received = signal.SIGTERM
    run.trainer.callbacks = [signals]
    run.callback.teardown(run.trainer, None, "fit")
    assert run.now < 1010 and "was not done in time" in capsys.readouterr().err


def test_other_processes_and_other_verbs_upload_nothing(begin):
    run = begin(first=False, every_n_steps=1)
    run.save("step_00000001.ckpt")
    run.steps(5)
    run.callback.teardown(run.trainer, None, "fit")
    run.callback.on_exception(run.trainer, None, RuntimeError())
    assert Pretended.started == []
    run.trainer.is_global_zero, run.trainer.state.fn = True, "validate"
    run.callback.teardown(run.trainer, None, "validate")
    assert Pretended.started == []


def test_a_process_that_cannot_be_started_ends_no_run(begin, monkeypatch, capsys):
    run = begin(every_n_steps=1)

    def fail(words):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(module, "Upload", fail)
    run.save("step_00000001.ckpt")
    run.steps(1)
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "no process for it: [Errno 12] Cannot allocate memory; the run goes on" in told
    run.callback.teardown(run.trainer, None, "fit")


def test_nothing_unforeseen_ends_a_run_either(begin, monkeypatch, capsys):
    run = begin(every_n_steps=1)
    monkeypatch.setattr(HubUpload, "_start", lambda self, more: {}["unforeseen"])
    run.save("step_00000001.ckpt")
    run.steps(1)
    run.callback.teardown(run.trainer, None, "fit")
    assert capsys.readouterr().err.count("upload to org/name: KeyError: 'unforeseen'; the run goes on") == 2


# -- the process


def test_the_process_has_no_rank_no_device_and_no_token_among_its_words(monkeypatch):
    asked = {}

    class Process:
        def __init__(self, command, **options):
            asked.update(options, command=command)

        def poll(self):
            return 0

        def wait(self, seconds=None):
            return 0

    monkeypatch.setattr(module.subprocess, "Popen", Process)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_PROCID", "MAE_VLM_DECIDED_x"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    upload = module.Upload(["RUN", "--repo", "org/name"])
    upload.close()
    assert asked["command"][1:] == ["-m", "mae_vlm", "push", "RUN", "--repo", "org/name"] and asked["start_new_session"]
    assert asked["env"]["CUDA_VISIBLE_DEVICES"] == "" and asked["env"]["HF_TOKEN"] == TOKEN
    assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_PROCID", "MAE_VLM_DECIDED_x"} & set(asked["env"])


def test_a_process_that_hangs_is_ended_and_leaves_no_files(monkeypatch, tmp_path):
    monkeypatch.setattr(module.sys, "executable", "/bin/sh")
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    (tmp_path / "mae_vlm").mkdir()
    popen = module.subprocess.Popen
    monkeypatch.setattr(module.subprocess, "Popen", lambda command, **named: popen(["/bin/sh", "-c", "echo said; exec sleep 60"], **named))
    upload = module.Upload([])
    while b"said" not in (next(tmp_path.glob("mae_vlm_upload_*")) / "told").read_bytes():
        pass
    assert not upload.ended and not upload.wait(0)
    assert upload.close() == -signal.SIGKILL and upload.line == "said"
    assert list(tmp_path.glob("mae_vlm_upload_*")) == []
