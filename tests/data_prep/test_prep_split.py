from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pictures_on_disk import picture, write_folder, write_parquet, write_tar

from data_prep.__main__ import main
from data_prep.groups import choose, labels_of
from mae_vlm.data.collection import open_collection
from mae_vlm.data.sources import picture_list
from mae_vlm.data.sources.base import Joined, Part, Place, Source


def split(source, out, *words):
    return main(["split", str(source), "--out", str(out), *map(str, words)])


def rows_of(out, part):
    with (out / f"{part}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def patients(tmp_path):
    """30 patients of 1 to 4 pictures, in two classes."""
    names = [f"{('ill', 'well')[number % 2]}/p{number:02d}_{view}.png" for number in range(30) for view in range(1 + number % 4)]
    return write_folder(tmp_path / "pictures", names)


def test_pictures_of_one_group_are_never_in_two_parts_and_none_is_lost(patients, tmp_path, capsys):
    assert split(patients, tmp_path / "out", "--fraction", 0.3, "--test-fraction", 0.2, "--group-pattern", r"/(p\d+)_") == 0
    parts = {part: rows_of(tmp_path / "out", part) for part in ("train", "val", "test")}
    groups = {part: {row["group"] for row in rows} for part, rows in parts.items()}
    assert sum(map(len, groups.values())) == 30 == len(set().union(*groups.values())) and all(groups.values())
    assert len({row["image"] for rows in parts.values() for row in rows}) == sum(map(len, parts.values())) == 73
    told = capsys.readouterr().out
    assert all(f"{part:<5} {len(rows):>9,} pictures" in told for part, rows in parts.items()) and "ill " in told


def test_the_lists_are_read_by_the_source_of_lists(patients, tmp_path):
    for out, names in ((tmp_path / "with", ()), (tmp_path / "without", ("--format", "folder"))):
        folder = patients if not names else patients / "ill"
        assert split(folder, out, "--fraction", 0.4, *names) == 0
        place = Place(str(out), (out,))
        assert picture_list.FORMAT.claims(place)
        parts = picture_list.FORMAT.open(place)
        for part in ("train", "val"):
            assert [parts[part][i].id for i in range(len(parts[part]))] == [row["image"] for row in rows_of(out, part)]
        assert parts["train"].classes == (None if names else ["ill", "well"])


def test_groups_stay_where_they_are_as_pictures_and_groups_are_added():
    groups = [f"group {number}" for number in range(200)]
    before = choose(groups, [0.2, 0.1], seed=3)
    after = choose([*groups[::-1], *(f"group {number}" for number in range(200, 300))], [0.2, 0.1], seed=3)
    assert np.array_equal(before, after[:200][::-1])
    assert (choose(groups, [0.2, 0.1], seed=4) != before).any()
    assert 0.1 < (before == 1).mean() < 0.3 and 0.03 < (before == 2).mean() < 0.2


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("fraction", [0.001, 0.5, 0.999])
def test_no_part_is_empty_however_few_groups_there_are(count, fraction):
    parts = choose([f"group {number}" for number in range(count)] * 3, [fraction], seed=0)
    assert set(parts.tolist()) == {0, 1} and np.array_equal(parts[:count], parts[count : 2 * count])
    with pytest.raises(ValueError, match="1 groups cannot be split into 2 parts"):
        choose(["group 1"] * 5, [fraction], seed=0)


def test_a_pattern_that_matches_nothing_is_refused(patients, tmp_path, capsys):
    assert split(patients, tmp_path / "out", "--group-pattern", "(x+y)") == 1
    assert "matches none of 73 names, such as ill/p00_0.png" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_names_without_a_group_and_a_huge_group_are_told(patients, tmp_path, capsys):
    assert split(patients, tmp_path / "out", "--group-pattern", "^(ill)/") == 0
    told = capsys.readouterr().out
    assert "44 of 73 names do not match" in told
    assert "warning: group ill holds" in told


def test_groups_may_stand_in_a_column_of_a_list(patients, tmp_path):
    names = sorted(str(path.relative_to(patients)) for path in patients.rglob("*.png"))
    with (patients / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "label", "site"), *((name, name.split("/")[0], name.split("/")[1][1]) for name in names)])
    assert split(patients / "list.csv", tmp_path / "out", "--format", "list", "--group-column", "site", "--fraction", 0.4) == 0
    parts = {part: {row["group"] for row in rows_of(tmp_path / "out", part)} for part in ("train", "val")}
    assert parts["train"] | parts["val"] == {"0", "1", "2"} and not parts["train"] & parts["val"]


def test_a_column_that_is_not_there_is_told_with_those_that_are(patients, tmp_path, capsys):
    (patients / "list.csv").write_text("image,label,site\nill/p00_0.png,ill,3\n")
    (patients / "settings.json").write_text('{"no": "table"}')
    assert split(patients, tmp_path / "out", "--format", "folder", "--group-column", "patient") == 1
    assert "--group-column patient is in no table of" in (error := capsys.readouterr().err) and "list.csv has image, label, site" in error
    assert split(patients, tmp_path / "out", "--format", "folder", "--group-column", "site") == 1
    assert "tells no group for 72 of 73 pictures" in capsys.readouterr().err


