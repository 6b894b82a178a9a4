"""Promises of ``convert --to torch_export``: a program out of a file gives PyTorch's numbers for any number of pictures."""

from __future__ import annotations

import json

import pytest
import torch
from paper_mae import shaken
from test_onnx import HEADS, PIXELS, close
from test_round_trips import ENCODER, classifier_of_ours, convert_by_command, run_of_ours, write

from mae_vlm.convert import graph, native, program
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit

pytestmark = [pytest.mark.filterwarnings("ignore:.*checksums are lost"), pytest.mark.filterwarnings("ignore::UserWarning")]


def written(source, out, *words):
    assert convert_by_command(source, "--to", "torch_export", "--out", out, *words) == 0
    return torch.export.load(out / "model.pt2").module()


@torch.no_grad()
def test_an_encoders_program_gives_the_features_of_load(tmp_path, capsys):
    source = run_of_ours(tmp_path / "run", depth=1)
    run = written(source, tmp_path / "out")
    told = capsys.readouterr().out
    assert "any number of pictures, any height and width of whole patches; within" in told and "in torch.export" in told
    assert f'open it:  torch.export.load("{tmp_path / "out" / "model.pt2"}").module()' in told
    embedder = native.load(source)
    for count in (1, 3):
        features, tokens = run(PIXELS[:count])
        expected = embedder.encoder.full(embedder.encoder.normalise(PIXELS[:count])).tokens_BTD
        close([features, tokens], [embedder.encode(PIXELS[:count]), expected])


@torch.no_grad()
def test_a_classifiers_program_gives_its_logits_and_knows_its_classes(tmp_path):
    source = classifier_of_ours(tmp_path / "run")
    run = written(source, tmp_path / "out")
    close(run(PIXELS), graph.graph_of(str(source)).module(PIXELS))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["label_names"] == ["cat", "dog", "owl"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", HEADS)
@torch.no_grad()
def test_programs_of_a_segmenter_and_a_detector_give_their_answers(tmp_path, kind):
    make, path, classes = HEADS[kind]
    towers = Towers(Vit(**ENCODER))
    module = shaken(torch.nn.ModuleDict({"towers": towers, "heads": torch.nn.ModuleDict({"what": make(towers)})}), by=0.05)
    options = {"classes": classes} | ({"layers": 1} if kind == "dense" else {})
    source = write(tmp_path / "run", {"heads": {"what": {"class_path": path, "init_args": options}}}, module.state_dict(), ENCODER)
    run, expected = written(source, tmp_path / "out"), graph.graph_of(str(source)).module
    for count in (1, 3):
        close(run(PIXELS[:count]), expected(PIXELS[:count]))


def test_a_program_that_gives_other_numbers_is_not_written(tmp_path, monkeypatch, capsys):
    source = run_of_ours(tmp_path / "run", depth=1)
    opened = program.opened
    monkeypatch.setattr(program, "opened", lambda file: lambda pixels: [one + 1e-2 for one in opened(file)(pixels)])
    assert convert_by_command(source, "--to", "torch_export", "--out", tmp_path / "out") == 1
    assert "features of model.pt2 differs from PyTorch's by" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_options_of_onnx_alone_are_told(tmp_path, capsys):
    assert convert_by_command("x", "--to", "torch_export", "--out", tmp_path / "out", "--int8") == 2
    assert "--int8 and --data belong to --to onnx" in capsys.readouterr().err
    assert convert_by_command("x", "--to", "timm", "--out", tmp_path / "out", "--head", "a") == 2
    assert "--head belongs to --to onnx and --to torch_export" in capsys.readouterr().err
