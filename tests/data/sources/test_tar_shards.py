from __future__ import annotations

import io
import json
import multiprocessing
import os
import pickle
import tarfile

import numpy as np
import pytest
import torch
from pictures_on_disk import SHARED, picture, write_tar

from mae_vlm.data.index_cache import load
from mae_vlm.data.sources.parts import tar_index
from mae_vlm.data.sources.parts.sample_json import to_json
from mae_vlm.data.sources.parts.semantic_png import to_png
from mae_vlm.data.sources.tar_shards import TarShards
from mae_vlm.types import Question, Sample


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MAE_VLM_CACHE", str(tmp_path / "cache"))


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


def test_all_that_was_known_of_a_picture_comes_back(tmp_path):
    written = Sample(
        "x",
        picture(0),
        label=2,
        captions=("a cat",),
        questions=(Question("what?", ("cat", "cat")),),
        boxes=torch.tensor([[0.1, 2, 3.5, 4]]),
        classes=torch.tensor([1]),
        masks=torch.rand(1, 20, 24) > 0.5,
    )
    semantic = torch.arange(480).reshape(20, 24).to(torch.int16) - 1
    members = {"x.png": picture(0), "x.json": json.dumps(to_json(written)).encode(), "x.semantic.png": to_png(semantic)}
    (tmp_path / "dataset.json").write_text(json.dumps({"mae_vlm": 1, "classes": ["a", "b", "c"], "object_classes": ["d", "e"]}))
    source = TarShards([write_tar(tmp_path / "train" / "0.tar", members)])
    sample = source[0]
    assert (len(source), source.classes, source.object_classes) == (1, ["a", "b", "c"], ["d", "e"])
    assert (sample.label, sample.captions, sample.questions) == (2, written.captions, written.questions)
    assert torch.equal(sample.boxes, written.boxes) and torch.equal(sample.classes, written.classes)
    assert torch.equal(sample.masks.decode(), written.masks) and torch.equal(sample.semantic.decode(), semantic)


@pytest.mark.parametrize(
    ("ending", "data", "captions"),
    [
        ("txt", b"a dog\n\n a cat \n", ("a dog", "a cat")),
        ("json", b'{"captions": ["a", "b"], "wnid": "n01"}', ("a", "b")),
        ("json", b'{"caption": "a"}', ("a",)),
        ("json", b'{"text": ["a"]}', ("a",)),
        ("json", b'["a", "b", 3]', ("a", "b")),
        ("json", b'{"name": "cicada", "index": 316}', ()),
    ],
)
def test_captions_of_other_programs_are_found(tmp_path, ending, data, captions):
    assert TarShards([write_tar(tmp_path / "a.tar", {"x.png": picture(0), f"x.{ending}": data})])[0].captions == captions


@pytest.mark.parametrize(
    ("ending", "data", "reason"),
    [
        ("json", b"{", "its .json is no JSON"),
        ("txt", b"\xff\xfe\xff", "its .txt is not UTF-8"),
        ("json", b'{"mae_vlm": 2}', "version 2, this program reads 1"),
        ("json", b'{"mae_vlm": 1, "boxes": [[1, 2, 3]]}', "its json is damaged"),
        ("json", b'{"mae_vlm": 1, "boxes": [[1, 2, 3, 4]], "classes": [1, 2]}', "lists 1 and 2 objects"),
    ],
)
def test_annotations_that_cannot_be_read_are_told_with_the_sample(tmp_path, ending, data, reason):
    source = TarShards([write_tar(tmp_path / "a.tar", {"x.png": picture(0), f"x.{ending}": data})])
    with pytest.raises(ValueError, match=rf"^a\.tar/x\.png: .*{reason}"):
        source[0]


