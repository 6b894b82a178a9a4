"""Promises of mae_vlm.convert.onnx: the file gives PyTorch's numbers in onnxruntime, whatever the number and size of pictures."""

from __future__ import annotations

import json
import sys

import onnxruntime
import pytest
import torch
from paper_mae import shaken
from PIL import Image
from test_round_trips import ENCODER, classifier_of_ours, convert_by_command, run_of_ours, write

from mae_vlm.convert import graph, native, onnx
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.encoders.weights import fill
from mae_vlm.heads.classify import Classify
from mae_vlm.heads.dense import Dense
from mae_vlm.heads.segment import Segment

pytestmark = [pytest.mark.filterwarnings("ignore:.*checksums are lost"), pytest.mark.filterwarnings("ignore::UserWarning")]
PIXELS = torch.randint(0, 256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(3)) / 255


def run(file, pixels):
    return [torch.from_numpy(one) for one in onnxruntime.InferenceSession(str(file)).run(None, {"pixels": pixels.numpy()})]


def close(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.std() > 1e-3
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@torch.no_grad()
def test_an_encoder_gives_the_features_of_load_at_any_number_and_size_of_pictures(tmp_path, capsys):
    source = run_of_ours(tmp_path / "run", depth=1)
    assert convert_by_command(source, "--to", "onnx", "--out", tmp_path / "out") == 0
    assert "any number of pictures, any height and width of whole patches; within" in capsys.readouterr().out
    features, tokens = run(tmp_path / "out" / "model.onnx", PIXELS)
    embedder = native.load(source)
    close([features, tokens], [embedder.encode(PIXELS), embedder.encoder.full(embedder.encoder.normalise(PIXELS)).tokens_BTD])
    wider = Vit(**ENCODER | {"depth": 1, "image_size": (20, 32)}).eval()
    fill(wider, embedder.encoder.state_dict(), (4, 4))
    pixels = torch.rand(2, 3, 20, 32)
    close(run(tmp_path / "out" / "model.onnx", pixels)[1:], [wider.full(wider.normalise(pixels)).tokens_BTD])


@torch.no_grad()
def test_a_classifier_gives_its_logits_and_with_8_bits_says_what_that_costs(tmp_path, capsys):
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.effect_noise((20, 24), 90).save(tmp_path / "data" / name / "0.png")
    source = classifier_of_ours(tmp_path / "run")
    assert convert_by_command(source, "--to", "onnx", "--out", tmp_path / "out", "--int8", "--data", tmp_path / "data") == 0
    said = capsys.readouterr().out
    assert "float32 and int8 on 2 pictures of" in said and "top-1" in said and "same answer" in said
    rows = [line.split() for line in said.splitlines() if line.startswith("  model.")]
    assert [row[0] for row in rows] == ["model.onnx", "model.int8.onnx"] and rows[0][5] == "0.0e+00" and 0 < float(rows[1][5]) < 0.1
    assert json.loads((tmp_path / "out" / "config.json").read_text())["label_names"] == ["cat", "dog", "owl"]
    found = graph.graph_of(str(source))
    close(run(tmp_path / "out" / "model.onnx", PIXELS), found.module(PIXELS))
    small = run(tmp_path / "out" / "model.int8.onnx", PIXELS)[0]
    assert 0 < (small - found.module(PIXELS)[0]).abs().max() < 0.2 * small.std()


HEADS = {
    "segment": (lambda towers: Segment(towers, classes=["sky", "sea"]), "mae_vlm.heads.segment.Segment", ["sky", "sea"]),
    "dense": (lambda towers: Dense(towers, classes=2, layers=1), "mae_vlm.heads.dense.Dense", 2),
}


@pytest.mark.parametrize("kind", HEADS)
@torch.no_grad()
def test_a_segmenter_and_a_detector_give_their_answers(tmp_path, kind):
    make, path, classes = HEADS[kind]
    towers = Towers(Vit(**ENCODER))
    head = make(towers)
    module = shaken(torch.nn.ModuleDict({"towers": towers, "heads": torch.nn.ModuleDict({"what": head})}), by=0.05)
    options = {"classes": classes} | ({"layers": 1} if kind == "dense" else {})
    source = write(tmp_path / "run", {"heads": {"what": {"class_path": path, "init_args": options}}}, module.state_dict(), ENCODER)
    assert convert_by_command(source, "--to", "onnx", "--out", tmp_path / "out") == 0
    answer = head(graph._features(towers, PIXELS))
    found = run(tmp_path / "out" / "model.onnx", PIXELS)
    if kind == "segment":
        (expected,) = (scores for _, scores in head._whole_scores(answer["logits"], (16, 16)))
        close(found, [expected])
    else:
        scores = (answer["classes"].sigmoid() * answer["quality"].sigmoid()[..., None]).sqrt()
        torch.testing.assert_close(found[1], scores, rtol=0, atol=1e-4)
        assert found[0].shape == (3, scores.shape[1], 4) and found[0].std() > 1
    assert json.loads((tmp_path / "out" / "config.json").read_text())["shape"] == ["batch", 3, 16, 16]


@torch.no_grad()
def test_torch_export_gives_the_same_program_for_any_number_of_pictures():
    encoder = shaken(Vit(**ENCODER | {"depth": 1}))
    made = graph.Graph(graph.Pooled(encoder), ("features", "tokens"), encoder, True)
    program = onnx.exported(made).module()
    for pixels in (PIXELS[:1], torch.rand(4, 3, 24, 16)):
        close(program(pixels), made.module(pixels))
    close(made.module(PIXELS)[1:], [encoder.full(encoder.normalise(PIXELS)).tokens_BTD])


@torch.no_grad()
def test_rotary_positions_are_exported_at_their_own_size():
    options = {"embed_dim": 64, "depth": 1, "num_heads": 2, "patch_size": 4}
    from mae_vlm.convert.timm_vit import TimmVit

    encoder = shaken(TimmVit("vit_small_patch16_dinov3", options, image_size=16))
    expected = encoder.full(encoder.normalise(PIXELS)).tokens_BTD
    close(graph.Pooled(encoder)(PIXELS)[1:], [expected])
    assert not graph._resizable(encoder)


def test_numbers_that_differ_are_refused(tmp_path, monkeypatch):
    encoder = shaken(Vit(**ENCODER | {"depth": 1}))
    made = graph.Graph(graph.Pooled(encoder), ("features", "tokens"), encoder, False)
    monkeypatch.setattr(onnx, "session", lambda file: lambda pixels: [one + 1e-2 for one in made.module(pixels)])
    with pytest.raises(ValueError, match=r"features of a\.onnx differs from PyTorch's by"), torch.no_grad():
        onnx.checked(made, tmp_path / "a.onnx")


def test_without_the_package_one_line_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert convert_by_command(run_of_ours(tmp_path / "run"), "--to", "onnx", "--out", tmp_path / "out") == 1
    told = capsys.readouterr().err
    assert "pip install 'mae_vlm[onnx]'" in told and len(told.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_a_head_that_is_not_there_or_has_no_graph_is_told(tmp_path, capsys):
    towers = Towers(Vit(**ENCODER))
    state = torch.nn.ModuleDict({"towers": towers, "heads": torch.nn.ModuleDict({"a": Classify(towers, classes=2)})}).state_dict()
    source = write(tmp_path / "run", {"heads": {"a": {"class_path": "mae_vlm.heads.probe.Probe"}}}, state, ENCODER)
    for words, told in (
        (["--head", "b"], "has no head b; there are a"),
        ([], "which has no graph to export here; those of Classify, Segment, Dense have"),
    ):
        assert convert_by_command(source, "--to", "onnx", "--out", tmp_path / "out", *words) == 1
        assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
