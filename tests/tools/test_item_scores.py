"""Scores over any choice of pictures: average precision is pycocotools', intervals are of pairs."""

import json

import numpy as np
import pytest

from tools.item_scores import Found, Right, interval
from tools.overfit_scores import detections, precision


@pytest.fixture
def told(tmp_path):
    """Forty pictures with up to six boxes of three classes, crowds among them, and answers near some of them, many wrong."""
    draw = np.random.default_rng(0)
    images = [{"id": number, "file_name": f"{number:02}.png", "height": 60, "width": 80} for number in range(40)]
    true, found = [], []
    for image in images:
        for _ in range(draw.integers(0, 7)):
            box = [*draw.uniform(0, 40, 2), *draw.uniform(4, 20, 2)]
            kind = int(draw.integers(1, 4))
            crowd = int(draw.random() < 0.1)
            one = {
                "id": len(true) + 1,
                "image_id": image["id"],
                "bbox": box,
                "category_id": kind,
                "iscrowd": crowd,
                "area": box[2] * box[3],
            }
            true.append(one)
            for _ in range(draw.integers(0, 3)):
                near = [float(number) for number in np.array(box) + draw.normal(0, 2, 4)]
                near[2:] = [max(1.0, side) for side in near[2:]]
                kinds = kind if draw.random() < 0.8 else int(draw.integers(1, 4))
                found.append({"image_id": image["id"] + 7, "bbox": near, "category_id": kinds, "score": float(draw.random())})
    truth = tmp_path / "instances.json"
    truth.write_text(json.dumps({"images": images, "annotations": true, "categories": [{"id": k, "name": str(k)} for k in (1, 2, 3)]}))
    (tmp_path / "images.json").write_text(json.dumps({"images": [image | {"id": image["id"] + 7} for image in images]}))
    (tmp_path / "detections.json").write_text(json.dumps(found))
    return tmp_path, truth


def test_average_precision_over_all_pictures_is_that_of_pycocotools(told):
    out, truth = told
    items = Found.of(out, truth, "bbox")
    theirs = 100 * precision(truth, detections(truth, out), "bbox")["AP50"]
    assert 10 < theirs < 90
    assert items.score(np.arange(items.count)) == pytest.approx(theirs, abs=1e-6)


def test_a_picture_taken_twice_counts_twice(told):
    items = Found.of(*told, "bbox")
    whole = np.arange(items.count)
    assert items.score(np.concatenate([whole, whole])) == pytest.approx(items.score(whole), abs=2.0)
    assert items.score(whole[:20]) != items.score(whole)


def test_an_interval_of_pairs_is_narrow_where_the_runs_agree_on_the_pictures():
    draw = np.random.default_rng(1)
    base = [draw.random(400) < 0.5 for _ in range(3)]
    better = [Right(one | (draw.random(400) < 0.1)) for one in base]
    mean, low, high = interval(better, [Right(one) for one in base])
    assert 0 < low < mean < high < 10
    mean, low, high = interval([Right(draw.random(400) < 0.5) for _ in range(3)], [Right(one) for one in base])
    assert low < 0 < high


def test_runs_that_make_no_pairs_are_refused():
    with pytest.raises(ValueError, match="pairs of runs"):
        interval([Right(np.ones(3))], [])
