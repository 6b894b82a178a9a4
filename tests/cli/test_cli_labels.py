"""Several classes of each picture, and numbers to learn, from a list or a table to files of answers, through the command line."""

from __future__ import annotations

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tiny_runs import ENCODER, MACHINE, REPOSITORY, curve, differing_weights, in_process

CONFIG = ["--config", REPOSITORY / "configs" / "finetune" / "quick_classify.yaml"]
QUIET = ["--probes.pictures", "0", "--pictures.encoder", "false", "--trainer.log_every_n_steps", "1"]
SMALL = [*CONFIG, *MACHINE, *ENCODER, *QUIET, "--data.image_size", "16", "--data.batch_size", "16", "--data.val_fraction", "0.25"]
NUMBERS = ["--model.heads.classify.loss", "l1", "--model.heads.classify.smoothing", "0"]
COUNT = 64


@pytest.fixture
def coloured(tmp_path):
    """Pictures whose colour says all: red and green are there or not, blue is a number from 0 to 255."""
    draw = np.random.default_rng(0)
    told = []
    for number in range(COUNT):
        red, green, blue = draw.integers(0, 2), draw.integers(0, 2), int(draw.integers(0, 256))
        Image.new("RGB", (16, 16), (255 * int(red), 255 * int(green), blue)).save(tmp_path / f"{number}.png")
        told.append((f"{number}.png", ["red"] * int(red) + ["green"] * int(green), blue))
    return tmp_path, told


def written(place, told, form):
    file = place / f"list.{form}"
    if form == "csv":
        with file.open("w", newline="") as opened:
            rows = [(name, "|".join(colours) or "[]", blue, f"{blue / 255:.4f}") for name, colours, blue in told]
            csv.writer(opened).writerows([("image", "colours", "blue", "share"), *rows])
    elif form == "jsonl":
        rows = ({"image": name, "colours": colours, "blue": blue, "share": [blue / 255, 1 - blue / 255]} for name, colours, blue in told)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pictures = [{"bytes": (place / name).read_bytes(), "path": name} for name, _, _ in told]
        columns = {"image": pictures, "colours": [colours for _, colours, _ in told], "blue": [blue for *_, blue in told]}
        pq.write_table(pa.table(columns | {"share": [blue / 255 for *_, blue in told]}), file)
    return file


