"""``facts.json``: what a run is and what it cost, however it ends; and the same settings in TensorBoard."""

from __future__ import annotations

import json
import re
import socket
from types import SimpleNamespace

import pytest
from tiny_runs import TINY, in_process

from mae_vlm.callbacks.facts import Facts, _data_facts, device_name, stored
from mae_vlm.callbacks.hparams import shown_settings
from mae_vlm.callbacks.signals import Stopped
from mae_vlm.data.summary import Summary

KEYS = {
    "format", "started", "ended", "seconds", "outcome", "step", "max_steps", "epoch", "images_seen", "world_size", "device", "torch",
    "lightning", "precision", "parameters", "data", "batch_size", "image_size", "gflop_per_image", "peak_tflops", "peak_source", "choices",
    "sessions",
}  # fmt: skip


def facts_of(run):
    return json.loads((run / "facts.json").read_text())


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run of 4 steps, and its facts before it is gone on with."""
    place = tmp_path_factory.mktemp("facts")
    assert in_process("fit", *TINY, "--trainer.max_steps", 4, "--trainer.default_root_dir", place) == 0
    run = place / "default" / "version_0"
    return run, facts_of(run)


@pytest.fixture(scope="module")
def resumed(first):
    """The facts after 8 steps in two sessions."""
    run, _ = first
    words = ["--ckpt_path", "last", "--trainer.max_steps", 8, "--trainer.default_root_dir", run.parents[1]]
    assert in_process("fit", *TINY, *words) == 0
    return facts_of(run)


def test_facts_tell_the_run_and_its_cost(first):
    _, facts = first
    assert facts.keys() == KEYS and facts["format"] == 1
    assert (facts["outcome"], facts["step"], facts["max_steps"], facts["images_seen"]) == ("finished", 4, 4, 64)
    assert (facts["batch_size"], facts["image_size"], facts["world_size"], facts["precision"]) == (16, [32, 32], 1, "32-true")
    assert 0 < facts["seconds"] < 600 and facts["started"] <= facts["ended"] and facts["started"].endswith("+00:00")
    assert facts["parameters"]["encoder"] < facts["parameters"]["trainable"] < facts["parameters"]["total"]
    assert facts["data"] | {"path": None, "format": "scenes", "train": 64, "val": 12, "test": 0, "classes": 7} == facts["data"]
    assert facts["data"]["captions"] is True, "scenes have captions"
    assert facts["peak_source"] == "measured" and facts["peak_tflops"] > 0
    assert 1e-4 < facts["gflop_per_image"] < 1


def test_facts_keep_the_automatic_choices_with_their_reasons(first, resumed):
    for facts in (first[1], resumed):
        chosen = {choice["key"]: choice for choice in facts["choices"]}
        assert chosen["model.init_args.optimizer.init_args.base_lr"]["value"] == 1.5e-3
        assert all(choice.keys() == {"key", "value", "reason"} for choice in facts["choices"])


def test_a_resumed_run_adds_up_what_its_sessions_cost(first, resumed):
    assert (resumed["step"], resumed["images_seen"], resumed["started"]) == (8, 128, first[1]["started"])
    ways = [(session["from_step"], session["to_step"], session["images"], session["outcome"]) for session in resumed["sessions"]]
    assert ways == [(0, 4, 64, "finished"), (4, 8, 64, "finished")]
    assert resumed["seconds"] == pytest.approx(sum(session["seconds"] for session in resumed["sessions"]))
    assert resumed["sessions"][0] == first[1]["sessions"][0]


def test_facts_name_no_machine_and_no_user(first):
    text = (first[0] / "facts.json").read_text()
    assert socket.gethostname() not in re.findall(r"[\w.-]+", text)
    assert str(first[0].parents[1]) not in text


def test_a_password_in_a_path_is_left_out():
    summary = Summary("s3://key:secret@store/shards", "tar", 5, 1, 0, 8, 8, 3, None, "")
    found = _data_facts(SimpleNamespace(inspect=lambda: summary))
    assert found["path"] == "s3://store/shards" and found["classes"] is None and found["train"] == 5


def a_trainer(step=3):
    return SimpleNamespace(global_step=step, current_epoch=0, is_global_zero=True)


@pytest.mark.parametrize(
    "exception, outcome",
    [(Stopped(143), "stopped"), (KeyboardInterrupt(), "stopped"), (RuntimeError("broken"), "failed"), (ValueError("diverged"), "failed")],
)
def test_a_run_that_does_not_finish_says_how_it_ended(tmp_path, exception, outcome):
    facts = Facts(tmp_path)
    facts._fixed, facts._sessions = {"batch_size": 16, "data": {}}, [{"started": "then", "from_step": 1}]
    facts._write(a_trainer(2))
    assert facts_of(tmp_path)["outcome"] == "running" and facts_of(tmp_path)["ended"] is None
    facts.on_exception(a_trainer(), None, exception)
    assert (facts_of(tmp_path)["outcome"], facts_of(tmp_path)["images_seen"]) == (outcome, 32)
    assert facts_of(tmp_path)["ended"] and [file.name for file in tmp_path.iterdir()] == ["facts.json"]


def test_a_run_that_fails_before_it_trains_leaves_no_facts(tmp_path):
    Facts(tmp_path).on_exception(a_trainer(0), None, ValueError("no picture"))
    assert list(tmp_path.iterdir()) == []


def test_a_session_that_was_killed_keeps_its_cost_and_is_told_as_such(tmp_path, monkeypatch):
    killed = {"started": "then", "from_step": 0, "to_step": 2, "seconds": 5.0, "images": 32, "outcome": "running"}
    (tmp_path / "facts.json").write_text(json.dumps({"format": 1, "sessions": [killed], "choices": [], "data": {"captions": True}}))
    monkeypatch.setattr("mae_vlm.callbacks.facts.fixed_facts", lambda trainer, module: {"batch_size": 16, "data": {"path": None}})
    facts = Facts(tmp_path)
    facts.on_train_start(a_trainer(2), None)
    facts.on_validation_end(a_trainer(3), None)
    found = facts_of(tmp_path)
    assert found["images_seen"] == 48 and found["seconds"] >= 5 and found["data"]["captions"] is True
    assert [session["outcome"] for session in found["sessions"]] == ["killed", "running"]


@pytest.mark.parametrize("text", ["", "{half", "[]", '{"format": 2}'])
def test_facts_that_cannot_be_read_are_begun_afresh(tmp_path, text):
    (tmp_path / "facts.json").write_text(text)
    assert stored(tmp_path / "facts.json") == {} == stored(tmp_path / "none.json")


def test_the_processor_has_a_name():
    import torch

    assert device_name(torch.device("cpu"))


def test_tensorboard_shows_settings_beside_the_final_metrics_in_the_same_folder(first):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    run = first[0]
    assert [path for path in run.parents[1].rglob("events.out.tfevents*") if path.parent != run] == []
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    content = events.PluginTagToContent("hparams")
    started = HParamsPluginData.FromString(content["_hparams_/session_start_info"]).session_start_info.hparams
    assert started["model.optimizer.base_lr"].number_value == 1.5e-3
    assert started["data.batch_size"].number_value == 16 and started["trainer.precision"].string_value == "32-true"
    shown = HParamsPluginData.FromString(content["_hparams_/experiment"]).experiment.metric_infos
    names = {metric.name.tag for metric in shown}
    assert {"val/loss", "val/pixels/masked_mse"} <= names <= set(events.Tags()["scalars"])


def test_settings_are_named_as_on_the_command_line_without_places():
    config = {
        "model": {"class_path": "A", "init_args": {"masking": {"class_path": "B", "init_args": {"ratio": 0.75}}}},
        "data": {"path": "s3://key:secret@x", "mean": [0.5, 0.5], "flip": 0.5, "mixture": [{"path": "y"}], "std": None},
        "trainer": {"precision": "32-true", "default_root_dir": "/home/me"},
        "name": "mine",
    }
    assert shown_settings(config) == {
        "model.class_path": "A",
        "model.masking.class_path": "B",
        "model.masking.ratio": 0.75,
        "data.mean": "[0.5, 0.5]",
        "data.flip": 0.5,
        "trainer.precision": "32-true",
    }
