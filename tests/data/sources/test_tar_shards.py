from __future__ import annotations

import io
import multiprocessing
import pickle
import tarfile

import pytest
from pictures_on_disk import picture, write_tar

from mae_vlm.data.sources.tar_shards import TarShards


def shards(folder):
    first = write_tar(folder / "a.tar", {"x.png": picture(0), "x.cls": b"7", "x.json": b"{}", "d/y.JPG": picture(1)})
    return TarShards([first, write_tar(folder / "b.tar", {"x.png": picture(2), ".hidden.png": b""})])


def test_pictures_come_by_offset_with_their_class_numbers(tmp_path):
    source = shards(tmp_path)
    assert [(source[i].id, source[i].label) for i in range(3)] == [("a.tar/x.png", 7), ("a.tar/d/y.JPG", None), ("b.tar/x.png", None)]
    assert [source[i].image for i in (2, 0, 1)] == [picture(2), picture(0), picture(1)]
    assert source.name(1) == source[1].id


def test_survives_pickling_and_forking(tmp_path):
    source = shards(tmp_path)
    assert source[0].image == picture(0)
    assert pickle.loads(pickle.dumps(source))[2].image == picture(2)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(source.__getitem__, (2,)).image == picture(2)


@pytest.mark.parametrize(("name", "reason"), [("../x.png", "climbs out"), ("/etc/x.png", "an absolute path")])
def test_members_outside_are_refused(tmp_path, name, reason):
    with pytest.raises(ValueError, match=f"{reason}.*which is refused"):
        TarShards([write_tar(tmp_path / "a.tar", {name: picture(0)})])


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("x.png")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info, io.BytesIO(b""))
    with pytest.raises(ValueError, match=r"member x\.png is a link, which is refused"):
        TarShards([tmp_path / "a.tar"])


def test_a_shard_cut_short_is_refused_when_read(tmp_path):
    source = shards(tmp_path)
    (tmp_path / "b.tar").write_bytes((tmp_path / "b.tar").read_bytes()[:700])
    with pytest.raises(ValueError, match=r"b\.tar/x\.png: the shard ends after 188 of"):
        source[2]


def test_what_is_no_tar_and_what_holds_no_picture_is_refused(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"x" * 2000)
    with pytest.raises(ValueError, match="is not an uncompressed tar file"):
        TarShards([tmp_path / "a.tar"])
    with pytest.raises(ValueError, match="no pictures in"):
        TarShards([write_tar(tmp_path / "b.tar", {"x.txt": b"hello"})])


def test_a_class_that_is_no_number_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"member x\.cls holds 'cat', not a class number"):
        TarShards([write_tar(tmp_path / "a.tar", {"x.png": picture(0), "x.cls": b"cat"})])
