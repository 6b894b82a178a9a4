"""Other towers than transformers through the real command line: a recurrent one for words, CNNs and hybrids for pictures."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from tiny_runs import MACHINE, content, curve, differing_weights, in_process

from mae_vlm import load

VIT = {"class_path": "mae_vlm.encoders.vit.Vit", "init_args": {"width": 32, "depth": 2, "heads": 2, "patch": 8}}
RECURRENT = {"class_path": "mae_vlm.encoders.text.recurrent.Recurrent", "init_args": {"width": 16, "length": 24}}
CONTRAST = {"class_path": "mae_vlm.objectives.image_text.SoftmaxContrast", "init_args": {"width": 16}}
STEADY = {"class_path": "mae_vlm.learners.optim.AdamW", "init_args": {"warmup": 0.0, "floor": 1.0, "base_lr": 1e-3}}
DATA = ["--data.scenes", "48", "--data.val_scenes", "12", "--data.batch_size", "12"]  # 4 steps an epoch
QUIET = ["--probes.pictures", "0", "--pictures.count", "2", "--trainer.log_every_n_steps", "1", "--name", "towers"]


def words(folder: Path, root: Path, image: dict = VIT, size: int = 32, **more: object) -> list:
    """A command line for a contrast of pictures and words between these towers."""
    options = {"encoder": image, "text": RECURRENT, "objectives": {"image_text": CONTRAST}, "optimizer": STEADY, **more}
    options["masking"] = {"class_path": "mae_vlm.tokens.masking.RandomMask", "init_args": {"ratio": 0.5}}
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "towers.yaml"
    file.write_text(yaml.safe_dump({"model": {"class_path": "mae_vlm.learners.pretrain.Pretrainer", "init_args": options}}))
    return ["--config", file, *MACHINE, *DATA, *QUIET, "--data.image_size", str(size), "--trainer.default_root_dir", root]


def vectors(folder: Path) -> Path:
    file = folder / "glove.txt"
    file.write_text("".join(f"{word} {number} 1.5 -0.25 2\n" for number, word in enumerate(("a", "red", "blue", "circle", "square"))))
    return file


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    root = tmp_path_factory.mktemp("spoken")
    told = words(root, root, VIT)
    with pytest.warns(RuntimeWarning, match="the others begin at random"):
        assert in_process("fit", *told, "--model.text.vectors", vectors(root), "--trainer.max_steps", "6") == 0
    return root / "towers" / "version_0"


def test_a_recurrent_tower_learns_its_words_from_the_captions(spoken):
    assert len(curve(spoken, "train/image_text/contrast")) == 6 and curve(spoken, "val/image_text/text_to_image_r1")
    mark = content(spoken)["mae_vlm"]["text"]
    learned = json.loads(mark["vocabulary"])["model"]
    assert learned["type"] == "WordLevel" and {"red", "circle", "[MASK]"} <= learned["vocab"].keys()
    assert mark["vectors"] is None and mark["embedding"] == 4
    assert content(spoken)["state_dict"]["towers.text.table.weight"].shape == (len(learned["vocab"]), 4)


@pytest.mark.filterwarnings("ignore:vectors .* begin at random:RuntimeWarning")
def test_its_run_goes_on_bit_equal_where_vectors_and_vocabulary_are_gone(spoken, tmp_path):
    told, file = words(tmp_path, tmp_path, VIT), vectors(tmp_path)
    short = ["--trainer.limit_train_batches", "3", "--trainer.max_epochs", "1"]
    assert in_process("fit", *told, "--model.text.vectors", file, "--trainer.max_steps", "6", *short) == 0
    file.unlink()
    shutil.rmtree(Path(os.environ["MAE_VLM_CACHE"]) / "vocabularies")
    assert in_process("fit", *told, "--trainer.max_steps", "6", "--trainer.max_epochs", "-1", "--ckpt_path", "last") == 0
    assert not differing_weights(tmp_path / "towers" / "version_0", spoken)


def test_its_run_validates_and_loads_without_the_vectors(spoken, capsys):
    (spoken.parents[1] / "glove.txt").unlink(missing_ok=True)
    assert in_process("validate", "--ckpt_path", spoken, *MACHINE) == 0
    assert "val/image_text/text_to_image_r1" in capsys.readouterr().out
    assert load(spoken).encode(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, 32)


def test_vectors_that_are_gone_are_told_in_one_line(tmp_path, capsys):
    assert in_process("fit", *words(tmp_path, tmp_path, VIT), "--model.text.vectors", "gone.bin", "--trainer.max_steps", "1") != 0
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "vectors gone.bin: no such file" in said[0]


CNN = {"class_path": "mae_vlm.encoders.cnn.Cnn", "init_args": {"name": "resnet10t"}}
STEMMED = {"class_path": "mae_vlm.encoders.stemmed.StemmedVit", "init_args": {"width": 32, "depth": 1, "heads": 2}}
HYBRID = {"class_path": "mae_vlm.encoders.hybrid.Hybrid", "init_args": {"cnn": "resnet10t", "width": 32, "depth": 1, "heads": 2}}
WIDTHS = {"cnn": (CNN, 512), "stem": (STEMMED, 32), "side by side": (HYBRID, 32)}
PROBED = ["--probes.pictures", "64", "--data.val_scenes", "48", "--probes.every_n_steps", "3"]


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    root = tmp_path_factory.mktemp("seen")
    assert in_process("fit", *words(root, root, CNN, 64), *PROBED, "--trainer.max_steps", "6") == 0
    return root / "towers" / "version_0"


def test_a_cnn_learns_from_words_is_probed_and_drawn(seen):
    assert len(curve(seen, "train/image_text/contrast")) == 6 and curve(seen, "val/image_text/text_to_image_r1")
    assert curve(seen, "features/effective_rank") and curve(seen, "probe/linear")
    assert list((seen / "pictures").glob("features_*.png")) and not list((seen / "pictures").glob("attention_*.png"))
    state = content(seen)["state_dict"]
    assert state["towers.image.cnn.bn1.running_mean"].any()
    assert "image_size: 64" in (seen / "config.yaml").read_text()


def test_its_run_goes_on_bit_equal(seen, tmp_path):
    told = [*words(tmp_path, tmp_path, CNN, 64), *PROBED]
    short = ["--trainer.limit_train_batches", "3", "--trainer.max_epochs", "1"]
    assert in_process("fit", *told, "--trainer.max_steps", "6", *short) == 0
    assert in_process("fit", *told, "--trainer.max_steps", "6", "--trainer.max_epochs", "-1", "--ckpt_path", "last") == 0
    assert not differing_weights(tmp_path / "towers" / "version_0", seen)


def test_its_run_validates_predicts_features_and_loads(seen, tmp_path, capsys):
    assert in_process("validate", "--ckpt_path", seen, *MACHINE) == 0
    assert "val/image_text/text_to_image_r1" in capsys.readouterr().out
    assert in_process("predict", "--ckpt_path", seen, *MACHINE, "--out", tmp_path) == 0
    assert "features of" in capsys.readouterr().out
    features = load(seen).encode(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
    assert features.shape == (2, 512) and features.isfinite().all() and not torch.equal(features[0], features[1])


def test_a_classifier_starts_from_it_as_from_any_run(seen, tmp_path, capsys):
    head = {"class_path": "mae_vlm.heads.classify.Classify"}
    options = {"encoder": {"class_path": "mae_vlm.encoders.vit.Vit"}, "heads": {"classify": head}}
    options |= {"optimizer": {"class_path": "mae_vlm.learners.optim.AdamW"}}
    file = tmp_path / "classify.yaml"
    file.write_text(yaml.safe_dump({"model": {"class_path": "mae_vlm.learners.finetune.Finetuner", "init_args": options}}))
    told = ["--config", file, *MACHINE, *DATA, *QUIET, "--model.weights", seen, "--trainer.default_root_dir", tmp_path]
    assert in_process("fit", *told, "--trainer.max_steps", "2") == 0
    assert "weights taken" in capsys.readouterr().out
    run = tmp_path / "towers" / "version_0"
    assert curve(run, "val/top1") and "encoders.cnn.Cnn" in (run / "config.yaml").read_text()


@pytest.mark.parametrize("name", ["stem", "side by side"])
def test_hybrids_learn_from_words_validate_and_load(name, tmp_path, capsys):
    image, width = WIDTHS[name]
    assert in_process("fit", *words(tmp_path, tmp_path, image, 64), "--trainer.max_steps", "2") == 0
    run = tmp_path / "towers" / "version_0"
    assert len(curve(run, "train/image_text/contrast")) == 2
    assert in_process("validate", "--ckpt_path", run, *MACHINE) == 0
    assert load(run).encode(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape == (2, width)


@pytest.mark.parametrize("name", WIDTHS)
def test_what_they_cannot_do_is_told_in_one_line(name, tmp_path, capsys):
    pixels = {"pixels": {"class_path": "mae_vlm.objectives.pixels.Pixels"}, "image_text": CONTRAST}
    told = words(tmp_path, tmp_path, WIDTHS[name][0], 64, objectives=pixels)
    assert in_process("fit", *told, "--trainer.max_steps", "1") != 0
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "objective pixels looks at the visible patches alone" in said[0]


def test_other_formats_hold_no_cnn_and_convert_says_so(seen, tmp_path, capsys):
    assert in_process("convert", seen, "--to", "timm", "--out", tmp_path / "out") != 0
    assert "no other format holds" in capsys.readouterr().err


def test_pictures_are_found_by_words_in_an_index_of_it(seen, tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (70, 66), (number * 60, 0, 90)).save(folder / f"{number}.png")
    assert in_process("index", folder, "--weights", seen, "--out", tmp_path / "index") == 0
    assert in_process("search", tmp_path / "index", "a red square") == 0
    assert ".png" in capsys.readouterr().out
