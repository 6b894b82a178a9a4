"""From a pretrained run to a trained classifier and its answers, through the command line."""

from __future__ import annotations

import csv
import shutil

import pytest
import torch
import yaml
from tiny_runs import DATA, ENCODER, MACHINE, REPOSITORY, TINY, content, curve, differing_weights, in_new_process, in_process

CONFIG = ["--config", REPOSITORY / "configs" / "finetune" / "quick_classify.yaml"]
QUIET = ["--probes.pictures", "0"]
SMALL = [*CONFIG, *MACHINE, *DATA, *QUIET]
LENGTH = ["--trainer.max_steps", "12", "--trainer.log_every_n_steps", "1", "--checkpoint.keep_every", "4"]
VALIDATION = {"val/loss", "val/classify/cross_entropy", "val/top1", "val/top5", "val/f1", "val/calibration_error"}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    root = tmp_path_factory.mktemp("pretrained")
    assert (
        in_process("fit", *TINY, *QUIET, "--data.mean", "[0.4,0.4,0.4]", "--trainer.max_steps", "2", "--trainer.default_root_dir", root)
        == 0
    )
    return root / "default" / "version_0"


@pytest.fixture(scope="module")
def tuned(pretrained, tmp_path_factory):
    root = tmp_path_factory.mktemp("tuned")
    assert in_process("fit", *SMALL, *LENGTH, "--model.weights", pretrained, "--trainer.default_root_dir", root) == 0
    return root / "quick_classify" / "version_0"


@pytest.fixture
def pictures(tmp_path):
    """Seven pictures, one of them broken."""
    from torchvision.io import write_png

    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        write_png(torch.full((3, 40, 40), 40 * number, dtype=torch.uint8), str(folder / f"{number}.png"))
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:40])
    return folder


def test_the_encoder_is_built_and_filled_as_in_the_pretrained_run(tuned, pretrained):
    config = yaml.safe_load((tuned / "config.yaml").read_text())
    options = config["model"]["init_args"]["encoder"]["init_args"]
    assert {name: options[name] for name in ("width", "depth", "heads", "patch")} == {"width": 32, "depth": 2, "heads": 2, "patch": 8}
    assert options["mean"] == [0.4, 0.4, 0.4], "normalised as it was pretrained"
    theirs, ours = content(pretrained)["state_dict"], content(tuned, "step_00000004")["state_dict"]
    fixed = "towers.image.vit.pos_embed"
    moved = [(ours[name] - value).abs().max().item() for name, value in theirs.items() if name in ours and name != fixed]
    assert torch.equal(ours[fixed], theirs[fixed]) and 0 < max(moved) < 0.05, "four small steps away"


