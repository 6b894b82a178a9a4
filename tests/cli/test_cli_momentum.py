"""Learning from the towers' moving average through the real command line."""

from __future__ import annotations

import pytest
from test_cli_words import TINY
from tiny_runs import content, curve, in_process

TAUGHT = ["--model.objectives.image_text.alpha", "0.4", "--model.objectives.image_text.queue", "20"]
TAUGHT += ["--model.objectives.image_text.ramp", "3", "--model.objectives.masked_language.alpha", "0.4"]
TEACHER = ["--model.teacher", "0.9"]


@pytest.mark.slow
def test_checkpoints_hold_the_teacher_the_queue_and_how_far_the_ramp_is(tmp_path):
    words = [*TINY, *TAUGHT, *TEACHER, "--trainer.max_steps", "3"]
    assert in_process("fit", *words, "--trainer.default_root_dir", tmp_path) == 0
    run = tmp_path / "words" / "version_0"
    held = content(run)["state_dict"]
    assert int(held["objectives.image_text.trust.steps"]) == 3 and bool(held["objectives.image_text.queue.there_Q"].all())
    assert {"teacher.joint.image.weight", "objectives.masked_language.slow.bias"} <= held.keys()
    assert len(curve(run, "train/image_text/contrast")) == 3 and curve(run, "val/masked_language/accuracy")


def test_a_missing_teacher_is_told_in_one_line(tmp_path, capsys):
    assert in_process("fit", *TINY, *TAUGHT, "--trainer.max_steps", "1", "--trainer.default_root_dir", tmp_path) != 0
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "model.teacher None given, but an objective learns from it; set it to .995 or the like" in said[0]
