"""Collections on the command line: mixtures, pictures that cannot be read, and a collection that changes under a run."""

from __future__ import annotations

import io
import json
import re
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny_runs import DECODER, ENCODER, MACHINE, REPOSITORY, content, curve, differing_weights, in_new_process, in_process

SIZES = ["--data.image_size", "32", "--data.batch_size", "8", "--pictures.count", "2"]
WORDS = [*MACHINE, *SIZES, *ENCODER, *DECODER, "--trainer.log_every_n_steps", "1"]
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]


def write(folder, count, first=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        buffer = io.BytesIO()
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(buffer, "PNG")
        (folder / f"{number}.png").write_bytes(buffer.getvalue())
    return folder


def quarantined(run):
    return [json.loads(line) for line in (run / "quarantine.jsonl").read_text().splitlines()]


def test_a_mixture_is_said_on_the_command_line_or_in_a_config_and_repeated_from_the_runs_own(tmp_path):
    write(tmp_path / "a", 30)
    write(tmp_path / "b", 10)
    mixture = [{"path": str(tmp_path / "a"), "weight": 3}, {"path": str(tmp_path / "b")}]
    (tmp_path / "mixed.yaml").write_text(yaml.safe_dump({"data": {"mixture": mixture}}))
    said = (["--data.mixture", json.dumps(mixture)], ["--config", tmp_path / "mixed.yaml"])
    ending = ["--trainer.max_steps", "6", "--trainer.default_root_dir", tmp_path, "--name"]
    for name, words in zip(("words", "config"), said, strict=True):
        model = ["--config", REPOSITORY / "mae_vlm" / "default.yaml"] if name == "config" else []
        assert in_process("fit", *model, *words, *WORDS, *ending, name) == 0
    runs = [tmp_path / name / "version_0" for name in ("words", "config", "again")]
    stored = yaml.safe_load((runs[0] / "config.yaml").read_text())["data"]["mixture"]
    assert [(one["path"], one["weight"]) for one in stored] == [(mixture[0]["path"], 3.0), (mixture[1]["path"], 1.0)]
    assert in_process("fit", "--config", runs[0] / "config.yaml", *ending, "again") == 0
    assert differing_weights(runs[0], runs[1]) == [] == differing_weights(runs[0], runs[2])
    assert in_process("validate", "--ckpt_path", runs[0], *MACHINE) == 0


def test_a_misspelt_word_in_a_mixture_is_named(complaint, tmp_path):
    told = complaint("fit", *MACHINE, "--data.mixture", json.dumps([{"path": str(tmp_path), "wieght": 3}]))
    assert "wieght" in told


def test_a_mixture_beside_a_path_is_refused(complaint, tmp_path):
    told = complaint("fit", *MACHINE, "--data.path", tmp_path, "--data.mixture", json.dumps([{"path": str(tmp_path)}]), code=1)
    assert told.startswith(f"data.path {tmp_path} and data.mixture are both set")


@pytest.fixture
def spoilt(tmp_path):
    """48 training pictures, 2 of them broken, and 13 for validation, 1 broken."""
    write(tmp_path / "photos" / "train", 48)
    write(tmp_path / "photos" / "val", 13, first=100)
    for name in ("train/3.png", "train/4.png", "val/107.png"):
        (tmp_path / "photos" / name).write_bytes(b"spoilt")
    return tmp_path / "photos"


@pytest.mark.slow
def test_two_processes_count_a_spoilt_collection_as_one_does(spoilt, tmp_path):
    """A validation part that neither 2 nor the batch divides; what one process cannot read, all know."""
    words = ["--data.path", spoilt, *WORDS, "--trainer.max_steps", "7"]
    assert in_process("fit", *words, "--trainer.default_root_dir", tmp_path / "one") == 0
    done = in_new_process("fit", *words, *TWO, cwd=tmp_path, timeout=200)
    assert done.returncode == 0, done.stderr
    one, two = (root / "default" / "version_0" for root in (tmp_path / "one", tmp_path / "runs"))
    for tag in ("val/loss", "val/pixels/predict_zero", "val/pixels/other_picture"):
        assert curve(two, tag)[0] == pytest.approx(curve(one, tag)[0], abs=1e-6)
        assert curve(two, tag) == pytest.approx(curve(one, tag), abs=1e-4)
    for run in (one, two):
        assert sorted(entry["id"] for entry in quarantined(run)) == ["107.png", "3.png", "4.png"]
        assert curve(run, "data/quarantined")[6] == 3
    assert done.stdout.count("a picture that cannot be read is replaced by another") == 1
    assert "Warning" not in done.stderr and "Traceback" not in done.stderr


def test_too_many_broken_pictures_end_the_run_with_one_line(spoilt, tmp_path, complaint):
    for number in range(30, 39):
        (spoilt / "train" / f"{number}.png").write_bytes(b"")
    told = complaint("fit", "--data.path", spoilt, *WORDS, "--trainer.max_steps", "50", "--trainer.default_root_dir", tmp_path, code=1)
    run = tmp_path / "default" / "version_0"
    assert re.match(r"11 of 48 training pictures cannot be read, more than the 10 that data.max_broken 0.001 allows: the last ", told)
    assert told.endswith(f"see {run / 'quarantine.jsonl'}, and delete it once they are repaired")
    assert 0 < content(run)["global_step"] < 50 and len(quarantined(run)) == 12


@pytest.mark.slow
def test_too_many_broken_pictures_end_both_of_two_processes(spoilt, tmp_path):
    for number in range(10, 30):
        (spoilt / "train" / f"{number}.png").write_bytes(b"")
    done = in_new_process("fit", "--data.path", spoilt, *WORDS, *TWO, "--trainer.max_steps", "50", cwd=tmp_path, timeout=200)
    assert done.returncode not in (0, None)
    assert done.stderr.count("training pictures cannot be read, more than the 10") == 1 and "Traceback" not in done.stderr
    entries = quarantined(tmp_path / "runs" / "default" / "version_0")
    assert len({(entry["part"], entry["id"]) for entry in entries}) == len(entries) > 10


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 6 steps on 32 pictures, in the middle of its second epoch."""
    root = tmp_path_factory.mktemp("finished")
    photos = write(root / "photos" / "cat", 32).parent
    words = ["--data.path", photos, "--data.val_fraction", "0", *WORDS, "--trainer.max_steps", "6", "--trainer.default_root_dir", root]
    assert in_process("fit", *words) == 0
    return root


@pytest.fixture
def changed(finished, tmp_path):
    """That run, and nine pictures more."""
    run = shutil.copytree(finished / "default" / "version_0", tmp_path / "default" / "version_0")
    write(finished / "photos" / "cat", 9, first=50)
    yield run
    for number in range(50, 59):
        (finished / "photos" / "cat" / f"{number}.png").unlink()


def resumed(word, root, *more):
    return ["fit", "--ckpt_path", word, *MACHINE, "--trainer.max_steps", "12", "--trainer.default_root_dir", root, *more]


@pytest.mark.parametrize("word", ["last", "file"])
def test_a_changed_collection_is_refused_on_resume_with_the_difference(changed, tmp_path, complaint, word):
    told = complaint(*resumed("last" if word == "last" else changed / "checkpoints" / "last.ckpt", tmp_path), code=1)
    assert "the collection has changed since the checkpoint: train has 41 pictures, 32 in the checkpoint" in told
    assert told.endswith("bring it back, or set data.allow_changes true to go on")
    assert [path.name for path in (tmp_path / "default").iterdir()] == ["version_0"], "a refused run leaves no folder"


def test_a_changed_collection_is_gone_on_with_where_that_is_allowed(changed, tmp_path, capsys):
    assert in_process(*resumed("last", tmp_path, "--data.allow_changes", "true")) == 0
    assert "the collection has changed since the checkpoint: train has 41 pictures" in capsys.readouterr().out
    assert content(changed)["global_step"] == 12
    state = content(changed)["Data"]
    assert state["pictures_seen"] == 96 and state["collection"]["train"]["count"] == 41


def test_an_unchanged_collection_is_gone_on_with_and_other_verbs_take_any(finished, changed, tmp_path):
    other = write(tmp_path / "other", 20, first=70)
    assert in_process("validate", "--ckpt_path", changed, *MACHINE, "--data.path", other) == 0
    for number in range(50, 59):
        (finished / "photos" / "cat" / f"{number}.png").unlink()
    assert in_process(*resumed("last", tmp_path)) == 0
    write(finished / "photos" / "cat", 9, first=50)
