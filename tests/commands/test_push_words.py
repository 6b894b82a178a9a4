"""push of a run that knows words: all its towers go up, and come back by the hub's name or out of a folder."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from hub_server import running
from hub_state import point_at
from tiny_runs import DATA, MACHINE, content, in_process
from worded import WORDS, fit

from mae_vlm.convert import native
from mae_vlm.hub import attempts
from mae_vlm.tokens.words import read

WORDY = {"words.json", "words.safetensors", "tokenizer.json"}
PRETRAINING = [
    *[*MACHINE, *DATA, "--model.text", "mae_vlm.encoders.text.transformer.Transformer", "--pictures.count", "2"],
    *["--model.objectives.contrast", "mae_vlm.objectives.image_text.SoftmaxContrast", "--model.objectives.contrast.width", "16"],
]


@pytest.fixture(scope="module")
def worded(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("worded"), "words", *WORDS, "--probes.pictures", "0")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(attempts, "PAUSES", (0.0,))
    with running() as hub:
        point_at(monkeypatch, hub, tmp_path / "hub_home")
        yield hub


def same(found, expected):
    (stated, weights), (theirs, given) = found, expected
    own = {name: value for name, value in given.items() if not name.startswith("image.")}
    assert own and weights.keys() == own.keys() and all(torch.equal(weights[name], value) for name, value in own.items())
    vocabularies = [one["text"]["init_args"].pop("vocabulary") for one in (stated, theirs)]
    assert stated == theirs and len({read(place).json for place in vocabularies}) == 1


def test_the_towers_of_words_come_back_by_the_hubs_name(hub, worded, capsys):
    assert in_process("push", worded, "--repo", "org/name", "--license", "mit", "--dry-run") == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()[1:-1]} >= WORDY
    assert in_process("push", worded, "--repo", "org/name", "--license", "mit") == 0
    files = hub.repos["org/name"].files
    assert set(files) >= WORDY
    same(native.stated_words("hf://org/name"), native.stated_words(worded))
    assert {"text", "joint"} <= json.loads(files["words.json"]).keys()
    config = yaml.safe_load(files["config.yaml"])
    assert config["model"]["init_args"]["text"]["init_args"]["vocabulary"] == "tokenizer.json", "no path of this machine"
    card = files["README.md"].decode()
    assert "`python -m mae_vlm fit --model.weights hf://org/name` takes them all" in card and "| towers of words | Transformer |" in card


def test_out_of_a_folder_too_and_a_run_without_words_has_none(hub, worded, tmp_path):
    assert in_process("push", worded, "--to", tmp_path / "there", "--license", "mit", "--no-pictures") == 0
    same(native.stated_words(tmp_path / "there"), native.stated_words(worded))
    for name in WORDY:
        (tmp_path / "there" / name).unlink()
    assert native.stated_words(tmp_path / "there") == ({}, {})
    hub.make("org/plain", {"config.yaml": b"model: {}"})
    assert native.stated_words("hf://org/plain") == ({}, {})
    hub.make("org/down", {"config.yaml": b"model: {}"})
    hub.fail("words.json", 500, times=99)
    with pytest.raises(ValueError, match=r"the hub did not give words\.json of hf://org/down"):
        native.stated_words("hf://org/down")


@pytest.mark.slow
def test_a_pretraining_goes_on_from_the_hub_with_all_towers(hub, worded, tmp_path, capsys):
    assert in_process("push", worded, "--repo", "org/name", "--license", "mit", "--no-pictures") == 0
    still = ["--trainer.max_steps", "1", "--model.optimizer.init_args.base_lr", "0", "--probes.pictures", "0"]
    words = [*PRETRAINING, *still, "--model.weights", "hf://org/name", "--trainer.default_root_dir", tmp_path / "runs"]
    assert in_process("fit", *words) == 0
    assert "towers of words: " in capsys.readouterr().out
    state, given = content(next((tmp_path / "runs").glob("*/version_0")))["state_dict"], native.stated_words(worded)[1]
    taken = [name for name in given if name.startswith(("text.", "joint."))]
    assert len(taken) > 2 and all(torch.equal(state[f"towers.{name}"], given[name]) for name in taken)


def test_words_of_a_newer_format_are_refused(worded, tmp_path):
    assert in_process("push", worded, "--to", tmp_path / "there", "--license", "mit", "--no-pictures") == 0
    told = json.loads((tmp_path / "there" / "words.json").read_text()) | {"format": 99}
    (tmp_path / "there" / "words.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"words\.json has format 99, this version reads up to 1; update mae_vlm"):
        native.stated_words(tmp_path / "there")
