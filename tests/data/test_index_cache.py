from __future__ import annotations

import os
import time

import pyarrow as pa
import pytest

from mae_vlm.data import index_cache
from mae_vlm.data.index_cache import Index, cache_root, cached_file, load, one_at_a_time, patiently, save, save_in_first, write_whole


def index():
    return Index(
        {"format": 1}, {"names": pa.array([b"a", b"bc"], pa.large_binary()), "numbers": pa.array([1, 2, 3]), "none": pa.array([1])[:0]}
    )


def test_arrays_of_any_lengths_come_back(tmp_path):
    assert save(tmp_path / "deep" / "x", index())
    about, arrays = load(tmp_path / "deep" / "x")
    assert about == {"format": 1}
    assert {name: array.to_pylist() for name, array in arrays.items()} == {"names": [b"a", b"bc"], "numbers": [1, 2, 3], "none": []}


def test_any_changed_byte_is_noticed(tmp_path):
    file = tmp_path / "x"
    save(file, index())
    good = file.read_bytes()
    for place in range(0, len(good), 37):
        file.write_bytes(good[:place] + bytes([good[place] ^ 0x10]) + good[place + 1 :])
        assert load(file) is None or place < 64, place
    for length in range(0, len(good), 41):
        file.write_bytes(good[:length])
        assert load(file) is None
    assert load(tmp_path / "missing") is None


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    def parts():
        yield b"half"
        assert not (tmp_path / "x").exists()

    assert write_whole(tmp_path / "x", *parts()) and (tmp_path / "x").read_bytes() == b"half"
    assert not write_whole(tmp_path / "x" / "below-a-file", b"")
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


def test_the_first_place_that_can_be_written_is_taken_and_none_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    assert save_in_first([tmp_path / "file" / "x", tmp_path / "x"], index(), "it") == tmp_path / "x"
    with pytest.warns(RuntimeWarning, match="the index of it cannot be kept .* set MAE_VLM_CACHE"):
        assert save_in_first([tmp_path / "file" / "x"], index(), "it") is None


def test_the_cache_lies_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MAE_VLM_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_root() == tmp_path / "home" / ".cache" / "mae_vlm"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "mae_vlm"
    monkeypatch.setenv("MAE_VLM_CACHE", str(tmp_path / "own"))
    assert cached_file("folders", "/a").parent == tmp_path / "own" / "folders" and cached_file("x", "/a") != cached_file("x", "/b")


def test_one_process_builds_while_the_other_waits(tmp_path):
    told = tmp_path / "told"
    with one_at_a_time("it"):
        child = os.fork()
        if not child:
            with one_at_a_time("it"):
                told.write_text("in")
            os._exit(0)
        time.sleep(0.05)
        assert not told.exists()
    os.waitpid(child, 0)
    assert told.read_text() == "in"


def test_a_bar_shows_only_after_some_seconds(capsys, monkeypatch):
    assert list(patiently([1, 2], "quick")) == [1, 2] and capsys.readouterr().err == ""
    monkeypatch.setattr(index_cache, "_PATIENCE", -1.0)
    assert list(patiently(iter([1, 2]), "slow", 2)) == [1, 2]
    out = capsys.readouterr()
    assert "slow" in out.err and not out.out
