"""Data sets of the Hugging Face hub, asked for as ``hf://datasets/org/name[@revision]``; nothing else goes to the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mae_vlm.data.sources.base import Columns, Source
from mae_vlm.data.sources.parts.word_columns import find_words, words_into
from mae_vlm.types import Sample

PREFIX = "hf://datasets/"


class HubSplit(Source):
    """One split of a data set that ``datasets`` has opened, its pictures left encoded; captions and questions as in ``Parquet``.

    Raises:
        ValueError: a column is unknown, or none holds pictures.
    """

    def __init__(self, table: Any, name: str, columns: Columns | None = None) -> None:
        from datasets import Image

        features, columns = table.features, columns or Columns()
        for option, column in (("image_column", columns.image), ("label_column", columns.label)):
            if column is not None and column not in features:
                raise ValueError(f"data.{option} {column} is not a column of {name}; its columns are {', '.join(features)}")
        images = [column for column, feature in features.items() if isinstance(feature, Image)]
        if columns.image is None and not images:
            raise ValueError(f"no column of {name} holds pictures; its columns are {', '.join(features)}; name one by data.image_column")
        self.image_column = columns.image or images[0]
        labelled = [column for column, feature in features.items() if type(feature).__name__ == "ClassLabel"]
        self.label_column = columns.label or next(iter(labelled), None)
        self.classes = list(getattr(features.get(self.label_column), "names", None) or []) or None
        self.words = find_words(features.arrow_schema, columns, name)
        self._table, self._name = table.cast_column(self.image_column, Image(decode=False)), name

    def __len__(self) -> int:
        return len(self._table)

    def name(self, index: int) -> str:
        return f"{self._name}:{index}"

    def __getitem__(self, index: int) -> Sample:
        row = self._table[index]
        picture = row[self.image_column]
        data = picture["bytes"]
        if data is None and picture.get("path") and Path(picture["path"]).is_file():
            data = Path(picture["path"]).read_bytes()  # sets built as image folders keep paths into the cache
        if data is None:
            raise ValueError(f"{self.name(index)}: the data set holds a path without bytes; download it and give the folder as data.path")
        label = row[self.label_column] if self.label_column else None
        return words_into(Sample(self.name(index), data, None if label is None or label < 0 else int(label)), row, self.words)


def open_hub(path: str, columns: Columns) -> dict[str, Source]:
    """The splits of ``hf://datasets/org/name[@revision]`` by name, downloaded through ``datasets`` and its cache.

    Raises:
        ValueError: the name has another form, or the hub does not give the data set; the message holds the hub's reason.
    """
    name, _, revision = path.removeprefix(PREFIX).strip("/").partition("@")
    if not path.startswith(PREFIX) or name.count("/") > 1 or not name:
        raise ValueError(f"data.path {path} is not a hub data set; write hf://datasets/org/name or hf://datasets/org/name@revision")
    if columns.split is not None:
        raise ValueError(f"data.split_column {columns.split} does not go with {path}, whose splits the hub tells; leave it out")
    import datasets

    try:
        splits = datasets.load_dataset(name, revision=revision or None)
    except Exception as error:  # the hub client raises many kinds; the user needs its first line
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the hub did not give {path}: {reason}; check the name, the network and your login (hf auth login)") from None
    return {split: HubSplit(table, f"{name}/{split}", columns) for split, table in splits.items()}