def test_a_run_leaves_curves_tables_its_best_and_its_newest(tuned):
    assert all(curve(tuned, tag) for tag in VALIDATION | {"train/loss", "train/classify/cross_entropy", "optimizer/lr"})
    best, newest = content(tuned, "best"), content(tuned)
    top1 = curve(tuned, "val/top1")  # counted from 0, where the newer of two values is that after the first step
    assert best["global_step"] - 1 == max(top1, key=lambda step: (top1[step], -step))
    assert newest["global_step"] == 12
    with (tuned / "tables" / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["circle", "square", "triangle", "star", "ring", "cross", "diamond"]
    assert sum(int(row["pictures"]) for row in rows) == 12
    assert (tuned / "pictures" / "confusion_00000012.png").is_file()


def test_a_run_that_was_cut_off_ends_bit_equal_also_without_the_weights_it_began_with(tuned, pretrained, tmp_path):
    run = tmp_path / "quick_classify" / "version_0"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(tuned / "checkpoints" / "step_00000004.ckpt", run / "checkpoints")
    away = pretrained.rename(pretrained.with_name("away"))
    try:
        assert in_process("fit", *SMALL, *LENGTH, "--ckpt_path", "last", "--trainer.default_root_dir", tmp_path) == 0
    finally:
        away.rename(pretrained)
    assert differing_weights(tuned, run) == []
    assert content(run)["callbacks"]["Best"] == content(tuned)["callbacks"]["Best"]


def test_pictures_of_another_size_get_resampled_positions(pretrained, tmp_path, capsys):
    words = ["--data.image_size", "48", "--trainer.max_steps", "1", "--trainer.default_root_dir", tmp_path]
    assert in_process("fit", *SMALL, "--model.weights", pretrained, *words) == 0
    assert "positions resampled from 4 x 4 to 6 x 6 patches" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_validate_as_one(tmp_path):
    """21 validation pictures are dealt to both, the last place filled up."""
    words = [*SMALL, *ENCODER, "--data.val_scenes", "21", "--trainer.max_steps", "1", "--trainer.log_every_n_steps", "1"]
    assert in_process("fit", *words, "--trainer.default_root_dir", tmp_path / "one") == 0
    done = in_new_process("fit", *words, "--trainer.devices", "2", "--trainer.strategy", "ddp", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    one, two = tmp_path / "one" / "quick_classify" / "version_0", tmp_path / "runs" / "quick_classify" / "version_0"
    for tag in VALIDATION | {"train/loss"}:
        assert curve(two, tag) == pytest.approx(curve(one, tag), abs=1e-5), tag


def answers(place):
    with (place / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


def test_predict_writes_a_table_and_names_what_cannot_be_read(tuned, pictures, tmp_path):
    assert in_process("predict", *MACHINE, "--ckpt_path", tuned, "--data.path", pictures, "--out", tmp_path / "out") == 0
    rows = answers(tmp_path / "out")
    assert sorted(row["id"] for row in rows) == [f"{number}.png" for number in range(6)]
    assert list(rows[0]) == ["id", "class", "score", "class_2", "score_2", "class_3", "score_3", "class_4", "score_4", "class_5", "score_5"]
    scores = [[float(row[name]) for name in row if name.startswith("score")] for row in rows]
    assert all(one == sorted(one, reverse=True) and 0 < sum(one) <= 1 for one in scores)
    assert {row["class"] for row in rows} <= {"circle", "square", "triangle", "star", "ring", "cross", "diamond"}
    with (tmp_path / "out" / "broken.csv").open() as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["broken.png"]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["broken.csv", "predictions.csv"]


def test_predict_goes_on_after_a_kill_and_starts_afresh_for_other_pictures(tuned, pictures, tmp_path, monkeypatch):
    from mae_vlm.callbacks.predictions import Predictions

    words = ["predict", *MACHINE, "--ckpt_path", tuned, "--data.batch_size", "2", "--out", tmp_path / "out"]
    whole = [*words[:-1], tmp_path / "whole"]
    assert in_process(*whole, "--data.path", pictures) == 0
    write, written = Predictions._write, []

    def dies(self, name, titles, rows):
        write(self, name, titles, rows)
        written.extend(rows)
        if len(written) >= 4:
            with next(self.out.glob("classify.*.part.csv")).open("a") as file:
                file.write("half a li")
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Predictions, "_write", dies)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            in_process(*words, "--data.path", pictures)
            raise SystemExit
    left = next((tmp_path / "out").glob("classify.*.part.csv"))
    kept = left.read_text().splitlines()[1:-1]
    left.write_text(left.read_text().replace(kept[0], kept[0].replace(",0.", ",9.", 1)))  # shows whether it is computed again
    assert in_process(*words, "--data.path", pictures) == 0
    ours, theirs = answers(tmp_path / "out"), answers(tmp_path / "whole")
    assert sorted(row["id"] for row in ours) == sorted(row["id"] for row in theirs)
    assert len([row for row in ours if row not in theirs]) == 1, "what was written before the kill stays"


@pytest.mark.parametrize(
    "words, told",
    [
        (["--model.freeze", "some"], "freeze some given, allowed are none, all, or how many"),
        (["--model.weights", "nowhere"], "nowhere: no checkpoint there"),
        (["--model.heads.classify.classes", "3"], "has 7 classes, this classifier 3"),
        (["--model.heads.classify.loss", "focal"], "loss 'focal' given"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(complaint, tmp_path, words, told):
    assert told in complaint("fit", *SMALL, *ENCODER, *words, "--trainer.default_root_dir", tmp_path)
    assert not list(tmp_path.iterdir())


def test_data_without_labels_is_told(complaint, pictures, tmp_path):
    words = [*CONFIG, *MACHINE, "--data.path", pictures, "--trainer.default_root_dir", tmp_path / "runs"]
    assert "has no labels to learn" in complaint("fit", *words)


def test_weights_that_do_not_fit_are_told_with_both_sizes(complaint, pretrained, tmp_path):
    told = complaint("fit", *SMALL, "--model.weights", pretrained, "--model.encoder.width", "64", "--trainer.default_root_dir", tmp_path)
    assert "the weights don't fit the encoder" in told and "32" in told and "64" in told


def test_what_the_user_said_wins_over_the_run_it_starts_from():
    from mae_vlm.cli.chooser import Chooser
    from mae_vlm.cli.finetuning import Start, encoder_as

    theirs = {"width": 32, "patch": 8, "image_size": 64, "mean": [0.4], "registers": 2, "drop_path": 0.1, "name": None}
    start = Start({"class_path": "x.Vit", "init_args": theirs}, {}, "RUN", frozenset({"model.encoder.patch", "data.image_size"}))
    options = {"width": None, "patch": 4, "image_size": None, "mean": None, "registers": 0, "drop_path": 0.0, "name": None}
    chooser = Chooser({"model": {"init_args": {"encoder": {"class_path": "x.Vit", "init_args": options}}}}, None, None)
    encoder_as(chooser, start)
    assert options == {"width": 32, "patch": 4, "image_size": None, "mean": [0.4], "registers": 2, "drop_path": 0.0, "name": None}
    assert [choice.reason for choice in chooser.choices] == ["as in RUN"] * 3


def test_a_null_opens_what_a_config_states_to_the_run_it_starts_from(pretrained, tmp_path):
    sizes = ["--model.encoder.width", "64", "--model.encoder.depth", "1", "--model.encoder.heads", "4"]
    words = ["--model.weights", pretrained, *sizes, *("null" if size.isdigit() else size for size in sizes)]
    assert in_process("fit", *SMALL, *words, "--trainer.max_steps", "1", "--trainer.default_root_dir", tmp_path) == 0
    run = next(tmp_path.rglob("config.yaml")).parent
    theirs = content(pretrained)["state_dict"]["towers.image.vit.blocks.0.attn.qkv.weight"].shape
    assert content(run)["state_dict"]["towers.image.vit.blocks.0.attn.qkv.weight"].shape == theirs
