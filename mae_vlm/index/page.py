"""The answer of a search as one HTML file that needs nothing else: the pictures are inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from torchvision.transforms.functional import to_pil_image

from mae_vlm.data.decode import Form, Picture
from mae_vlm.data.transforms import Crop, Window
from mae_vlm.index.search import Hit
from mae_vlm.report.style import STYLE

_SIDE = 256  # pixels of a thumbnail's longer side
_OWN = """
.hits { display: grid; grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)); gap: 14px }
.hits figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 10px }
.hits img { display: block; width: 100%; height: 180px; object-fit: contain; border-radius: 6px; background: var(--paper) }
.hits .gone { display: grid; place-items: center; height: 180px; color: var(--soft); background: var(--paper); border-radius: 6px }
.asked img { max-width: 256px; max-height: 256px; border-radius: 8px }
figcaption { overflow-wrap: anywhere } figcaption b { color: var(--ink); font-variant-numeric: tabular-nums }
"""


def page(hits: Sequence[Hit], words: str | None, picture: Path | None, about: str) -> bytes:
    """What was asked for, and the pictures found, the best first; ``about`` says in a line where they come from."""
    title = escape(words if words is not None else f"like {picture.name}" if picture is not None else "")
    asked = f'<p class="asked">{_image(picture, "the picture that was asked with")}</p>' if picture is not None else ""
    figures = "".join(_figure(place, hit) for place, hit in enumerate(hits, 1))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{title}</title><link rel="icon" href="data:,"><style>{STYLE}{_OWN}</style></head><body><main><header><h1>{title}</h1>'
        f'<p class="soft">{escape(about)}</p></header>{asked}<div class="hits">{figures}</div>'
        f"<footer>Scores are cosines: 1 is the same, 0 unrelated. Made by python -m mae_vlm search.</footer></main></body></html>\n"
    ).encode("utf-8", "replace")


def _figure(place: int, hit: Hit) -> str:
    shown = _image(hit.path, f"result {place}")
    return f"<figure>{shown}<figcaption><b>{hit.score:.3f}</b> {escape(str(hit.path))}</figcaption></figure>"


def _image(file: Path, told: str) -> str:
    try:
        source = base64.b64encode(thumbnail(file)).decode()
    except (OSError, ValueError):
        return '<div class="gone">the file is gone or cannot be read</div>'
    return f'<img alt="{escape(told)}" src="data:image/jpeg;base64,{source}">'


def thumbnail(file: Path, side: int = _SIDE) -> bytes:
    """A JPEG of at most ``side`` pixels each way.

    Raises:
        ValueError, OSError: it cannot be read.
    """
    picture = Picture(file if file.suffix.lower() in (".tif", ".tiff") else file.read_bytes(), Form(3), file.name)
    scale = min(1.0, side / max(picture.height, picture.width))
    height, width = max(1, round(picture.height * scale)), max(1, round(picture.width * scale))
    pixels_CHW = picture.crop(Crop(Window(0, 0, picture.height, picture.width), height, width))
    buffer = io.BytesIO()
    to_pil_image(pixels_CHW).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
