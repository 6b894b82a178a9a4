from __future__ import annotations

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from copies import cut, jpeg_bytes, resized, scenes
from pictures_on_disk import SHARED, picture, write_coco, write_folder
from PIL import Image

from data_prep.__main__ import main
from data_prep.look import _mode
from data_prep.misfits import misfits
from mae_vlm.types import Sample


def check(tmp_path, *words):
    """The report of ``check``, and its page."""
    assert main(["check", *map(str, words), "--out", str(tmp_path / "report"), "--workers", "1"]) == 0
    return json.loads((tmp_path / "report" / "report.json").read_bytes()), (tmp_path / "report" / "report.html").read_text()


def save(folder, images):
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        (folder / f"{number:03d}.jpg").write_bytes(jpeg_bytes(image))
    return folder


def names_of(pair):
    return {f"{pair[side]['part']}/{pair[side]['name']}" for side in ("a", "b")}


def test_copies_across_parts_and_under_other_labels_come_first(tmp_path):
    images = scenes(12)
    for number, kind in enumerate(("train/cat", "train/dog", "val/cat", "val/dog")):
        save(tmp_path / "a" / kind, images[3 * number : 3 * number + 3])
    (tmp_path / "a" / "val" / "cat" / "leak.jpg").write_bytes(jpeg_bytes(resized(images[1], 0.6), 70))  # train/cat/001
    (tmp_path / "a" / "train" / "dog" / "same.jpg").write_bytes(jpeg_bytes(images[0]))  # train/cat/000, byte by byte
    (tmp_path / "a" / "train" / "dog" / "more.jpg").write_bytes(jpeg_bytes(cut(images[4], 0.02, 0, 0, 0.02)))  # train/dog/001
    report, page = check(tmp_path, tmp_path / "a")
    assert [names_of(pair) for pair in report["duplicates"]] == [
        {"train/cat/001.jpg", "val/cat/leak.jpg"},
        {"train/cat/000.jpg", "train/dog/same.jpg"},
        {"train/dog/001.jpg", "train/dog/more.jpg"},
    ]
    flags = [[pair[flag] for flag in ("leak", "other_label", "same_bytes")] for pair in report["duplicates"]]
    assert flags == [[True, False, False], [False, True, True], [False, False, False]]
    counts = {
        name: report["summary"][f"duplicate_{name}"] for name in ("pairs", "leaks", "other_label", "same_bytes", "pictures", "groups")
    }
    assert counts == {"pairs": 3, "leaks": 1, "other_label": 1, "same_bytes": 1, "pictures": 6, "groups": 3}
    assert page.count("data:image/") == 6 and "In train and in validation (1)" in page


def test_validation_pictures_may_lie_elsewhere_with_the_same_class_numbers(tmp_path):
    images = scenes(8)
    save(tmp_path / "a" / "cat", images[:3])
    save(tmp_path / "a" / "dog", images[3:6])
    save(tmp_path / "b" / "dog", [images[6], images[5]])
    report, _ = check(tmp_path, tmp_path / "a", tmp_path / "b")
    assert {name: part["pictures"] for name, part in report["parts"].items()} == {"train": 6, "val": 2}
    (pair,) = report["duplicates"]
    assert pair["leak"] and pair["a"]["label"] == pair["b"]["label"] == "dog"


def test_a_mirrored_copy_counts_when_asked_for(tmp_path):
    images = scenes(6)
    save(tmp_path / "a", [*images, images[2].transpose(Image.Transpose.FLIP_LEFT_RIGHT)])
    assert not check(tmp_path, tmp_path / "a")[0]["duplicates"]
    (pair,) = check(tmp_path, tmp_path / "a", "--mirrored")[0]["duplicates"]
    assert pair["mirrored"] and names_of(pair) == {"all/002.jpg", "all/006.jpg"}


def test_unreadable_and_odd_pictures_are_listed_with_the_reason(tmp_path):
    folder = save(tmp_path / "a", scenes(3))
    (folder / "cut<b>.png").write_bytes(picture(0)[:200])
    (folder / "empty.png").write_bytes(b"")
    for name, size in (("blank", (30, 30)), ("blank again", (40, 30)), ("tiny", (9, 20)), ("long", (200, 20))):
        values = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8) * (not name.startswith("blank"))
        Image.fromarray(values.astype(np.uint8)).save(folder / f"{name}.png")
    report, page = check(tmp_path, folder)
    assert {one["name"] for one in report["unreadable"]} == {"cut<b>.png", "empty.png"}
    assert all(one["name"] in one["reason"] for one in report["unreadable"])
    assert {name: [one["name"] for one in report[name]] for name in ("blank", "tiny", "huge", "elongated")} == {
        "blank": ["blank again.png", "blank.png"],
        "tiny": ["tiny.png"],
        "huge": [],
        "elongated": ["long.png"],
    }
    assert not report["duplicates"]  # one colour looks like another picture of that colour, and says nothing
    assert "cut&lt;b&gt;.png" in page and "cut<b>.png" not in page and "http" not in page.replace("http-equiv", "")


