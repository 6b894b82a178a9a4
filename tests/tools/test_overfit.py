"""Promises of tools.overfit: which pictures, what counts, and that nothing is done twice."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from mae_vlm.heads.parts.panoptic_quality import PanopticQuality
from tools import overfit, stages
from tools.overfit_scores import Canvas, detections, drawn_again, mean_iou, panoptic_quality, precision, semantic_again, through
from tools.overfit_sets import write_set

KINDS = [{"id": 7, "name": "cat"}, {"id": 90, "name": "sky"}]
EXACT = Canvas(40, 60, 1)


@pytest.fixture
def part(tmp_path):
    """Ten pictures, the first by name without an object, the others with a square each."""
    (tmp_path / "part" / "images").mkdir(parents=True)
    names = [f"{letter}.png" for letter in "jihgfedcba"]
    for name in names:
        Image.new("RGB", (60, 40)).save(tmp_path / "part" / "images" / name)
    images = [{"id": 100 + n, "file_name": name, "height": 40, "width": 60} for n, name in enumerate(names)]
    found = [{"id": n + 1, "image_id": 100 + n, "category_id": 7, "bbox": [n, 2, 20, 16], "area": 320, "iscrowd": 0} for n in range(9)]
    for one in found:
        left, top, width, height = one["bbox"]
        one["segmentation"] = [[left, top, left + width, top, left + width, top + height, left, top + height]]
    (tmp_path / "part" / "instances.json").write_text(json.dumps({"images": images, "annotations": found, "categories": KINDS}))
    return tmp_path / "part"


def test_the_first_eight_pictures_with_an_object_are_taken_with_what_is_told_of_them(part, tmp_path):
    assert write_set(part, "instances.json", tmp_path / "set") == [f"{letter}.png" for letter in "bcdefghi"]
    assert sorted(file.stem for file in (tmp_path / "set" / "images").iterdir()) == list("bcdefghi")
    told, whole = (json.loads((folder / "instances.json").read_text()) for folder in (tmp_path / "set", part))
    assert told["categories"] == KINDS and len(told["annotations"]) == 8
    assert all(one in whole["annotations"] for one in told["annotations"])


def test_the_truth_itself_scores_one_and_coarse_cells_cost(part, tmp_path):
    write_set(part, "instances.json", tmp_path / "set")
    truth = tmp_path / "set" / "instances.json"
    assert precision(truth, drawn_again(truth, EXACT, "bbox"), "bbox")["AP"] == pytest.approx(1)
    assert precision(truth, drawn_again(truth, EXACT, "segm"), "segm")["AP"] == pytest.approx(1)
    assert precision(truth, drawn_again(truth, Canvas(20, 30, 10), "segm"), "segm")["AP"] < 0.9


def test_answers_count_under_the_truths_pictures_and_their_own_classes(part, tmp_path):
    write_set(part, "instances.json", tmp_path / "set")
    truth, out = tmp_path / "set" / "instances.json", tmp_path / "out"
    out.mkdir()
    listed = [{"id": n, "file_name": f"{letter}.png"} for n, letter in enumerate("bcdefghi", 1)]
    said = [{"image_id": n, "category_id": 7, "score": 0.9, "bbox": [9 - n, 2, 20, 16]} for n in range(1, 9)]
    (out / "images.json").write_text(json.dumps({"images": listed}))
    (out / "detections.json").write_text(json.dumps(said))
    assert precision(truth, detections(truth, out), "bbox")["AP"] == pytest.approx(1)
    (out / "detections.json").write_text(json.dumps([one | {"category_id": 1} for one in said]))
    assert precision(truth, detections(truth, out), "bbox")["AP"] == 0


def test_maps_go_through_the_canvas_and_lie_where_they_were():
    maps = torch.zeros(1, 80, 120)
    maps[:, 20:60, 40:100] = 1
    assert torch.equal(through(maps, Canvas(80, 120, 1)) > 0, maps > 0)
    again = through(maps, Canvas(40, 64, 2)) > 0  # the picture covers 40 x 60 of it
    assert (again != maps.bool()).sum() < 0.02 * maps.sum()


def test_panoptic_quality_equals_the_packages_with_unknown_pixels_and_crowds(tmp_path):
    chance, metric, answers, told = np.random.default_rng(0), PanopticQuality(3), {}, []
    (tmp_path / "panoptic").mkdir()
    for n in range(12):
        true_HW = chance.integers(0, 6, (6, 6)).repeat(3, 0).repeat(3, 1)
        true_HW[0, :5] = range(1, 6)  # each is there
        said_HW = np.where(chance.random((18, 18)) < 0.04 * n, chance.integers(0, 8, (18, 18)), true_HW)
        kinds, crowds = chance.integers(0, 3, 5), chance.random(5) < 0.3
        said = np.concatenate([np.where(chance.random(5) < 0.8, kinds, 0), [1, 2]])
        metric.update(*map(torch.from_numpy, (said_HW, said, true_HW, kinds, crowds)))
        Image.fromarray(np.stack([true_HW, 0 * true_HW, 0 * true_HW], -1).astype(np.uint8)).save(tmp_path / "panoptic" / f"{n}.png")
        info = [{"id": k + 1, "category_id": int(kinds[k]), "iscrowd": int(crowds[k])} for k in range(5)]
        told.append({"image_id": n, "file_name": f"{n}.png", "segments_info": info})
        answers[f"{n}.jpg"] = (said_HW, {k + 1: int(kind) for k, kind in enumerate(said) if (said_HW == k + 1).any()})
    images = [{"id": n, "file_name": f"{n}.jpg"} for n in range(12)]
    (tmp_path / "panoptic.json").write_text(json.dumps({"images": images, "annotations": told}))
    found, ours = panoptic_quality(tmp_path / "panoptic.json", answers), metric.compute()
    assert 0.2 < found["PQ"] < 0.9
    assert [found["PQ"], found["SQ"], found["RQ"]] == pytest.approx([float(ours[name]) for name in ("pq", "sq", "rq")], abs=1e-6)


def test_iou_leaves_the_unknown_out_and_counts_by_class(tmp_path):
    true_HW, said_HW = np.full((4, 6), 2, np.uint8), np.zeros((4, 6), np.uint8)
    true_HW[:2], said_HW[1:] = [0, 0, 0, 0, 1, 1], 1  # 2 stands for the unknown
    Image.fromarray(true_HW).save(tmp_path / "a.png")
    assert mean_iou(tmp_path, {"a": said_HW}, 2)["mIoU"] == pytest.approx((4 / 10 + 2 / 8) / 2)
    assert mean_iou(tmp_path, semantic_again(tmp_path, Canvas(4, 6, 1), 2), 2)["mIoU"] == 1


def test_a_stage_that_is_done_is_not_done_again_and_one_that_failed_is_told(part, tmp_path, monkeypatch):
    calls, code = [], 0
    monkeypatch.setattr(stages.subprocess, "run", lambda words, **_: calls.append(words) or SimpleNamespace(returncode=code))
    case = overfit.CASES["nuclei"]
    (tmp_path / case.data).symlink_to(part.parent)
    (part.parent / "train").symlink_to(part)
    for _ in range(2):
        bench = overfit.Bench(case, tmp_path, tmp_path / "out")
        bench.take()
        run = bench.fit(bench.pretrain(30), ["--trainer.max_steps", "4"])
        bench.predict(run)
    assert [words[3] for words in calls] == ["fit", "fit", "predict"]
    assert calls[1][-6:] == ["--ckpt_path", "auto", "--trainer.default_root_dir", str(tmp_path / "out"), "--name", "fit"]
    code = 1
    with pytest.raises(ValueError, match="mae ended with 1"):
        overfit.Bench(case, tmp_path, tmp_path / "other").pretrain(30)


def test_an_absent_collection_is_said(tmp_path, capsys):
    assert overfit.main(["nuclei", "--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert "skipped" in capsys.readouterr().out


@pytest.mark.parametrize("name", list(overfit.CASES))
def test_every_case_has_its_config(name):
    assert (Path(overfit.CONFIGS) / f"{overfit.CASES[name].config}.yaml").is_file()
