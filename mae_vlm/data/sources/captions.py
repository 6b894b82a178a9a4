"""Lists with captions: JSON lines {"image": ..., "captions": [...]}, tables with a caption column."""

from __future__ import annotations

from mae_vlm.data.sources.base import Format, Place, Source
from mae_vlm.data.sources.parts.word_columns import WordColumns
from mae_vlm.data.sources.picture_list import lists, open_lists


def _wanted(columns: WordColumns) -> bool:
    return bool(columns.captions)


def _open(place: Place) -> dict[str, Source]:
    return open_lists(place, _wanted, "pictures with captions")


FORMAT = Format("captions", lambda place: bool(lists(place, _wanted)), _open)