def test_sizes_modes_statistics_and_classes_are_counted(tmp_path):
    write_folder(tmp_path / "a", ["x/0.png", "x/1.png", "x/2.png", "y/3.png"])
    Image.fromarray(np.full((30, 50), 7, np.uint8)).save(tmp_path / "a" / "y" / "grey.png")
    part = check(tmp_path, tmp_path / "a")[0]["parts"]["all"]
    assert part["kinds"] == {"png RGB 3": 4, "png L 1": 1}
    assert (part["sizes"]["width"]["least"], part["sizes"]["width"]["most"], part["sizes"]["height"]["median"]) == (24, 50, 20)
    assert part["classes"] == {"counts": {"x": 3, "y": 2}, "without_label": 0, "least": 2, "most": 3}
    values = [
        np.asarray(Image.open(tmp_path / "a" / name).convert("RGB")).reshape(-1, 3)
        for name in ("x/0.png", "x/1.png", "x/2.png", "y/3.png", "y/grey.png")
    ]
    np.testing.assert_allclose(part["mean"], np.concatenate(values).mean(0) / 255, atol=1e-5)


def test_caption_lengths_and_repeats_are_counted(tmp_path):
    write_folder(tmp_path / "a", ["0.png", "1.png", "2.png"])
    rows = [("0.png", "a red dog"), ("0.png", "A  dog"), ("1.png", "a dog"), ("2.png", "a dog on the grass")]
    (tmp_path / "a" / "captions.jsonl").write_text("".join(json.dumps({"image": name, "caption": text}) + "\n" for name, text in rows))
    told = check(tmp_path, tmp_path / "a")[0]["parts"]["all"]["captions"]
    assert (told["captions"], told["distinct"], told["pictures_without"]) == (4, 3, 0)
    assert (told["words"]["least"], told["words"]["most"]) == (2, 5)
    assert told["repeated"] == [{"times": 2, "caption": "A  dog"}]


def test_any_number_of_workers_gives_the_same_report(tmp_path):
    save(tmp_path / "a", scenes(70) + scenes(70))
    for number, workers in enumerate(("1", "3")):
        assert main(["check", str(tmp_path / "a"), "--out", str(tmp_path / f"{number}"), "--workers", workers]) == 0
    for file in ("report.json", "report.html"):
        assert (tmp_path / "0" / file).read_bytes() == (tmp_path / "1" / file).read_bytes()


def test_boxes_and_masks_that_do_not_fit_the_picture_are_bad_annotations(tmp_path):
    sizes = [(24, 20), (48, 40), (48, 40), (48, 40)]  # as the json says them; all are 24 x 20 pixels
    boxes = [(2, 2, 9, 9), (30, 25, 10, 10), (10, 10, 30, 25), (2, 2, 9, 9)]
    polygon = [[2, 2, 11, 2, 11, 11, 2, 11]]
    pictures = [{"id": n, "file_name": f"{n}.png", "width": w, "height": h} for n, (w, h) in enumerate(sizes)]
    annotations = [{"id": n, "image_id": n, "category_id": 7, "bbox": list(box)} for n, box in enumerate(boxes)]
    annotations[3]["segmentation"] = polygon
    write_coco(tmp_path / "a" / "instances.json", pictures, annotations)
    report, page = check(tmp_path, tmp_path / "a")
    assert report["summary"]["bad_annotations"] == 3
    told = {one["kind"]: one for one in report["annotations"]["first"]}
    assert report["annotations"]["counts"] == dict.fromkeys(told, 1) and len(told) == 3
    assert {kind: one["id"] for kind, one in told.items()} == {
        "box outside the picture": "1.png",
        "boxes reach outside the picture": "2.png",
        "masks that cannot be decoded": "3.png",
    }
    assert "left 30, top 25, right 40, bottom 35; the picture is 24 x 20" in told["box outside the picture"]["text"]
    assert told["masks that cannot be decoded"]["file"].endswith("instances.json")
    assert "boxes reach outside the picture" in page


def test_decoded_masks_are_compared_with_the_picture_and_rounding_is_no_misfit():
    boxes_N4 = torch.tensor([[-0.5, -1.0, 24.9, 21.0]])
    assert misfits(Sample("a", b"", boxes=boxes_N4, masks=torch.ones(1, 20, 24, dtype=torch.bool)), 20, 24) == []
    found = misfits(Sample("a", b"", masks=torch.ones(1, 24, 20, dtype=torch.bool), semantic=torch.zeros(5, 5, dtype=torch.uint8)), 20, 24)
    assert [(kind, id) for kind, _, id, _ in found] == [("mask of another size", "a")] * 2


def test_a_postscript_file_is_not_opened_for_its_mode():
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "EPS")
    told = _mode(Sample("a", buffer.getvalue()), SimpleNamespace(header=SimpleNamespace(format="eps")))
    assert told == "eps bands"


@pytest.mark.slow
def test_the_known_double_of_a_real_set_is_found_under_its_two_labels(tmp_path):
    folder = SHARED / "tiny-imagenet-20"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    report, _ = check(tmp_path, folder)
    (pair,) = [pair for pair in report["duplicates"] if pair["other_label"]]
    assert pair["same_bytes"] and {pair["a"]["label"], pair["b"]["label"]} == {"orange", "lemon"}
    assert report["summary"]["duplicate_pictures"] < 0.01 * report["summary"]["pictures"]
