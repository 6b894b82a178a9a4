from __future__ import annotations

import pytest

from mae_vlm.data.sources.base import Joined, Source
from mae_vlm.data.split import automatic_fraction, name_hash, name_hashes, split_by_name
from mae_vlm.types import Sample


class Named(Source):
    def __init__(self, names):
        self.list = names

    def __len__(self):
        return len(self.list)

    def __getitem__(self, index):
        return Sample(self.list[index], b"")

    def name(self, index):
        return self.list[index]


def names(source):
    return [source.name(index) for index in range(len(source))]


def test_the_split_stays_as_pictures_are_added():
    few = [f"{number}.png" for number in range(0, 3000, 2)]
    many = [f"{number}.png" for number in range(3000)]
    (train_few, val_few), (train_many, val_many) = split_by_name(Named(few), 0.05), split_by_name(Named(many), 0.05)
    assert set(names(val_few)) == set(names(val_many)) & set(few)
    assert set(names(train_few)) | set(names(val_few)) == set(few)
    assert not set(names(train_many)) & set(names(val_many))
    assert 100 < len(val_many) < 200


@pytest.mark.parametrize(("count", "fraction"), [(2, 0.001), (2, 0.999), (3, 0.05)])
def test_neither_part_is_empty(count, fraction):
    train, val = split_by_name(Named([str(number) for number in range(count)]), fraction)
    assert len(train) and len(val) and len(train) + len(val) == count


def test_automatic_fraction_is_bounded():
    assert automatic_fraction(1000) == 0.05 and automatic_fraction(10**8) * 10**8 <= 10_000


def test_bad_fractions_and_single_pictures_are_refused():
    with pytest.raises(ValueError, match=r"val_fraction 1.5 must be more than 0 and less than 1"):
        split_by_name(Named(["a", "b"]), 1.5)
    with pytest.raises(ValueError, match=r"1 picture cannot be split.*set data.val_path or data.val_fraction 0"):
        split_by_name(Named(["a"]), 0.5)


def test_joined_sources_follow_each_other():
    joined = Joined([Named(["a", "b"]), Named(["c"]), Named(["d"])])
    assert names(joined) == ["a", "b", "c", "d"] and joined[2].id == "c"


def test_hashes_of_all_names_are_those_of_each_and_stay_for_good(monkeypatch):
    monkeypatch.setattr("mae_vlm.data.split._AT_ONCE", 2)
    source = Named(["a.png", "b/\u2603.png", "c\udcff.png"])
    assert name_hashes(source.names()).tolist() == [name_hash(name) for name in source.list]
    assert name_hash("a.png") == 6_266_261_796_961_190_882
