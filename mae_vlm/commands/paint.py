"""``python -m mae_vlm paint RUN --words "a red square" --out x.png``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mae_vlm.commands.arguments import Arguments, complain

_WIDE = 224  # pixels: smaller pictures are enlarged to about that unless --scale is given


def main(arguments: list[str]) -> int:
    """Paint pictures from words into a PNG; 0 when written, 1 for a mistake of the user's."""
    parser = Arguments(
        "paint",
        "Paint a picture from words, or a part of a given one, with a run that was trained to (configs/pretrain/scenes_completion.yaml). "
        "Whole patches are painted: those that the region touches. A given picture is cut to the model's size as in validation.",
    )
    parser.add_argument("run", metavar="RUN", help="a run folder or a checkpoint")
    parser.add_argument("--words", required=True, metavar="TEXT", help="what the picture shall show, in quotes")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.png", help="the picture; several stand side by side")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="a picture of which --region is painted anew")
    parser.add_argument("--region", metavar="X,Y,W,H", help="left, top, width and height in pixels of that picture")
    parser.add_argument("--count", type=int, default=1, metavar="N", help="pictures of the same words; default 1")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="other pictures of the same words; default 0")
    parser.add_argument("--steps", type=int, metavar="N", help="steps, the surest patches first; default: as the run's config says")
    parser.add_argument("--guidance", type=float, metavar="G", help="how much the words count, 1 is as trained; default likewise")
    parser.add_argument("--temperature", type=float, default=3.0, metavar="T", help="more is more varied; default 3")
    parser.add_argument("--scale", type=int, metavar="N", help=f"pixels of the file for each painted one; default: about {_WIDE} wide")
    parser.add_argument("--weights", default="raw", choices=["raw", "ema"], help="raw: as trained (default); ema: their moving average")
    parser.add_argument("--device", help="cpu, cuda, ...; default: cuda where there is one")
    parser.add_argument("--force", action="store_true", help="write over a file that is there")
    given = parser.parse_args(arguments)
    try:
        _check(given)
        return _paint(given, None if given.region is None else _box(given.region))
    except (ValueError, OSError) as problem:
        complain(" ".join(str(problem).split()))
        return 1


def _check(given: argparse.Namespace) -> None:
    """What can be told before anything is read."""
    if not given.words.strip():
        raise ValueError("--words is empty; say what the picture shall show, as 'a red square'")
    if given.out.suffix.lower() != ".png":
        raise ValueError(f"--out {given.out} given, only PNG is written; name it {given.out.with_suffix('.png').name}")
    if given.out.exists() and not given.force:
        raise ValueError(f"{given.out} exists already; choose another --out, or add --force")
    if (given.picture is None) != (given.region is None):
        raise ValueError("--picture and --region belong together: a picture, and the part of it that is painted anew")
    if given.count < 1 or (given.scale is not None and given.scale < 1):
        raise ValueError(f"--count {given.count}, --scale {given.scale} given, allowed is 1 or more")
    if (given.steps is not None and not 1 <= given.steps <= 100) or given.temperature < 0 or (given.guidance or 0) < 0:
        told = f"--steps {given.steps}, --guidance {given.guidance}, --temperature {given.temperature}"
        raise ValueError(f"{told} given, allowed are 1 to 100 steps, and 0 or more")


def _box(region: str) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of ``x,y,w,h``."""
    try:
        x, y, width, height = (float(one) for one in region.split(","))
    except ValueError:
        raise ValueError(f"--region {region} given, allowed are four numbers X,Y,W,H: left, top, width and height in pixels") from None
    if width <= 0 or height <= 0:
        raise ValueError(f"--region {region} is empty: width and height must be more than 0")
    return x, y, x + width, y + height


def _paint(given: argparse.Namespace, box: tuple[float, float, float, float] | None) -> int:
    import torch

    from mae_vlm import storage
    from mae_vlm.convert import painter

    artist = painter.read(given.run, given.weights)
    try:
        artist.to(given.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:  # torch's, of several lines
        raise ValueError(f"--device {given.device}: no such device here; leave it out, or say cpu") from None
    how = {"guidance": given.guidance, "steps": given.steps, "temperature": given.temperature}
    if box is None:
        pictures_BCHW = artist.paint(given.words, given.count, given.seed, **how)
    else:
        pictures_BCHW = artist.repaint(given.picture, box, given.words, given.count, given.seed, **how)
    png = _png(pictures_BCHW, given.scale)
    storage.write_whole(given.out, lambda file: file.write(png))
    height, width = artist.size
    print(f"{given.out}: {given.count} of {width} x {height} pixels, {given.words!r}, seed {given.seed}")
    return 0


def _png(pictures_BCHW: Any, scale: int | None) -> bytes:
    """Pictures side by side, each pixel enlarged to a square."""
    import torch
    from torchvision.io import encode_png

    from mae_vlm.encoders.contact_sheet import shown_channels

    scale = max(1, _WIDE // pictures_BCHW.shape[3]) if scale is None else scale
    large_BCHW = shown_channels(pictures_BCHW).repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    sheet_CHW = torch.cat(list(large_BCHW), dim=2)
    return bytes(encode_png((sheet_CHW * 255).round().to(torch.uint8)).numpy())
