"""Promises of mae_vlm.heads.parts.category_ids."""

from __future__ import annotations

import pytest

from mae_vlm.heads.parts.category_ids import category_ids


def test_classes_keep_the_collections_numbers_and_are_counted_from_one_without():
    assert category_ids([90, 4], ["sky", "cat"]) == [90, 4]
    assert category_ids(None, ["sky", "cat"]) == [1, 2]


@pytest.mark.parametrize("ids", [[90], [4, 4], []])
def test_each_class_has_one_of_its_own(ids):
    with pytest.raises(ValueError, match=f"{len(ids)} ids, {len(set(ids))} of them different, given for 2 classes"):
        category_ids(ids, ["sky", "cat"])
