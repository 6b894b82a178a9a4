from __future__ import annotations

import pickle

import pytest
from pictures_on_disk import SHARED, picture, write_parquet

from mae_vlm.data.sources import parquet
from mae_vlm.data.sources.parquet import Parquet


@pytest.mark.parametrize("struct", [True, False])
def test_rows_of_several_files_come_in_order(tmp_path, struct):
    files = [write_parquet(tmp_path / f"{name}.parquet", 10, struct=struct) for name in "ab"]
    source = Parquet(files)
    assert len(source) == 20 and source.classes == (["cat", "dog"] if struct else None)
    assert [source[i].image for i in (0, 9, 10, 19)] == [picture(n) for n in (0, 9, 0, 9)]
    assert [source[i].label for i in (0, 1, 10, 11)] == [0, 1, 0, 1]
    assert source.name(13) == source[13].id == ("p/3.png" if struct else "b.parquet:3")


def test_samples_without_a_path_are_named_by_file_and_row(tmp_path):
    assert Parquet([write_parquet(tmp_path / "a.parquet", 3, paths=False)]).name(2) == "a.parquet:2"


def test_large_tables_keep_a_few_row_groups_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "WHOLE_BYTES", 100)
    source = Parquet([write_parquet(tmp_path / "a.parquet", 40, row_group=2)])
    assert [source[i].image == picture(i) for i in range(40)] == [True] * 40
    assert len(source._cache) == 8


def test_a_pickled_source_is_small_and_reads_again(tmp_path):
    source = Parquet([write_parquet(tmp_path / "a.parquet", 40)])
    assert source[3].image == picture(3)
    data = pickle.dumps(source)
    assert len(data) < 2000 and pickle.loads(data)[3].image == picture(3)


def test_columns_can_be_named(tmp_path):
    source = Parquet([write_parquet(tmp_path / "a.parquet", 4)], image_column="image", label_column="label")
    assert source[1].label == 1


@pytest.mark.parametrize("option", ["image_column", "label_column"])
def test_an_unknown_column_is_refused_with_those_there_are(tmp_path, option):
    with pytest.raises(ValueError, match=rf"data\.{option} picture is not a column of .*; its columns are image, label"):
        Parquet([write_parquet(tmp_path / "a.parquet", 4)], **{option: "picture"})


def test_a_column_of_another_type_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data\.image_column label .* is int64, not encoded pictures"):
        Parquet([write_parquet(tmp_path / "a.parquet", 4)], image_column="label")


def test_what_is_no_parquet_is_refused(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"a\.parquet is not a parquet file, or is damaged"):
        Parquet([tmp_path / "a.parquet"])


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data sets are not beside this checkout")
def test_cifar_reads_with_its_class_names():
    source = Parquet([SHARED / "cifar10" / "train" / "train-00000-of-00001.parquet"])
    sample = source[17_999]
    assert sample.label is not None and source.classes is not None
    assert f"/{source.classes[sample.label]}/" in sample.id
