"""Promises of tools.onnx_scores."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from tiny_runs import MACHINE, REPOSITORY, in_process

from mae_vlm.convert import graph
from tools import onnx_scores

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
OPTIONS = [
    *[*MACHINE, "--data.scenes", "16", "--data.val_scenes", "6", "--data.image_size", "32", "--data.batch_size", "4"],
    *["--model.encoder.width", "32", "--model.encoder.depth", "1", "--model.encoder.heads", "2", "--model.encoder.patch", "8"],
    *["--trainer.max_steps", "2", "--probes.pictures", "0", "--pictures.count", "2"],
]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classify", "segment", "detect"])
def test_pytorch_and_onnx_score_what_the_run_did_and_int8_is_told_beside(task, tmp_path, capsys):
    config = REPOSITORY / "configs" / "finetune" / f"quick_{task}.yaml"
    assert in_process("fit", "--config", config, *OPTIONS, "--trainer.default_root_dir", tmp_path) == 0
    run = tmp_path / f"quick_{task}" / "version_0"
    capsys.readouterr()
    onnx_scores.main([str(run), "--batch", "4", "--rounds", "1"])
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["in"] for row in told] == ["PyTorch float32", "onnxruntime float32", "onnxruntime int8"]
    with (run / "metrics.csv").open() as file:
        (*_, last) = [row[f"val/{told[0]['metric']}"] for row in csv.DictReader(file) if row.get(f"val/{told[0]['metric']}")]
    assert told[0]["score"] == pytest.approx(float(last), abs=1e-3) == told[1]["score"]
    assert all(row["pictures"] == 6 and row["images_per_s"] > 0 for row in told)
    assert told[2]["megabytes"] < told[1]["megabytes"]


def test_rounds_are_timed_in_turn_and_the_first_is_not_counted():
    order = []
    runs = {name: lambda pixels, name=name: order.append(name) for name in "ab"}
    found = onnx_scores.rates(runs, torch.zeros(3, 1, 2, 2), 2)
    assert order == ["a", "b"] * 3 and set(found) == {"a", "b"}


def test_a_run_without_a_head_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_scores, "graph_of", lambda source: graph.Graph(torch.nn.Identity(), (), None, False))
    with pytest.raises(ValueError, match="has no head of Classify, Segment, Dense; give a fine-tuned run"):
        next(onnx_scores.rows(tmp_path, 4, 1))
