"""Regions of pictures through the real command line."""

from __future__ import annotations

from test_cli_words import TINY
from tiny_runs import MACHINE, REPOSITORY, content, curve, in_process

REGIONS = ["--model.regions", "mae_vlm.encoders.regions.Regions", "--model.regions.most", "4"]


def test_regions_of_the_datas_boxes_train_with_the_other_parts(tmp_path):
    words = [*TINY, *REGIONS, "--data.framing", "crop", "--trainer.max_steps", "2", "--trainer.default_root_dir", tmp_path]
    assert in_process("fit", *words) == 0
    run = tmp_path / "words" / "version_0"
    assert len(curve(run, "train/matching/cross_entropy")) == 2 and curve(run, "val/masked_language/accuracy")
    assert content(run)["state_dict"]["towers.regions.place.weight"].shape == (32, 6)
    assert "most: 4" in (run / "config.yaml").read_text()
    answer = ["--config", str(REPOSITORY / "configs" / "finetune" / "quick_answer.yaml"), "--model.text", "null", "--model.fusion", "null"]
    start = [*MACHINE, "--model.weights", run, "--data.scenes", "24", "--data.val_scenes", "8"]
    start += ["--data.batch_size", "12", "--data.image_size", "32", "--name", "answer"]
    steps = ["--trainer.max_steps", "2", "--trainer.default_root_dir", tmp_path, "--data.framing", "crop", "--pictures.count", "2"]
    assert in_process("fit", *answer, *start, *steps) == 0
    answering = tmp_path / "answer" / "version_0"
    assert content(answering)["state_dict"]["towers.regions.place.weight"].shape == (32, 6)
    assert "most: 4" in (answering / "config.yaml").read_text()


def test_a_detector_that_is_not_there_is_told_in_one_line(tmp_path, capsys):
    detector = ["--model.regions.detector", "mae_vlm.convert.region_detector.OfRun", "--model.regions.detector.run", tmp_path / "gone"]
    words = [*TINY, *REGIONS, *detector, "--trainer.max_steps", "1", "--trainer.default_root_dir", tmp_path]
    assert in_process("fit", *words) != 0
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "gone" in said[0]
