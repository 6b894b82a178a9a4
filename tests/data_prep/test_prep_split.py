from __future__ import annotations

import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from pictures_on_disk import write_folder, write_parquet

from data_prep.__main__ import main
from data_prep.groups import choose
from mae_vlm.data.collection import open_collection
from mae_vlm.data.sources import picture_list
from mae_vlm.data.sources.base import Place


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
