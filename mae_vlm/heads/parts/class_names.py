"""Whether the classes of a collection are those that a head knows."""

from __future__ import annotations

from mae_vlm.data.summary import Summary


def check_classes(summary: Summary, names: list[str] | None, count: int) -> None:
    """That the collection has labels, of ``count`` classes, with these ``names`` where they are known.

    Raises:
        ValueError: it has none, or others.
    """
    where = summary.path or "the collection"
    if summary.classes is None:
        raise ValueError(f"{where} has no labels to learn; put pictures into a folder for each class, or name data.label_column")
    if len(summary.classes) != count:
        raise ValueError(f"{where} has {len(summary.classes)} classes, this classifier {count}; give data of the same classes")
    changed = [pair for pair in zip(names or [], summary.classes, strict=False) if pair[0] != pair[1]]
    if changed:
        raise ValueError(f"{where} has other classes than this classifier: {changed[0][1]} where it has {changed[0][0]}")
