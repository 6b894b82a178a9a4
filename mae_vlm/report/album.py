"""The pictures that a run drew of the same samples at several steps, in the page itself and bounded in size."""

from __future__ import annotations

import base64
import io
import re
from html import escape
from pathlib import Path

from PIL import Image

from mae_vlm.report.recorded import Recorded

_STEPS = 6  # of each kind: the first, the last, and some between
_BUDGET = 6_000_000  # bytes of all pictures together
_CAPTIONS = {
    "reconstruction": "Each row is one validation picture: the original, what the encoder saw, what the model made of it, both together.",
    "attention": "Where the class token and the chosen patch look.",
    "features": "Patch features as colours (the first three principal components), whole and without what tells their place.",
    "retrieved": "Under each picture the nearest of the captions of all pictures shown, and its own where that is another.",
    "words": "Right of each picture, for words of its caption: the patches that they attend to in the last layer of the fusion tower.",
    "neighbours": "Each row is a query and the validation pictures whose features are nearest.",
}


def album(run: Recorded) -> str:
    """A strip of pictures for each kind, oldest first; an empty text where the run drew none."""
    kinds = by_kind(run.pictures)
    chosen = {name: spread(steps, _STEPS) for name, steps in kinds.items()}
    room = _BUDGET // max(1, sum(map(len, chosen.values())))
    return "".join(_strip(name, steps, room) for name, steps in chosen.items())


def by_kind(files: list[Path]) -> dict[str, list[tuple[int, Path]]]:
    """``NAME_STEP.png`` by name, each by step."""
    kinds: dict[str, list[tuple[int, Path]]] = {}
    for file in files:
        if match := re.fullmatch(r"(.+)_(\d+)", file.stem):
            kinds.setdefault(match[1], []).append((int(match[2]), file))
    return {name: sorted(steps) for name, steps in sorted(kinds.items(), key=lambda item: (item[0] != "reconstruction", item[0]))}


def spread(steps: list[tuple[int, Path]], most: int) -> list[tuple[int, Path]]:
    """``most`` of the pictures at even distances, the first and the last among them."""
    if len(steps) <= most:
        return steps
    return [steps[round(place * (len(steps) - 1) / (most - 1))] for place in range(most)]


def _strip(name: str, steps: list[tuple[int, Path]], room: int) -> str:
    figures = "".join(_figure(name, step, file, room) for step, file in steps)
    note = next((text for kind, text in _CAPTIONS.items() if name.startswith(kind)), "")
    if not figures:
        return ""
    title = escape(name.replace("_", " ").capitalize())
    label = escape(f"{name} over the run, scrolls sideways")
    return f'<h3>{title}</h3><p class="soft">{note}</p><div class="strip" tabindex="0" role="region" aria-label="{label}">{figures}</div>'


def _figure(name: str, step: int, file: Path, room: int) -> str:
    try:
        kind, data, size = encoded(file, room)
    except (OSError, ValueError):  # half written, or no picture
        return ""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    told = f"{escape(name)} after {step:,} steps" if step else f"{escape(name)} before the first step"
    caption = f"step {step:,}" if step else "before the first step"
    return f'<figure><img alt="{told}" width="{size[0]}" height="{size[1]}" src="{source}"><figcaption>{caption}</figcaption></figure>'


def encoded(file: Path, room: int) -> tuple[str, bytes, tuple[int, int]]:
    """A picture file as (png or jpeg, bytes, (width, height)) of at most ``room`` bytes, smaller by halves if it must be."""
    data = file.read_bytes()
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()
        if len(data) <= min(room, 60_000):
            return "png", data, opened.size
        image = opened.convert("RGB")
    while True:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=88, optimize=True)
        if buffer.tell() <= room or min(image.size) < 64:
            return "jpeg", buffer.getvalue(), image.size
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