def test_masks_of_another_size_than_the_picture_are_refused_when_decoded(tmp_path):
    found = to_json(Sample("x", b"", masks=torch.ones(1, 5, 5, dtype=torch.bool)))
    members = {"x.png": picture(0), "x.json": json.dumps(found).encode(), "x.semantic.png": to_png(torch.zeros(5, 6, dtype=torch.uint8))}
    sample = TarShards([write_tar(tmp_path / "a.tar", members)])[0]
    with pytest.raises(ValueError, match=r"a\.tar/x\.png: masks of 5 x 5 pixels for a picture of 24 x 20"):
        sample.masks.decode()
    with pytest.raises(ValueError, match=r"a\.tar/x\.png: a semantic mask of 6 x 5 pixels for a picture of 24 x 20"):
        sample.semantic.decode()


def objects_npy():
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["x.pkl", "x.pickle", "x.pyd", "x.pth", "x.PT", "x.a.ckpt", "x.npy"])
def test_pickles_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=rf"a\.tar: member {name} (is|holds) a pickle.* which is refused"):
        TarShards([write_tar(tmp_path / "a.tar", {"x.png": picture(0), name: objects_npy()})])


def test_arrays_of_numbers_are_no_pickles(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3, dtype=[("Oh", "<f4")]))
    assert len(TarShards([write_tar(tmp_path / "a.tar", {"x.png": picture(0), "x.npy": buffer.getvalue()})])) == 1


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_are_those_that_tarfile_reads(tmp_path, layout):
    names = ["short.png", f"{'f' * 120}/{'long' * 20}.png", "snow\u2603.png"]
    if layout != tarfile.USTAR_FORMAT:
        names.append("d/" + "very-long-" * 30 + ".png")
    with tarfile.open(tmp_path / "a.tar", "w", format=layout) as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(picture(number)), {"comment": "c"} if layout == tarfile.PAX_FORMAT else {}
            tar.addfile(info, io.BytesIO(picture(number)))
    source = TarShards([tmp_path / "a.tar"])
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert [source.name(i) for i in range(len(source))] == [f"a.tar/{name}" for name in tar.getnames()]
    assert [source[i].image for i in range(len(names))] == [picture(i) for i in range(len(names))]
    assert [name.decode() for name in source.names().to_pylist()] == [source.name(i) for i in range(len(names))]


@pytest.mark.parametrize("cut", [700, 100, 1023])
def test_a_shard_cut_short_is_refused_when_opened(tmp_path, cut):
    file = write_tar(tmp_path / "a.tar", {"x.png": picture(0)})
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"a\.tar is not an uncompressed tar file, or is damaged \(its end is missing"):
        TarShards([file])


# --- the index -----------------------------------------------------------------------------------------------------------


def test_headers_are_read_once_and_again_where_a_shard_has_changed(tmp_path, monkeypatch):
    asked = []
    read = tar_index.read_shard
    monkeypatch.setattr(tar_index, "read_shard", lambda shard: asked.append(shard.name) or read(shard))
    shards(tmp_path)
    assert (tmp_path / ".mae_vlm_index").exists()
    assert sorted(asked) == ["a.tar", "b.tar"]
    again = TarShards([tmp_path / "b.tar", tmp_path / "a.tar"])
    assert len(asked) == 2 and [again[i].image for i in range(3)] == [picture(2), picture(0), picture(1)]
    assert again.block_ends.tolist() == [1, 3] and again[1].label == 7
    write_tar(tmp_path / "b.tar", {"y.png": picture(5), "y.txt": b"new"})
    os.utime(tmp_path / "b.tar", ns=(1, 1))  # of the same size, at another time
    both = TarShards([tmp_path / "a.tar", tmp_path / "b.tar"])
    assert asked[2:] == ["b.tar"] and (both[2].id, both[2].captions) == ("b.tar/y.png", ("new",))


@pytest.mark.parametrize("damage", ["cut", "flipped", "other", "empty"])
def test_a_damaged_index_is_built_anew(tmp_path, damage):
    names = [shards(tmp_path).name(i) for i in range(3)]
    file = tmp_path / ".mae_vlm_index"
    good = file.read_bytes()
    half = len(good) // 2
    bad = {"cut": good[:half], "flipped": good[:half] + bytes([good[half] ^ 1]) + good[half + 1 :], "other": b"x" * 100, "empty": b""}
    file.write_bytes(bad[damage])
    again = shards(tmp_path)
    assert [again.name(i) for i in range(3)] == names and again[2].image == picture(2) and load(file) is not None


