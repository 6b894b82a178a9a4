from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from annotated_pictures import Annotated
from pictures_on_disk import picture, write_folder, write_parquet
from PIL import Image

from data_prep.__main__ import main
from data_prep.shard_plan import Shard
from data_prep.shard_writer import ShardWriter
from data_prep.shrinking import encode, shrink_masks
from mae_vlm.data.collection import open_collection
from mae_vlm.data.decode import Form, Picture, decode
from mae_vlm.data.sources.base import Place
from mae_vlm.data.sources.tar_shards import TarShards
from mae_vlm.types import Sample

ROOT = Path(__file__).resolve().parents[2]


def shards(*words, workers=1):
    return main(["shards", *map(str, words), "--workers", str(workers)])


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != ".mae_vlm_index"}


def manifest(folder):
    return json.loads((folder / "dataset.json").read_bytes())


@pytest.fixture
def classes(tmp_path):
    """Twelve pictures of two classes in train, three in val."""
    names = [f"train/{kind}/{number}.png" for kind in ("cat", "dog") for number in range(6)]
    return write_folder(tmp_path / "pictures", [*names, "val/cat/1.png", "val/dog/2.png", "val/dog/3.png"])


def test_splits_labels_and_the_very_bytes_come_back_from_the_shards(classes, tmp_path):
    assert shards(classes, tmp_path / "out", "--samples-per-shard", 5) == 0
    found = open_collection(Place(str(tmp_path / "out"))).parts
    original = open_collection(Place(str(classes))).parts
    assert sorted(manifest(tmp_path / "out")["shards"]) == ["train-00000.tar", "train-00001.tar", "train-00002.tar", "val-00000.tar"]
    for part in ("train", "val"):
        assert found[part].classes == ["cat", "dog"] and len(found[part]) == len(original[part])
        for i in range(len(found[part])):
            assert (found[part][i].image, found[part][i].label) == (original[part][i].image, original[part][i].label)


def test_bytes_are_the_same_for_any_number_of_workers_and_any_time(classes, tmp_path):
    for number, workers in enumerate((1, 2, 3)):
        assert shards(classes, tmp_path / f"{number}", "--samples-per-shard", 2, "--short-side", 16, workers=workers) == 0
    assert files_of(tmp_path / "0") == files_of(tmp_path / "1") == files_of(tmp_path / "2")
    with tarfile.open(tmp_path / "0" / "val-00000.tar") as tar:
        assert {member.mtime for member in tar} == {0}


