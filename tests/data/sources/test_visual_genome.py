from __future__ import annotations

import json
import pickle

import pytest
from pictures_on_disk import picture, write_folder

from mae_vlm.data.sources import visual_genome
from mae_vlm.data.sources.base import Place


def region(id, x, y, width, height, phrase="a thing"):
    return {"region_id": id, "x": x, "y": y, "width": width, "height": height, "phrase": phrase, "image_id": 1}


def write(root, pictures, sizes=True):
    (root / "region_descriptions.json").write_text(json.dumps([{"id": id, "regions": regions} for id, regions in pictures]))
    if sizes:
        (root / "image_data.json").write_text(json.dumps([{"image_id": id, "width": 24, "height": 20} for id, _ in pictures]))
    return Place(str(root), (root,))


def opened(where):
    assert visual_genome.FORMAT.claims(where)
    return visual_genome.FORMAT.open(where)["all"]


def test_each_region_is_a_box_with_its_phrase(tmp_path):
    write_folder(tmp_path, ["VG_100K/7.png", "VG_100K_2/8.png"])
    where = write(tmp_path, [(7, [region(1, 2, 3, 10, 5, "a red ball"), region(2, 0, 0, 24, 20, " sky\n")]), (8, [])])
    source = opened(where)
    assert source[0].id == "VG_100K/7.png" and source[0].image == picture(0)
    assert source[0].boxes.tolist() == [[2, 3, 12, 8], [0, 0, 24, 20]] and source[0].box_captions == ("a red ball", "sky")
    assert source[1].boxes.shape == (0, 4) and source[1].box_captions == () and source[0].classes is None
    assert len(source) == 2 and not where.problems.counts


def test_boxes_are_cut_at_the_border_where_the_size_is_told(tmp_path):
    write_folder(tmp_path, ["images/7.png"])
    pictures = [(7, [region(1, -4, 3, 10, 50)])]
    assert opened(write(tmp_path, pictures))[0].boxes.tolist() == [[0, 3, 6, 20]]
    (tmp_path / "image_data.json").unlink()
    assert opened(write(tmp_path, pictures, sizes=False))[0].boxes.tolist() == [[-4, 3, 6, 53]]


def test_what_cannot_be_used_is_counted_and_boxes_keep_their_phrases(tmp_path):
    write_folder(tmp_path, ["images/7.png", "images/8.png"])
    bad = [
        region(1, 2, 3, 0, 5),
        region(2, 90, 3, 5, 5),
        region(3, 1, 1, 5, 5, " "),
        region(4, None, 1, 5, 5),
        region(5, 1, 2, 3, 4, "kept"),
    ]
    where = write(tmp_path, [(7, bad), (8, [region(6, 5, 5, 2, 2, "last")]), (9, []), (7, [])])
    source = opened(where)
    assert source[0].boxes.tolist() == [[1, 2, 4, 6]] and source[0].box_captions == ("kept",) and source[1].box_captions == ("last",)
    assert where.problems.counts == {
        "box of zero size": 1,
        "box outside the picture": 1,
        "empty caption": 1,
        "box is not four finite numbers": 1,
        "missing picture": 1,
        "picture listed again": 1,
    }


def test_a_file_larger_than_what_is_in_memory_at_once_is_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("mae_vlm.data.sources.parts.tables._WINDOW", 100)
    write_folder(tmp_path, [f"images/{id}.png" for id in range(20)])
    source = opened(write(tmp_path, [(id, [region(1, 1, 1, id + 1, 5, f"ä {id}")] * 3) for id in range(20)]))
    assert len(source) == 20 and all(source[i].box_captions == (f"ä {i}",) * 3 for i in range(20))


def test_regions_without_their_pictures_are_not_claimed_and_refused_when_asked_for(tmp_path):
    where = write(tmp_path, [(7, [])])
    assert not visual_genome.FORMAT.claims(where)
    with pytest.raises(ValueError, match=r"none of the pictures of .*region_descriptions\.json is in .* or its folders VG_100K"):
        visual_genome.FORMAT.open(where)


def test_a_place_without_regions_is_refused(tmp_path):
    where = Place(str(tmp_path), (tmp_path,))
    assert not visual_genome.FORMAT.claims(where)
    with pytest.raises(ValueError, match=r"holds no region_descriptions\.json; put Visual Genome's file there"):
        visual_genome.FORMAT.open(where)


def test_a_file_that_is_cut_short_is_refused(tmp_path):
    write_folder(tmp_path, ["images/7.png"])
    where = write(tmp_path, [(7, [region(1, 1, 1, 2, 2)])] * 3)
    file = tmp_path / "region_descriptions.json"
    file.write_text(file.read_text()[:-30])
    with pytest.raises(ValueError, match=r"region_descriptions\.json is not JSON, or is cut short"):
        visual_genome.FORMAT.open(where)


def test_a_source_survives_pickling(tmp_path):
    write_folder(tmp_path, ["images/7.png"])
    source = opened(write(tmp_path, [(7, [region(1, 1, 1, 2, 2)])]))
    assert pickle.loads(pickle.dumps(source))[0].boxes.tolist() == [[1, 1, 3, 3]]


def test_lone_surrogates_become_question_marks(tmp_path):
    write_folder(tmp_path, ["images/7.png"])
    assert opened(write(tmp_path, [(7, [region(1, 0, 0, 5, 5, "a \ud83d cat")])]))[0].box_captions == ("a ? cat",)