def test_an_index_that_points_outside_its_shards_is_not_believed(tmp_path):
    from mae_vlm.data.index_cache import save

    shards(tmp_path)
    file = tmp_path / ".mae_vlm_index"
    index = load(file)
    offsets = index.arrays["offset"].to_numpy().copy()
    offsets[0] = 1 << 62
    save(file, index._replace(arrays={**index.arrays, "offset": tar_index.pa.array(offsets)}))
    assert TarShards([tmp_path / "a.tar"])[0].image == picture(0)


def test_the_index_of_a_read_only_folder_goes_to_the_cache(tmp_path, monkeypatch):
    for name in ("a.tar", "b.tar"):
        write_tar(tmp_path / "set" / name, {"x.png": picture(len(name))})
    (tmp_path / "set").chmod(0o555)
    try:
        first = TarShards(sorted((tmp_path / "set").iterdir()))
        assert not (tmp_path / "set" / ".mae_vlm_index").exists() and len(list((tmp_path / "cache" / "shards").iterdir())) == 1
        monkeypatch.setattr(tar_index, "read_shard", None)  # would fail
        assert TarShards([file.path for file in first.files])[1].image == first[1].image
    finally:
        (tmp_path / "set").chmod(0o755)


# --- names of classes ----------------------------------------------------------------------------------------------------


def test_class_numbers_without_a_name_and_parts_that_differ_are_refused(tmp_path):
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert TarShards([write_tar(tmp_path / "b.tar", {"x.png": picture(0), "x.cls": b"1"})]).classes == ["cat", "dog"]
    with pytest.raises(ValueError, match="class number 7 has no name, the 2 names go from 0"):
        shards(tmp_path)
    with pytest.raises(ValueError, match=r"numbers its classes as cat, dog \.\.\., the part before it as dog"):
        TarShards([tmp_path / "b.tar"], ["dog", "cat"])


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data sets are not beside this checkout")
def test_shared_captions_and_labels_are_read():
    (flickr,) = [TarShards(sorted((SHARED / "flickr8k-sub" / "val").glob("*.tar")))]
    assert len(flickr) == 120 and sum(len(flickr[i].captions) for i in range(120)) == 600
    imagenet = TarShards(sorted((SHARED / "imagenet-sample" / "train").glob("*.tar")))
    assert len(imagenet) == 400 and len({imagenet[i].label for i in range(400)}) == 400


def test_tar_files_joined_by_cat_are_refused_not_cut(tmp_path):
    first, second = (write_tar(tmp_path / f"{name}.tar", {f"{name}.png": picture(0)}) for name in "ab")
    joined = tmp_path / "joined" / "ab.tar"
    joined.parent.mkdir()
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(ValueError, match=r"ab\.tar: more follows behind the archive's end.*joined by cat"):
        TarShards([joined])


def test_a_picture_with_a_word_more_is_an_annotation_of_the_plain_one(tmp_path):
    members = {"x0.mask.png": picture(1), "x0.jpg": picture(0), "x1.left.png": picture(2), "x1.right.png": picture(3)}
    source = TarShards([write_tar(tmp_path / "a.tar", members)])
    assert [source.name(i) for i in range(len(source))] == ["a.tar/x0.jpg", "a.tar/x1.left.png", "a.tar/x1.right.png"]


def test_shards_of_one_name_in_two_folders_name_their_pictures_apart(tmp_path):
    files = [write_tar(tmp_path / folder / "000.tar", {"x.png": picture(0)}) for folder in ("a", "b")]
    source = TarShards(files)
    assert [source.name(0), source[1].id] == ["a/000.tar/x.png", "b/000.tar/x.png"]
    assert source.names().to_pylist() == [b"a/000.tar/x.png", b"b/000.tar/x.png"]
