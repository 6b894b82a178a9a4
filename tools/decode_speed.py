"""Pictures per second and core from encoded files to crops: the classic pipeline, torchvision's newer one, and ours.

``python -m tools.decode_speed --data PATH`` (a tar, folder or parquet of photos) decodes, crops at random to 224 x 224 (bicubic,
antialiased) and mirrors every photo, in one thread, round after round, and prints medians and the ratios to the classic within each
round, by the processor's time, which other programs disturb least. ``--side 3000`` does it for mosaics of the photos of that width,
as JPEGs of ``--quality`` and ``--subsampling``; without a quality, of as many bits per pixel as the photos have. The last row is
libjpeg-turbo alone at 1/8 of the size: its entropy decoder, which no crop and no reduced size can save.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import simplejpeg
import torch
from PIL import Image
from torchvision import transforms
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import InterpolationMode, v2

from mae_vlm.data.collection import open_collection
from mae_vlm.data.decode import Form, Picture
from mae_vlm.data.sources.base import Columns, Joined, Place
from mae_vlm.data.transforms import Augment

SIZE = 224
_TILE = 375  # pixels high, as most of ImageNet's photos are
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def classic(scale: tuple[float, float]) -> Callable[[bytes], object]:
    """PIL, RandomResizedCrop, flip, ToTensor, Normalize, as in most training scripts."""
    augment = transforms.Compose([
        transforms.RandomResizedCrop(SIZE, scale, interpolation=InterpolationMode.BICUBIC),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(_MEAN, _STD),
    ])  # fmt: skip
    return lambda data: augment(Image.open(io.BytesIO(data)).convert("RGB"))


def torchvision_v2(scale: tuple[float, float]) -> Callable[[bytes], object]:
    """torchvision.io and v2 transforms on uint8 tensors, normalised elsewhere."""
    augment = v2.Compose([
        v2.RandomResizedCrop(SIZE, scale, interpolation=InterpolationMode.BICUBIC, antialias=True),
        v2.RandomHorizontalFlip(),
    ])  # fmt: skip
    return lambda data: augment(decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB))


def ours(scale: tuple[float, float]) -> Callable[[bytes], object]:
    """What a loader's worker does with a file: another crop each time."""
    augment, form, keys = Augment((SIZE, SIZE), scale), Form(), iter(range(2**62))

    def crop(data: bytes) -> object:
        picture = Picture(data, form)
        return picture.crop(augment.plan(picture.height, picture.width, next(keys)))

    return crop


def entropy_only(scale: tuple[float, float]) -> Callable[[bytes], object]:
    """libjpeg-turbo at 1/8, nothing else."""
    return lambda data: simplejpeg.decode_jpeg(data, min_height=1, min_width=1, min_factor=8)


CONTENDERS = {"classic": classic, "torchvision v2": torchvision_v2, "mae_vlm": ours, "entropy decoding alone": entropy_only}


def mosaics(photos: list[bytes], width: int, count: int, quality: int | None, subsampling: int) -> list[bytes]:
    """``count`` JPEGs of ``width`` x 3/4 ``width`` pixels, full of photos in rows, each beginning with another photo."""
    tiles = [_tile(Image.open(io.BytesIO(data)).convert("RGB")) for data in photos]
    canvases = [_canvas(tiles[number:] + tiles[:number], width, width * 3 // 4) for number in range(count)]
    if quality is None:
        wanted = bits_per_pixel(photos)
        quality = min(range(60, 100), key=lambda q: abs(bits_per_pixel([_jpeg(canvases[0], q, subsampling)]) - wanted))
    return [_jpeg(canvas, quality, subsampling) for canvas in canvases]


def bits_per_pixel(photos: list[bytes]) -> float:
    """Of all of them together."""
    sizes = [Image.open(io.BytesIO(data)).size for data in photos]
    return 8 * sum(map(len, photos)) / sum(width * height for width, height in sizes)


def _tile(photo: Image.Image) -> Image.Image:
    """At its own scale where it is high enough, so that its detail stays real."""
    if photo.height >= _TILE:
        return photo.crop((0, 0, photo.width, _TILE))
    return photo.resize((round(photo.width * _TILE / photo.height), _TILE), Image.Resampling.BICUBIC)


def _canvas(tiles: list[Image.Image], width: int, height: int) -> Image.Image:
    canvas, number = Image.new("RGB", (width, height)), 0
    for top in range(0, height, _TILE):
        left = 0
        while left < width:
            tile = tiles[number % len(tiles)]
            canvas.paste(tile, (left, top))
            left, number = left + tile.width, number + 1
    return canvas


def _jpeg(image: Image.Image, quality: int, subsampling: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return buffer.getvalue()


def photos_of(path: str) -> list[bytes]:
    """The JPEGs of a collection, encoded."""
    found = open_collection(Place(path, (), Columns()))
    source = found.parts["all"] if "all" in found.parts else Joined(list(found.parts.values()))
    images = [source[index].image for index in range(len(source))]
    return [image for image in images if isinstance(image, bytes) and image[:2] == b"\xff\xd8"]


def measure(photos: list[bytes], scale: tuple[float, float], rounds: int) -> dict[str, list[float]]:
    """Pictures per second of processor time of every contender in each round, all in turn within a round."""
    steps = {name: build(scale) for name, build in CONTENDERS.items()}
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            began = time.process_time()
            for data in photos:
                step(data)
            if turn:  # the first is the warm-up
                rates[name].append(len(photos) / (time.process_time() - began))
    return rates


def report(rates: dict[str, list[float]]) -> None:
    """A table: medians with minimum and maximum, and the ratio to the classic round by round."""
    print("| pipeline | images/s (min to max) | times the classic (min to max) |\n|---|---|---|")
    for name, own in rates.items():
        ratios = [mine / base for mine, base in zip(own, rates["classic"], strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {name} | {statistics.median(own):.1f} ({min(own):.1f} to {max(own):.1f}) | {spread} |")


def main() -> None:
    """Print a table for each crop scale."""
    options = _options()
    if not Path(options.data).exists():
        print(f"nothing measured: {options.data} is not there; give --data a tar, folder or parquet of JPEGs")
        return
    torch.set_num_threads(1)
    torch.manual_seed(0)
    photos = photos_of(options.data)
    if options.side:
        photos = mosaics(photos, options.side, options.mosaics, options.quality, options.subsampling)
    kind = f"mosaics {options.side} pixels wide" if options.side else "photos"
    for scale in ((0.08, 1.0), (0.2, 1.0)):
        print(
            f"\n{len(photos)} {kind}, {bits_per_pixel(photos):.1f} bits per pixel, crop scale {scale}, {options.rounds} rounds, one thread"
        )
        report(measure(photos, scale, options.rounds))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.decode_speed", description=__doc__)
    parser.add_argument("--data", required=True, help="a tar, folder or parquet of JPEG photos")
    parser.add_argument("--side", type=int, default=0, help="width of the mosaics; without it the photos themselves")
    parser.add_argument("--mosaics", type=int, default=4, help="how many different ones")
    parser.add_argument("--quality", type=int, help="of the mosaics' JPEG")
    parser.add_argument("--subsampling", type=int, default=0, help="0: 4:4:4, 2: 4:2:0, as cameras save")
    parser.add_argument("--rounds", type=int, default=15)
    return parser.parse_args()


if __name__ == "__main__":
    main()
