"""The numbers that a collection's own files have for its classes, for the answers to be written with."""

from __future__ import annotations


def category_ids(ids: list[int] | None, names: list[str]) -> list[int]:
    """The number of each of the classes ``names``: ``ids``, or counted from 1, as COCO does.

    Raises:
        ValueError: not one of its own for each class.
    """
    if ids is None:
        return list(range(1, len(names) + 1))
    if len(set(ids)) != len(names) or len(ids) != len(names):
        raise ValueError(f"{len(ids)} ids, {len(set(ids))} of them different, given for {len(names)} classes; give one of its own for each")
    return list(ids)
