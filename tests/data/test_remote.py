from __future__ import annotations

import os
import pickle

import pyarrow.parquet as pq
import pytest
import torch
from pictures_on_disk import picture, write_parquet, write_tar
from s3_server import s3_server

from mae_vlm.data import block_cache, remote
from mae_vlm.data.collection import open_collection
from mae_vlm.data.remote import RemoteFile, is_remote, list_remote
from mae_vlm.data.sources.base import Place
from mae_vlm.data.sources.parts import tar_index
from mae_vlm.data.sources.tar_shards import TarShards


@pytest.fixture(scope="module")
def server():
    """An S3 on this machine with the bucket ``pictures``, and fsspec's file system for it."""
    with s3_server("pictures") as fs:
        yield fs


class Folder:
    """A folder of the bucket that one test has for itself."""

    def __init__(self, fs, name):
        self.fs, self.path, self.url = fs, f"pictures/{name}", f"s3://pictures/{name}"

    def put(self, file, name):
        self.fs.put_file(str(file), f"{self.path}/{name}")


@pytest.fixture
def bucket(server, tmp_path, monkeypatch):
    """A folder of s3://pictures; the cache is the test's own."""
    monkeypatch.setenv("MAE_VLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "_PAUSES", (0.0, 0.0))
    return Folder(server, tmp_path.name)


def fill(bucket, tmp_path, names):
    for number, name in enumerate(names):
        members = {f"{number}{letter}.png": picture(10 * number + place) for place, letter in enumerate("ab")}
        bucket.put(write_tar(tmp_path / "written" / name, members), name)


def counting(monkeypatch):
    """The ranges fetched from now on, in this process."""
    asked = []
    fetch = RemoteFile._fetch
    monkeypatch.setattr(RemoteFile, "_fetch", lambda self, start, stop: asked.append((self.name, start, stop)) or fetch(self, start, stop))
    return asked


def test_what_is_remote_is_told_from_the_path():
    assert all(map(is_remote, ("s3://b/x", "gs://b/x", "https://h/x.tar", "hf://datasets/org/name/train/0.tar")))
    assert not any(map(is_remote, ("/data/x", "x.tar", "hf://datasets/org/name", "hf://datasets/org/name@v1", "hf://datasets/org/name/")))


def test_remote_shards_are_split_and_read_as_local_ones(bucket, tmp_path):
    fill(bucket, tmp_path, ["train-000.tar", "train-001.tar", "val-000.tar"])
    found = open_collection(Place(bucket.url))
    assert found.format == "tar" and {name: len(part) for name, part in found.parts.items()} == {"train": 4, "val": 2}
    train = found.parts["train"]
    assert [(train[i].id, train[i].image) for i in (3, 0)] == [
        ("train-001.tar/1b.png", picture(11)),
        ("train-000.tar/0a.png", picture(0)),
    ]
    assert train.block_ends.tolist() == [2, 4] and train.prefers_blocks
    assert pickle.loads(pickle.dumps(train))[2].image == picture(10)
    assert len(open_collection(Place(f"{bucket.url}/val-000.tar")).parts["all"]) == 2


def test_without_a_file_of_the_train_part_the_others_are_one(bucket, tmp_path):
    fill(bucket, tmp_path, ["val/000.tar", "test/000.tar"])
    bucket.put(write_parquet(tmp_path / "0.parquet", 1), "train/0.parquet")
    found = open_collection(Place(bucket.url), "tar")
    assert {name: len(part) for name, part in found.parts.items()} == {"all": 4}


def test_folders_are_parts_and_names_of_classes_lie_above_them(bucket, tmp_path):
    for part in ("train", "val"):
        bucket.put(write_tar(tmp_path / f"{part}.tar", {"x.png": picture(1), "x.cls": b"1"}), f"{part}/0.tar")
    bucket.fs.pipe_file(f"{bucket.path}/classes.txt", b"cat\ndog\n")
    parts = open_collection(Place(bucket.url + "/")).parts
    assert parts["val"][0].label == 1 and parts["val"].classes == parts["train"].classes == ["cat", "dog"]


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_workers_read_the_same_after_this_process_has_read(bucket, tmp_path, workers):
    fill(bucket, tmp_path, ["a.tar", "b.tar"])
    source = open_collection(Place(bucket.url)).parts["all"]
    assert source[0].image == picture(0)
    for block in (tmp_path / "cache" / "blocks").rglob("*"):
        if block.is_file():
            block.unlink()  # so that the workers go to the server themselves
    loader = torch.utils.data.DataLoader(source, batch_size=None, num_workers=workers, multiprocessing_context="fork" if workers else None)
    assert [sample.image for sample in loader] == [picture(number) for number in (0, 1, 10, 11)]


def test_blocks_are_fetched_once_and_an_index_is_not_built_twice(bucket, tmp_path, monkeypatch):
    fill(bucket, tmp_path, ["a.tar", "b.tar"])
    asked = counting(monkeypatch)
    open_collection(Place(bucket.url)).parts["all"][1]
    assert sorted(name for name, _, _ in asked) == ["a.tar", "b.tar"]
    monkeypatch.setattr(tar_index, "read_shard", None)  # would fail
    assert open_collection(Place(bucket.url)).parts["all"][3].image == picture(11)
    assert len(asked) == 2


def test_the_index_beside_remote_shards_is_used_until_their_sizes_differ(bucket, tmp_path, monkeypatch):
    fill(bucket, tmp_path, ["a.tar", "b.tar"])
    TarShards(sorted((tmp_path / "written").glob("*.tar")))
    bucket.put(tmp_path / "written" / ".mae_vlm_index", ".mae_vlm_index")
    asked = counting(monkeypatch)
    assert len(open_collection(Place(bucket.url)).parts["all"]) == 4
    assert [name for name, _, _ in asked] == [".mae_vlm_index"]
    members = {"new.png": picture(5, (200, 200))}
    bucket.put(write_tar(tmp_path / "b.tar", members), "b.tar")
    source = open_collection(Place(bucket.url)).parts["all"]
    assert [source.name(i) for i in range(len(source))] == ["a.tar/0a.png", "a.tar/0b.png", "b.tar/new.png"]


def test_a_shard_written_anew_is_read_anew(bucket, tmp_path):
    fill(bucket, tmp_path, ["a.tar"])
    assert open_collection(Place(bucket.url)).parts["all"][0].image == picture(0)
    bucket.put(write_tar(tmp_path / "x" / "a.tar", {"0a.png": picture(7), "0b.png": picture(8)}), "a.tar")
    assert open_collection(Place(bucket.url)).parts["all"][0].image == picture(7)


def test_remote_tables_are_read_by_the_same_ranges(bucket, tmp_path):
    file = write_parquet(tmp_path / "train-0.parquet", 6)
    bucket.put(file, "train-0.parquet")
    found = list_remote(bucket.url).files(".parquet")[0]
    with found.open() as stream:
        assert pq.ParquetFile(stream).read().equals(pq.read_table(file))
    source = open_collection(Place(bucket.url)).parts["all"]
    assert len(source) == 6 and source[4].image == picture(4)


def test_ranges_over_blocks_and_at_the_end_are_right(tmp_path, monkeypatch):
    data = bytes(range(256)) * 4
    monkeypatch.setenv("MAE_VLM_CACHE", str(tmp_path))
    monkeypatch.setattr(block_cache, "BLOCK_BYTES", 100)
    for size, offset in ((10, 0), (10, 95), (250, 50), (1024, 0), (50, 1000), (5, 1024), (0, 3)):
        assert block_cache.read_range("k", 1024, size, offset, lambda start, stop: data[start:stop]) == data[offset : offset + size]
    (file,) = [block for block in (tmp_path / "blocks").rglob("3") if block.is_file()]
    file.write_bytes(b"cut")
    assert block_cache.read_range("k", 1024, 10, 300, lambda start, stop: data[start:stop]) == data[300:310]


def test_the_blocks_not_read_for_longest_are_removed_first(tmp_path):
    (tmp_path / "a").mkdir()
    for age in range(10):
        (tmp_path / "a" / str(age)).write_bytes(b"x" * 100)
        os.utime(tmp_path / "a" / str(age), (10_000 - age, 10_000 - age))
    block_cache.sweep(tmp_path, 1000)
    assert len(list((tmp_path / "a").iterdir())) == 10
    block_cache.sweep(tmp_path, 500)
    assert {file.name for file in (tmp_path / "a").iterdir()} == {"0", "1", "2", "3"}


@pytest.mark.parametrize("told", ["much", "0", "-1", "nan"])
def test_a_size_of_the_cache_that_is_none_is_refused(monkeypatch, told):
    monkeypatch.setenv("MAE_VLM_CACHE_GB", told)
    with pytest.raises(ValueError, match=rf"MAE_VLM_CACHE_GB {told} must be a positive number of gigabytes"):
        block_cache.limit_bytes()


def test_passing_faults_are_tried_again_and_lasting_ones_are_not(monkeypatch):
    monkeypatch.setattr(remote, "_PAUSES", (0.0, 0.0))
    calls = []

    def fail(times, error):
        calls.append(1)
        if len(calls) <= times:
            raise error
        return "there"

    assert remote._patient(lambda: fail(2, ConnectionResetError("reset"))) == "there"
    calls.clear()
    with pytest.raises(TimeoutError):
        remote._patient(lambda: fail(3, TimeoutError("slow")))
    assert len(calls) == 3
    calls.clear()
    with pytest.raises(FileNotFoundError):
        remote._patient(lambda: fail(1, FileNotFoundError("gone")))
    assert len(calls) == 1


def test_fewer_bytes_than_asked_for_are_refused(bucket, tmp_path):
    bucket.fs.pipe_file(f"{bucket.path}/x.tar", b"x" * 1000)
    with pytest.raises(ValueError, match=r"x\.tar: 1000 bytes came instead of 2000; it was changed since"):
        RemoteFile(f"{bucket.url}/x.tar", 2000, "old").read(2000, 0)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://nowhere/x", r"data\.path s3://nowhere/x does not exist"),
        ("s3://pictures/nothing", r"does not exist or holds no \.tar or \.parquet file; pictures are read from remote places in shards"),
        ("s3://pictures/x.tar", r"data\.path s3://pictures/x\.tar does not exist; check the bucket or host"),
        ("ftq://pictures/x.tar", r"ftq://pictures/x\.tar is of no known kind .*; use s3://"),
        ("https://localhost/x/", r"is no file that can be listed; give the address of one"),
    ],
)
def test_places_that_are_not_there_are_refused_in_one_line(bucket, url, message):
    with pytest.raises(ValueError, match=message) as caught:
        open_collection(Place(url))
    assert "\n" not in str(caught.value)


def test_missing_credentials_are_told(bucket, monkeypatch):
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, os.devnull)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(ValueError, match=r"data\.path s3://pictures/x: no credentials found; set them .*or FSSPEC_S3_ANON"):
        open_collection(Place("s3://pictures/x"))


def test_a_missing_extra_is_told_with_the_command(monkeypatch):
    def refuse(url):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", refuse)
    with pytest.raises(ValueError, match=r"data\.path s3://b/x needs another package; pip install 'mae_vlm\[s3\]'$"):
        list_remote("s3://b/x")