@pytest.mark.slow
def test_ray_writes_the_same_bytes(classes, tmp_path):
    (classes / "train" / "cat" / "0.png").write_bytes(b"broken")
    script = "import sys; from data_prep.__main__ import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "shards", str(classes), str(tmp_path / "ray"), "--engine", "ray", "--workers", "1"]
    done = subprocess.run([*command, "--samples-per-shard", "4"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert shards(classes, tmp_path / "local", "--samples-per-shard", 4) == 0
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "local")
    assert manifest(tmp_path / "ray")["unreadable"] == 1


def test_a_seed_shuffles_each_part_and_loses_nothing(classes, tmp_path):
    assert shards(classes, tmp_path / "a") == shards(classes, tmp_path / "b", "--shuffle", 1) == 0
    plain, shuffled = (open_collection(Place(str(tmp_path / name))).parts["train"] for name in ("a", "b"))
    labels = [[source[i].label for i in range(12)] for source in (plain, shuffled)]
    assert labels[0] == [0] * 6 + [1] * 6 and labels[1] != labels[0]
    assert sorted(plain[i].image for i in range(12)) == sorted(shuffled[i].image for i in range(12))


def write_all(tmp_path, **options):
    writer = ShardWriter({"all": Annotated()}, tmp_path, **{"side": None, "quality": 90, "shuffle": None, **options})
    writer(Shard("pictures-00000.tar", "all", 0, 4))
    (tmp_path / "dataset.json").write_text(json.dumps({"mae_vlm": 1, "classes": ["a", "b"], "object_classes": ["half", "column"]}))
    return TarShards([tmp_path / "pictures-00000.tar"])


def test_everything_that_is_known_comes_back(tmp_path):
    written, original = write_all(tmp_path)[3], Annotated()[3]
    for name in ("image", "label", "captions", "questions", "box_captions"):
        assert getattr(written, name) == getattr(original, name), name
    for name in ("boxes", "classes", "crowds"):
        assert torch.equal(getattr(written, name), getattr(original, name)), name
    assert torch.equal(written.masks.decode(), original.masks) and torch.equal(written.semantic.decode(), original.semantic)


def test_boxes_masks_and_semantic_maps_shrink_with_the_picture(tmp_path):
    written = write_all(tmp_path, side=20)[0]
    assert decode(written.image).shape == (3, 20, 30)
    assert written.boxes.tolist() == [[0, 0, 15, 20], [25, 0, 25.5, 20]]
    masks_NHW = written.masks.decode()
    assert masks_NHW[0, :, :15].all() and not masks_NHW[0, :, 15:].any()
    assert torch.equal(written.semantic.decode()[0], torch.tensor([0] * 15 + [255] * 15, dtype=torch.uint8))


def test_no_object_vanishes_when_masks_shrink():
    masks_NHW = torch.zeros(3, 64, 64, dtype=torch.bool)
    masks_NHW[0, 10, 10], masks_NHW[1] = True, True
    shrunk = shrink_masks(masks_NHW, 8, 8)
    assert shrunk.sum((1, 2)).tolist() == [1, 64, 0] and shrunk[0, 1, 1]


def test_pictures_are_shrunk_and_never_enlarged(tmp_path):
    write_folder(tmp_path / "a", ["small.png", "large.png"])
    Image.fromarray(np.zeros((90, 120, 3), np.uint8)).save(tmp_path / "a" / "large.png")
    assert shards(tmp_path / "a", tmp_path / "out", "--short-side", 30) == 0
    source = open_collection(Place(str(tmp_path / "out"))).parts["all"]
    large, small = source[0], source[1]
    assert decode(large.image).shape == (3, 30, 40) and large.image[:2] == b"\xff\xd8"
    assert small.image == (tmp_path / "a" / "small.png").read_bytes()


@pytest.mark.parametrize(("shape", "dtype"), [((1, 5, 6), np.uint16), ((3, 5, 6), np.uint8), ((1, 5, 6), np.uint8), ((5, 5, 6), np.uint16)])
def test_what_jpeg_cannot_hold_is_encoded_without_loss(shape, dtype):
    if shape[0] > 3:
        pytest.importorskip("rasterio", reason="the extra bands is not installed")
    values = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    data, _ = encode(torch.from_numpy(values), 90, lossless=True)
    back = Picture(data, Form(None, 16 if dtype == np.uint16 else 8), "back").pixels()
    assert np.array_equal(back.numpy(), values)


def test_unreadable_pictures_are_left_out_and_listed(classes, tmp_path, capsys):
    (classes / "train" / "cat" / "2.png").write_bytes(picture(0)[:100])
    (classes / "val" / "dog" / "3.png").write_bytes(b"")
    assert shards(classes, tmp_path / "out", "--samples-per-shard", 4) == 0
    assert "13 pictures in 4 shards" in (told := capsys.readouterr().out) and "2 pictures could not be read" in told
    lines = [json.loads(line) for line in (tmp_path / "out" / "unreadable.jsonl").read_text().splitlines()]
    assert [(line["shard"], line["index"]) for line in lines] == [("train-00000.tar", 2), ("val-00000.tar", 2)]
    assert all(line["name"] in line["reason"] for line in lines)
    before = files_of(tmp_path / "out")
    found = open_collection(Place(str(tmp_path / "out")))
    assert (found.format, {part: len(source) for part, source in found.parts.items()}) == ("tar", {"train": 11, "val": 2})
    assert shards(classes, tmp_path / "out", "--samples-per-shard", 4) == 0
    assert files_of(tmp_path / "out") == before and "4 of them from before" in capsys.readouterr().out


def test_shards_of_only_broken_pictures_are_not_written(tmp_path):
    write_folder(tmp_path / "a", ["a.png", "b.png", "c.png"])
    (tmp_path / "a" / "a.png").write_bytes(b"no")
    assert shards(tmp_path / "a", tmp_path / "out", "--samples-per-shard", 1) == 0
    assert sorted(manifest(tmp_path / "out")["shards"]) == ["pictures-00001.tar", "pictures-00002.tar"]


def test_sizes_of_shards_may_be_given_in_megabytes(tmp_path):
    generator = np.random.default_rng(0)
    (tmp_path / "a").mkdir()
    for number in range(8):
        Image.fromarray(generator.integers(0, 255, (340, 340, 3), dtype=np.uint8)).save(tmp_path / "a" / f"{number}.png")  # 340 KiB
    assert shards(tmp_path / "a", tmp_path / "out", "--shard-mb", 1) == 0
    assert [one["samples"] for one in manifest(tmp_path / "out")["shards"].values()] == [3, 3, 2]


# A thread of the process itself: one that looks on from outside may come too late on a busy machine.
STOPS_ITSELF = """
import os, signal, sys, threading, time
from pathlib import Path
from data_prep.__main__ import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job, as CI may be, starts with SIGINT ignored
def stop(folder, number):
    while len(list(folder.glob("*.tar"))) < 3:
        time.sleep(0.001)
    os.kill(os.getpid(), number)
threading.Thread(target=stop, args=(Path(sys.argv[1]), int(sys.argv[2])), daemon=True).start()
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_after_a_kill_the_same_command_goes_on_to_the_same_bytes(tmp_path, stop, code):
    write_parquet(tmp_path / "a.parquet", 400)
    words = ["shards", str(tmp_path / "a.parquet"), str(tmp_path / "out"), "--samples-per-shard", "1", "--workers", "1"]
    command = [sys.executable, "-c", STOPS_ITSELF, str(tmp_path / "out"), str(int(stop)), *words]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    error = process.stderr
    assert process.returncode == code and "Traceback" not in error
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    assert 3 <= len(done) < 400 and not (tmp_path / "out" / "dataset.json").exists()
    assert main(words) == 0
    rewritten = [path for path, changed in done.items() if path.stat().st_mtime_ns != changed]
    assert len(rewritten) <= 1  # what was written and not yet in the journal
    words[2] = str(tmp_path / "whole")
    assert main(words) == 0
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_a_journal_line_cut_short_is_no_finished_shard(classes, tmp_path):
    assert shards(classes, tmp_path / "out") == 0
    whole = files_of(tmp_path / "out")
    made = manifest(tmp_path / "out")["made"]
    (tmp_path / "out" / "dataset.json").unlink()
    (tmp_path / "out" / ".shards.journal").write_text(json.dumps(made) + '\n{"name": "train-00000.tar", "sam')
    (tmp_path / "out" / "train-00000.tar.1.part").write_bytes(b"half")
    assert shards(classes, tmp_path / "out") == 0
    assert files_of(tmp_path / "out") == whole


def test_damage_is_found_and_mended(classes, tmp_path, capsys):
    assert shards(classes, tmp_path / "out", "--samples-per-shard", 5) == 0
    whole = files_of(tmp_path / "out")
    assert main(["shards", str(tmp_path / "out"), "--verify", "--workers", "1"]) == 0
    damaged = bytearray(whole["train-00001.tar"])
    damaged[700] ^= 1
    (tmp_path / "out" / "train-00001.tar").write_bytes(damaged)
    (tmp_path / "out" / "val-00000.tar").unlink()
    capsys.readouterr()
    assert main(["shards", str(tmp_path / "out"), "--verify", "--workers", "1"]) == 1
    error = capsys.readouterr().err
    assert "train-00001.tar was changed or cut short" in error and "val-00000.tar is missing" in error
    assert shards(classes, tmp_path / "out", "--samples-per-shard", 5) == 0
    assert files_of(tmp_path / "out") == whole and "2 of them from before" in capsys.readouterr().out


def test_other_options_or_other_pictures_do_not_mix_with_what_is_there(classes, tmp_path, capsys):
    assert shards(classes, tmp_path / "out") == 0
    assert shards(classes, tmp_path / "out", "--short-side", 16) == 1
    assert "short_side None, now 16" in capsys.readouterr().err
    (classes / "val" / "cat" / "9.png").write_bytes(picture(9))
    assert shards(classes, tmp_path / "out") == 1
    assert "12 train+3 val pictures, now 12 train+4 val pictures" in capsys.readouterr().err
    assert shards(classes, classes) == 1
    assert "is not empty and holds no shards" in capsys.readouterr().err


def test_names_of_any_kind_become_names_that_every_reader_takes(tmp_path):
    class Odd(Annotated):
        def name(self, index):
            return ["ä b.c/x.y.jpg", "../up.png", os.fsdecode(b"\xff.png"), "x" * 300][index]

        def __getitem__(self, index):
            return Sample(self.name(index), self.file(index))

    record, kept = ShardWriter({"all": Odd()}, tmp_path, None, 90, None)(Shard("p.tar", "all", 0, 4))
    assert record.samples == 4 and not kept
    with tarfile.open(fileobj=io.BytesIO((tmp_path / "p.tar").read_bytes())) as tar:
        names = tar.getnames()
    assert names[:3] == ["00000000_b_c_x_y.png", "00000001_up.png", "00000002_picture.png"] and max(map(len, names)) < 80
    assert len(TarShards([tmp_path / "p.tar"])) == 4
