"""What answers without a model answers at once: no torch is imported."""

from __future__ import annotations

import pytest
from tiny_runs import in_new_process

ASK = """
import sys
from mae_vlm.cli import main
try:
    code = main({words})
except SystemExit as end:
    code = end.code
print("MODULES", *sorted(set(sys.modules) & {{"torch", "lightning", "timm", "numpy"}}))
sys.exit(code)
"""


def ask(words, tmp_path):
    return in_new_process(cwd=tmp_path, launcher=("-c", ASK.format(words=words)))


HELP = [[verb, "--help"] for verb in ("convert", "push", "vocabulary", "index", "search", "zeroshot", "doctor")]


@pytest.mark.parametrize("words", [["--help"], ["-h"], [], ["help"], *HELP, ["--version"]], ids=str)
def test_help_imports_nothing_heavy(words, tmp_path):
    answer = ask(words, tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines()[-1].split() == ["MODULES"]


def test_help_names_every_verb_and_the_first_steps(tmp_path):
    answer = ask(["--help"], tmp_path).stdout
    assert all(f"\n  {verb} " in answer for verb in ("fit", "validate", "test", "predict", "convert", "doctor"))
    assert "python -m mae_vlm fit --data.path MY_PHOTOS" in answer


@pytest.mark.parametrize("verb, meant", [("fti", "fit"), ("validat", "validate"), ("convrt", "convert")])
def test_misspelt_verb_is_answered_with_the_right_one(verb, meant, tmp_path):
    answer = ask([verb], tmp_path)
    assert answer.returncode == 2
    assert answer.stderr.strip() == f"mae_vlm: error: no verb {verb!r}; did you mean {meant}?"
    assert answer.stdout.splitlines()[-1].split() == ["MODULES"]


def test_a_verb_like_nothing_is_answered_with_the_list(complaint):
    from mae_vlm.cli import COMMANDS, TRAINING

    assert complaint("xyzzy", code=2) == f"no verb 'xyzzy'; there are {', '.join([*TRAINING, *COMMANDS])}"


def test_fit_help_lists_the_options_of_data_trainer_and_run(capsys):
    from tiny_runs import in_process

    assert in_process("fit", "--help") == 0
    answer = capsys.readouterr().out
    for option in ("--data.path", "--data.batch_size", "--trainer.max_steps", "--name", "--checkpoint.every_n_steps", "--ckpt_path"):
        assert option in answer


def test_the_package_itself_imports_no_torch(tmp_path):
    program = "import sys, mae_vlm, mae_vlm.cli; assert 'torch' not in sys.modules"
    assert in_new_process(cwd=tmp_path, launcher=("-c", program)).returncode == 0


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_a_verb_builds_its_own_options_alone(verb, monkeypatch, capsys):
    from tiny_runs import in_process

    from mae_vlm.cli.training import Training

    built, before = [], Training.add_arguments_to_parser

    def counted(self, parser):
        built.append(parser)
        before(self, parser)

    monkeypatch.setattr(Training, "add_arguments_to_parser", counted)
    assert in_process(verb, "--help") == 0
    assert len(built) == 1
    assert capsys.readouterr().out.count("usage:") == 1
