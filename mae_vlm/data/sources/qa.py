"""Lists with questions: JSON lines {"image": ..., "question": ..., "answer": ...}, tables with a question column.

All questions about one picture make one sample. Where a row has both ``answer`` and ``answers``, the first is what people answered: the
second holds its parts (DAQUAR: "pen, pencil" and ["pen", "pencil"]); ``data.answer_column answers`` takes them instead.
"""

from __future__ import annotations

from mae_vlm.data.sources.base import Format, Place, Source
from mae_vlm.data.sources.parts.word_columns import WordColumns
from mae_vlm.data.sources.picture_list import lists, open_lists


def _wanted(columns: WordColumns) -> bool:
    return columns.question is not None


def _open(place: Place) -> dict[str, Source]:
    return open_lists(place, _wanted, "pictures with questions")


FORMAT = Format("qa", lambda place: bool(lists(place, _wanted)), _open)
