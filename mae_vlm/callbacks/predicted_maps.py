"""A class for every pixel as files: grey PNGs of class numbers, in the pixels of the original pictures, and the names of the numbers."""

from __future__ import annotations

import csv
import io
from pathlib import Path, PurePosixPath

from mae_vlm import storage
from mae_vlm.data.sources.parts.files import EXTENSIONS
from mae_vlm.data.sources.parts.semantic_png import to_png
from mae_vlm.heads.parts.palette import palette
from mae_vlm.types import Prediction

NAMES = "classes.csv"


def map_file(out: Path, id: str) -> Path:
    """Where the map of the picture ``id`` lies: under the same name as the picture, always within ``out``."""
    steps = [step.replace("..", "_") if set(step) == {"."} else step for step in PurePosixPath(id).parts if step != "/"]
    name = steps[-1] if steps else "_"
    stem = name[: -len(Path(name).suffix)] if name.lower().endswith(EXTENSIONS) else name
    return out.joinpath(*steps[:-1], f"{stem}.png")


def write_map(out: Path, prediction: Prediction) -> Path:
    """Write ``prediction.semantic`` as a grey PNG of 8 bits, of 16 for more than 255 classes; whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    assert prediction.semantic is not None
    file, content = map_file(out, prediction.id), to_png(prediction.semantic)
    storage.write_whole(file, lambda opened: opened.write(content))
    return file


def has_map(out: Path, id: str) -> bool:
    """Whether that picture's map is there already, whole."""
    return map_file(out, id).is_file()


def write_names(out: Path, names: list[str]) -> Path:
    """Write ``classes.csv``: the number of each class, its name, and its colour in the pictures of a run."""
    text = io.StringIO()
    rows = zip(names, palette(len(names)).tolist(), strict=False)  # the last colour is the unknown's
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([["number", "class", "red", "green", "blue"], *([number, name, *rgb] for number, (name, rgb) in enumerate(rows))])
    file = out / NAMES
    storage.write_whole(file, lambda opened: opened.write(text.getvalue().encode()))
    return file
