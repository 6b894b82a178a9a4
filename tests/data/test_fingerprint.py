from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from pictures_on_disk import picture, write_folder, write_tar

from mae_vlm.data.fingerprint import MOST, difference, fingerprint
from mae_vlm.data.module import Data
from mae_vlm.data.sources.base import Part, Source


class Named(Source):
    def __init__(self, *names):
        self.list = list(names)

    def __len__(self):
        return len(self.list)

    def __getitem__(self, index):
        raise AssertionError("a fingerprint reads no picture")

    def name(self, index):
        return self.list[index]


def told(before, after):
    return difference(fingerprint(Named(*before)), fingerprint(Named(*after)))


PETS = [f"{kind}/{number}.jpg" for kind in ("cat", "dog") for number in range(6)]


def test_the_same_names_have_the_same_fingerprint_and_no_difference():
    assert told(PETS, PETS) == ""


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (["cat/x.jpg", *PETS], "13 pictures, 12 in the checkpoint (cat: 6 -> 7)"),
        (PETS[1:], "11 pictures, 12 in the checkpoint (cat: 6 -> 5)"),
        (PETS[:6], "6 pictures, 12 in the checkpoint (dog is gone: 6)"),
        ([*PETS, "eel/1.jpg"], "13 pictures, 12 in the checkpoint (eel is new: 1)"),
        (["cat/x.jpg", *PETS[1:]], "12 pictures, 12 in the checkpoint (cat has other names, or another order)"),
        ([PETS[1], PETS[0], *PETS[2:]], "12 pictures, 12 in the checkpoint (cat has other names, or another order)"),
        ([*PETS[6:], *PETS[:6]], "12 pictures, 12 in the checkpoint (other names, or another order)"),
        ([PETS[6], *PETS[:6], *PETS[7:]], "12 pictures, 12 in the checkpoint (other names, or another order)"),
    ],
    ids=["added", "removed", "folder gone", "folder new", "renamed", "swapped", "folders swapped", "moved"],
)
def test_a_change_is_told_by_its_folder(after, expected):
    assert told(PETS, after) == expected


def test_a_flat_collection_tells_counts_alone():
    assert told(["a", "b"], ["a", "b", "c"]) == "3 pictures, 2 in the checkpoint"
    assert told(["a", "bc"], ["ab", "c"]) == "2 pictures, 2 in the checkpoint (other names, or another order)"


def test_many_changes_are_counted_and_some_are_shown():
    names = [f"{folder:02}/{number}" for folder in range(20) for number in range(2)]
    assert told(names, [name for name in names if not name.endswith("1")]).endswith("04: 2 -> 1, and 15 more)")


def test_blocks_stay_few():
    deep = [f"{number % 3}/{number}/x.jpg" for number in range(MOST + 10)]
    assert fingerprint(Named(*deep))["blocks"].keys() == {"0", "1", "2"}
    assert fingerprint(Named(*(f"{number}/x.jpg" for number in range(MOST + 10))))["blocks"].keys() == {""}


def test_a_changed_shard_is_named(tmp_path):
    for shard in ("x", "y"):
        write_tar(tmp_path / f"{shard}.tar", {f"{number}.png": picture(number) for number in range(4)})
    before = fingerprint(Data(str(tmp_path), val_fraction=0)._opened()["train"])
    write_tar(tmp_path / "y.tar", {f"{number}.png": picture(number) for number in (0, 1, 2, 9)})
    after = fingerprint(Data(str(tmp_path), val_fraction=0)._opened()["train"])
    assert difference(before, after) == "8 pictures, 8 in the checkpoint (y.tar has other names, or another order)"


def test_rows_of_tables_are_told_by_table():
    rows = [f"{table}.parquet:{row}" for table in "ab" for row in range(5)]
    assert told(rows, rows[:-1]) == "9 pictures, 10 in the checkpoint (b.parquet: 5 -> 4)"


def test_a_slice_of_arrow_names_counts_as_what_it_holds():
    whole = Named(*PETS)
    whole.names = lambda: pa.array([name.encode() for name in ["cat/z.jpg", *PETS, "dog/z.jpg"]], pa.large_binary())[1:-1]
    assert difference(fingerprint(Named(*PETS)), fingerprint(whole)) == ""
    part = Part(Named(*PETS), pa.array([1, 7]).to_numpy())
    assert difference(fingerprint(Named(PETS[1], PETS[7])), fingerprint(part)) == ""


def state_of(path, **options):
    data = Data(str(path), val_fraction=0.2, image_size=16, num_workers=0, **options)
    return data, data._collection_state()


def test_a_changed_collection_is_refused_unless_it_may_have_changed(tmp_path):
    write_folder(tmp_path, [f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(20)])
    data, state = state_of(tmp_path)
    assert data.compare(state) == "" == data.compare({"pictures_seen": 0}), "older checkpoints say nothing of their collection"
    write_folder(tmp_path, ["cat/20.png", "cat/21.png", "cat/22.png"])
    with pytest.raises(
        ValueError, match=r"has changed since the checkpoint: train has \d+ pictures, \d+ in the checkpoint \(cat: \d+ -> \d+\)"
    ):
        state_of(tmp_path)[0].compare(state)
    assert "(cat: " in state_of(tmp_path, allow_changes=True)[0].compare(state)


def test_another_order_is_refused_like_another_collection(tmp_path):
    write_folder(tmp_path, [f"{number}.png" for number in range(20)])
    _, state = state_of(tmp_path)
    with pytest.raises(
        ValueError, match=r"data\.order is full, seed 1, it was full, seed 0; bring it back, or set data\.allow_changes true"
    ):
        state_of(tmp_path, seed=1)[0].compare(state)


def test_the_same_names_read_by_other_blocks_are_another_order():
    """Remote shards are read by blocks, their local copy as a whole: going on there would repeat and lose samples."""
    from mae_vlm.data.loading import order_in_words

    class Sharded(Source):
        def __init__(self, ends, prefers):
            self.block_ends, self.prefers_blocks = np.array(ends), prefers

        def __len__(self):
            return 64

        def name(self, index):
            return str(index)

        def __getitem__(self, index):
            raise NotImplementedError

    told = [order_in_words(Sharded(ends, prefers), "auto", 0) for ends, prefers in [([32, 64], True), ([16, 64], True), ([32, 64], False)]]
    assert len(set(told)) == 3 and told[2] == "full, seed 0"
