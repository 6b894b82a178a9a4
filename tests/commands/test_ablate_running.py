"""The runs as processes: one after another or at once, stopped by a signal, gone on with, failing alone. With a stand-in for fit."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from mae_vlm.ablation.outcomes import document, read
from mae_vlm.ablation.plan import Length, choices, jobs
from mae_vlm.ablation.running import Runner, devices, environment, identity, refused

STAND_IN = (sys.executable, str(Path(__file__).with_name("ablated.py")))


def runner(tmp_path, parallel=1):
    heard = []
    made = Runner([f"--mark={tmp_path / 'mark'}"], Length(minutes=1), parallel, [], heard.append, program=STAND_IN)
    return made, heard


@pytest.mark.parametrize("parallel", [1, 2])
def test_one_that_fails_does_not_stop_the_others(tmp_path, parallel):
    planned = jobs(choices(["ratio=0.6,9"]), 2, tmp_path / "out")
    made, heard = runner(tmp_path, parallel)
    made.run(planned)
    assert [read(job).state for job in planned] == ["finished", "failed", "finished", "failed"] and len(heard) == 4
    assert read(planned[1]).reason == "ratio 9 given, allowed is less"
    assert read(planned[2]).last == {"step": 9.0, "probe/linear": 0.51, "val/loss": 0.5}
    assert read(planned[0]).seconds > 0


def test_sigint_reaches_the_run_once_and_the_next_call_goes_on(tmp_path):
    planned = jobs(choices(["ratio=0.5,0.6"]), 1, tmp_path / "out")
    made, _ = runner(tmp_path)
    thread = threading.Thread(target=_interrupt, args=(tmp_path / "mark",))
    thread.start()
    made.run(planned)
    thread.join()
    assert made.received == signal.SIGINT
    assert [read(job).state for job in planned] == ["stopped", "not run"]
    assert document(planned[0].record)["attempts"][0]["code"] == 130
    again, _ = runner(tmp_path)
    again.run(planned)
    assert [read(job).state for job in planned] == ["finished", "finished"] and again.received == 0
    words = json.loads((planned[0].folder() / "words.json").read_text())
    assert "--trainer.max_steps=77" in words, "what it had planned when it began"
    assert len(document(planned[0].record)["attempts"]) == 2


def _interrupt(mark):
    for _ in range(300):
        if mark.exists():
            break
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_put_back(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    made, _ = runner(tmp_path)
    made.run(jobs(choices(["ratio=0.6,0.7"]), 1, tmp_path / "out"))
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_whose_ablation_died_is_stopped_and_not_failed(tmp_path):
    (job, *_) = jobs(choices(["ratio=0.6,0.7"]), 1, tmp_path / "out")
    job.root.mkdir(parents=True)
    job.record.write_text(json.dumps({"made_of": {}, "attempts": [{"started": "x", "seconds": None, "code": None}]}))
    assert read(job).state == "stopped"
    job.record.write_text('{"made_of": {}, "atte')  # a record cut short is none
    assert read(job).state == "not run"


def test_a_run_that_says_that_it_has_finished_has(tmp_path):
    (job, *_) = jobs(choices(["ratio=0.6,0.7"]), 1, tmp_path / "out")
    run = job.root / "seed_0" / "version_10"
    run.mkdir(parents=True)
    (job.root / "seed_0" / "version_9").mkdir()
    job.record.write_text(json.dumps({"made_of": {}, "attempts": [{"started": "x", "seconds": None, "code": None}]}))
    facts = {"outcome": "finished", "seconds": 12.5, "max_steps": 10, "batch_size": 16, "data": {"classes": None, "captions": False}}
    (run / "facts.json").write_text(json.dumps(facts))
    found = read(job)
    assert (found.state, found.seconds, found.images, found.labelled) == ("finished", 12.5, 160, False)


def test_another_config_or_option_is_another_run(tmp_path):
    (job, *_) = jobs(choices(["ratio=0.6,0.7"]), 1, tmp_path / "out")
    config = tmp_path / "x.yaml"
    config.write_text("a: 1")
    given = ["--config", str(config)]
    first = identity(given, Length(), job)
    assert first == json.loads(json.dumps(identity(given, Length(), job)))
    assert first != identity([*given, "--more"], Length(), job) and first != identity(given, Length(steps=3), job)
    config.write_text("a: 2")
    assert first != identity(given, Length(), job)


def test_each_run_sees_its_own_device_and_its_share_of_the_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MAE_VLM_DECIDED_RUN", "{}")
    monkeypatch.setenv("LOCAL_RANK", "1")
    env = environment("3", 2)
    assert env["CUDA_VISIBLE_DEVICES"] == "3" and int(env["OMP_NUM_THREADS"]) == max(1, (os.cpu_count() or 1) // 2)
    assert "MAE_VLM_DECIDED_RUN" not in env and "LOCAL_RANK" not in env
    assert "OMP_NUM_THREADS" not in environment(None, 1)


def test_devices_are_those_that_are_visible_and_none_on_a_cpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    assert devices([]) == ["1", "3"] and devices(["--trainer.accelerator=gpu"]) == ["1", "3"]
    assert devices(["--trainer.accelerator", "cpu"]) == [] and devices(["--trainer.devices", "2"]) == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert devices([]) == []


def test_the_parser_of_fit_names_the_first_choice_that_it_refuses():
    good = ["fit", "--model.masking.init_args.ratio=0.5"]
    place, line = refused([good, ["fit", "--model.masking.init_args.ratoi=0.5"], good])
    assert place == 1 and line.startswith("no option 'ratoi' there; did you mean ratio?")


def test_a_run_that_was_stopped_and_then_fails_has_failed(tmp_path):
    (job, *_) = jobs(choices(["ratio=0.6,0.7"]), 1, tmp_path / "out")
    (job.root / "seed_0" / "version_0").mkdir(parents=True)
    (job.root / "seed_0" / "version_0" / "facts.json").write_text('{"outcome": "stopped"}')  # of the first attempt
    for codes, state in (([130], "stopped"), ([130, 1], "failed"), ([1, -9], "stopped"), ([1, 0], "finished")):
        job.record.write_text(json.dumps({"attempts": [{"seconds": 1, "code": code} for code in codes]}))
        assert read(job).state == state
