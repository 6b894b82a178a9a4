"""Small picture files for the tests of sources and collections."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def picture(number: int, size: tuple[int, int] = (20, 24), format: str = "PNG") -> bytes:
    """An encoded picture that differs by number."""
    pixels = np.random.default_rng(number).integers(0, 255, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def write_folder(root: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(number))
    return root


def write_parquet(
    file: Path,
    count: int,
    row_group: int = 4,
    struct: bool = True,
    classes: tuple[str, ...] = ("cat", "dog"),
    paths: bool = True,
    more: dict[str, list] | None = None,
):
    file.parent.mkdir(parents=True, exist_ok=True)
    images = [picture(number) for number in range(count)]
    rows = [{"bytes": data, "path": f"p/{i}.png" if paths else None} for i, data in enumerate(images)]
    column = pa.array(rows if struct else images, None if struct else pa.binary())
    table = pa.table({"image": column, "label": pa.array([i % len(classes) for i in range(count)], pa.int64()), **(more or {})})
    features = {"image": {"_type": "Image"}, "label": {"names": list(classes), "_type": "ClassLabel"}}
    if struct:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, file, row_group_size=row_group)
    return file


def write_tar(file: Path, members: dict[str, bytes]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file


def write_coco(file: Path, pictures: list[dict], annotations: list[dict], categories: dict[int, str] | None = None, folder: str = "images"):
    """A COCO json and, in ``folder`` beside it, its pictures of 20 x 24 pixels; entries of pictures need only an id."""
    names = categories if categories is not None else {7: "cat", 3: "dog"}
    listed = [{"file_name": f"{entry['id']}.png", "height": 20, "width": 24, **entry} for entry in pictures]
    write_folder(file.parent / folder, [entry["file_name"] for entry in listed])
    numbered = [{"id": number, **entry} for number, entry in enumerate(annotations, start=1)]
    kinds = [{"id": number, "name": name, "isthing": 1} for number, name in names.items()]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"images": listed, "annotations": numbered, "categories": kinds}))
    return file


def write_mask(file: Path, numbers_HW, mode: str | None = None) -> Path:
    """A mask file of these numbers: 8 or 16 bits grey as their type says, a palette for mode P, R + 256 G + 65536 B for mode RGB."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.asarray(numbers_HW)
    if mode == "RGB":
        pixels = np.stack([pixels >> shift & 255 for shift in (0, 8, 16)], -1).astype(np.uint8)
    image = Image.fromarray(pixels)
    if mode == "P":
        image.putpalette([value for number in range(256) for value in (number, 255 - number, 7)])
    image.save(file)
    return file