def answers(run):
    with (run / "predictions" / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_several_classes_are_learned_measured_and_told(coloured, tmp_path, capsys, form):
    place, told = coloured
    words = ["--data.path", written(place, told, form), "--data.label_column", "colours", "--trainer.default_root_dir", tmp_path / "runs"]
    words += ["--model.heads.classify.loss", "binary", "--model.heads.classify.smoothing", "0", "--model.optimizer.base_lr", "0.1"]
    assert in_process("fit", *SMALL, *words, "--trainer.max_steps", "40") == 0
    assert "2 classes, several a picture" in capsys.readouterr().out
    run = tmp_path / "runs" / "quick_classify" / "version_0"
    assert {"val/map", "val/f1", "val/top1", "val/classify/binary"} <= set(_tags(run))
    found = curve(run, "val/map")
    assert found[max(found)] > 0.95, found
    assert in_process("predict", *MACHINE, "--ckpt_path", run) == 0
    rows = answers(run)
    assert len(rows) == COUNT and list(rows[0]) == ["id", "class", "score", "class_2", "score_2"]
    wanted = {name: set(colours) for name, colours, _ in told}
    said = {row["id"]: {row[f"class{n}"] for n in ("", "_2") if float(row[f"score{n}"]) > 0.5} for row in rows}
    assert sum(said[name] == wanted[name] for name in wanted) > 0.9 * COUNT


@pytest.mark.parametrize(
    "form, column, more, columns",
    [
        ("csv", "share", [], ["value"]),
        ("csv", "blue", ["--data.label_kind", "number"], ["value"]),
        ("jsonl", "share", [], ["value_1", "value_2"]),
        ("parquet", "share", [], ["value"]),
    ],
)
def test_numbers_are_learned_measured_and_told(coloured, tmp_path, capsys, form, column, more, columns):
    place, told = coloured
    words = ["--data.path", written(place, told, form), "--data.label_column", column, "--trainer.default_root_dir", tmp_path / "runs"]
    words += ["--model.heads.classify.loss", "l2", "--model.heads.classify.smoothing", "0", "--model.optimizer.base_lr", "0.1", *more]
    assert in_process("fit", *SMALL, *words, "--trainer.max_steps", "40") == 0
    assert f"{len(columns)} numbers to learn" in capsys.readouterr().out
    run = tmp_path / "runs" / "quick_classify" / "version_0"
    unit = 255 if column == "blue" else 1
    errors = curve(run, "val/l1")
    assert errors[max(errors)] < 0.5 * errors[min(errors)] and errors[max(errors)] < 0.12 * unit, errors
    assert in_process("predict", *MACHINE, "--ckpt_path", run) == 0
    rows = answers(run)
    assert list(rows[0]) == ["id", *columns] and len(rows) == COUNT
    blue = {name: value for name, _, value in told}
    said, wanted = [float(row[columns[0]]) for row in rows], [blue[row["id"]] * unit / 255 for row in rows]
    assert np.corrcoef(said, wanted)[0, 1] > 0.9


def _tags(run):
    with (run / "metrics.csv").open() as file:
        return csv.DictReader(file).fieldnames


@pytest.mark.parametrize(
    "words, told",
    [
        (["--data.label_column", "colours"], "have several classes each; set loss binary, without smoothing, mixup and cutmix"),
        (["--data.label_column", "share"], "has no labels to learn"),
        (["--data.label_column", "blue", *NUMBERS], "has no numbers for loss l1"),
        (["--data.label_column", "colours", "--data.label_kind", "number"], "is no number; correct it, or set data.label_kind classes"),
    ],
    ids=str,
)
def test_targets_of_another_kind_are_told_in_one_line(complaint, coloured, tmp_path, words, told):
    place, rows = coloured
    words += ["--trainer.default_root_dir", tmp_path / "runs"]
    assert told in complaint("fit", *SMALL, "--data.path", written(place, rows, "csv"), *words)


def test_augmented_training_is_repeated_bit_for_bit_after_a_stop(tmp_path):
    strong = ["--data.scenes", "64", "--data.val_scenes", "8", "--data.rand_augment", "rand-m9-mstd0.5-inc1", "--data.erase", "0.5"]
    words = [*SMALL, *strong, "--data.image_size", "32", "--checkpoint.keep_every", "3", "--trainer.max_steps", "6"]
    assert in_process("fit", *words, "--trainer.default_root_dir", tmp_path / "whole") == 0
    whole = tmp_path / "whole" / "quick_classify" / "version_0"
    run = tmp_path / "again" / "quick_classify" / "version_0"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "step_00000003.ckpt").write_bytes((whole / "checkpoints" / "step_00000003.ckpt").read_bytes())
    assert in_process("fit", *words, "--ckpt_path", "last", "--trainer.default_root_dir", tmp_path / "again") == 0
    assert differing_weights(whole, run) == []


@pytest.mark.parametrize(
    "config, told",
    [
        ("finetune/quick_detect.yaml", "data.erase 0.25 would move pixels away from the boxes that the model learns; leave them out"),
        ("finetune/quick_segment.yaml", "would move pixels away from the semantic that the model learns"),
    ],
)
def test_targets_that_would_not_move_along_are_told(complaint, tmp_path, config, told):
    words = ["--config", REPOSITORY / "configs" / config, *MACHINE, "--data.erase", "0.25", "--data.scenes", "16", "--data.val_scenes", "4"]
    assert told in complaint("fit", *words, "--data.image_size", "32", "--trainer.default_root_dir", tmp_path)