def test_tables_are_split_into_shards_by_their_column(tmp_path, capsys):
    file = write_parquet(tmp_path / "a.parquet", 24)
    table = pq.read_table(file)
    pq.write_table(table.append_column("patient", [[str(number // 4) for number in range(24)]]), file)
    assert split(file, tmp_path / "out", "--group-column", "patient") == 1
    assert "write shards instead: --shards" in capsys.readouterr().err
    assert split(file, tmp_path / "out", "--group-column", "patient", "--shards", "--fraction", 0.3, "--workers", 1) == 0
    assert json.loads((tmp_path / "out" / "dataset.json").read_bytes())["samples"] == 24
    found = open_collection(Place(str(tmp_path / "out"))).parts
    original = open_collection(Place(str(file))).parts["all"]
    patient = {original[i].image: i // 4 for i in range(24)}
    held = {part: {patient[source[i].image] for i in range(len(source))} for part, source in found.items()}
    assert held["train"] | held["val"] == set(range(6)) and not held["train"] & held["val"]


def test_lists_that_split_did_not_write_are_never_replaced(patients, tmp_path, capsys):
    own = "image,caption,label\nill/p00_0.png,a chest,ill\nwell/p01_0.png,a hand,well\n"
    (patients / "train.csv").write_text(own)
    for source, out in ((patients, patients), (patients / "train.csv", patients), (patients / "ill", patients)):
        assert split(source, out) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "give another folder" in error
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "my_val.jsonl").write_text("{}\n")
    assert split(patients / "ill", tmp_path / "other") == 1
    assert "holds my_val.jsonl, which split did not write" in capsys.readouterr().err
    assert (patients / "train.csv").read_text() == own and not (patients / "val.csv").exists()


def test_an_earlier_split_is_replaced_once_the_new_one_is_written(patients, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert split(patients, out, "--fraction", 0.3, "--test-fraction", 0.2) == 0
    before = {file.name: file.read_bytes() for file in out.iterdir()}

    def full(path, data):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("data_prep.whole_file.write_whole", full)
        assert split(patients, out, "--fraction", 0.4) == 1
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert split(patients, out, "--fraction", 0.4) == 0
    assert sorted(file.name for file in out.iterdir()) == ["train.csv", "val.csv"]


def test_labels_are_told_without_reading_a_picture(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "folder", ["cat/0.png", "dog/1.png"])
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "a.csv").write_text(f"image,label\n{folder}/cat/0.png,cat\n{folder}/dog/1.png,\n")
    write_tar(tmp_path / "tar" / "a.tar", {"0.png": picture(0), "0.cls": b"1", "1.png": picture(1)})
    (tmp_path / "tar" / "classes.txt").write_text("cat\ndog\n")
    paths = [folder, tmp_path / "list" / "a.csv", tmp_path / "tar", write_parquet(tmp_path / "t.parquet", 3)]
    sources = [open_collection(Place(str(path))).parts["all"] for path in paths]
    for source in sources:
        monkeypatch.setattr(type(source), "__getitem__", lambda self, index: pytest.fail("a picture was read"))
    assert [labels_of(source) for source in sources] == [["cat", "dog"], ["cat", ""], ["dog", ""], ["cat", "dog", "cat"]]
    assert labels_of(Part(Joined(sources), np.array([1, 2, 4, 8]))) == ["dog", "cat", "dog", "cat"]


class Damaged(Source):
    """Three pictures that must be read to know their class; the second cannot be."""

    def __init__(self, whole):
        self.whole, self.root, self.classes = whole, whole.root, whole.classes

    def __len__(self):
        return 3

    def name(self, index):
        return self.whole.name(index)

    def __getitem__(self, index):
        if index == 1:
            raise FileNotFoundError(f"{self.name(index)} is gone")
        return self.whole[index]


def test_a_picture_that_cannot_be_read_has_no_label_and_ends_nothing(tmp_path, monkeypatch, capsys):
    folder = write_folder(tmp_path / "a", ["cat/0.png", "cat/1.png", "dog/2.png"])
    source = Damaged(open_collection(Place(str(folder))).parts["all"])
    assert labels_of(source) == ["cat", None, "dog"]
    (folder / "cat" / "1.png").unlink()
    monkeypatch.setattr("data_prep.split.open_parts", lambda options: ({"all": source}, "folder", None))
    assert split(folder, tmp_path / "out", "--fraction", 0.3) == 0
    rows = rows_of(tmp_path / "out", "train") + rows_of(tmp_path / "out", "val")
    assert sorted((Path(row["image"]).name, row["label"]) for row in rows) == [("0.png", "cat"), ("1.png", ""), ("2.png", "dog")]
    told = capsys.readouterr().out
    assert "1 of 3 pictures cannot be read" in told and "1 of 3 pictures are gone" in told


def test_groups_may_stand_in_a_column_of_a_remote_table(tmp_path, monkeypatch, capsys):
    import fsspec

    monkeypatch.setenv("MAE_VLM_CACHE", str(tmp_path / "cache"))
    file = write_parquet(tmp_path / "a.parquet", 12, more={"patient": [number // 3 for number in range(12)]})
    url = f"memory://{tmp_path.name}/a.parquet"
    fsspec.filesystem("memory").pipe(url, file.read_bytes())
    assert split(url, tmp_path / "no", "--group-column", "site", "--shards", "--workers", 1) == 1
    assert f"--group-column site is not a column of {url}" in capsys.readouterr().err
    assert split(url, tmp_path / "out", "--group-column", "patient", "--shards", "--fraction", 0.4, "--workers", 1) == 0
    assert "groups" in (told := capsys.readouterr().out) and "in 4 groups" not in told
    assert json.loads((tmp_path / "out" / "dataset.json").read_bytes())["samples"] == 12
