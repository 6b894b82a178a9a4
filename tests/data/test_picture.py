from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from pictures_in_memory import deep_png, encoded
from PIL import Image, ImageOps

from mae_vlm.data import picture as picture_module
from mae_vlm.data.decode import Form, Picture, decode, header
from mae_vlm.data.orientation import stored_window
from mae_vlm.data.transforms import Augment, Crop, Resize, Window, apply

ROWS, COLUMNS = np.mgrid[0:600, 0:800]
SMOOTH = np.stack([ROWS * 255 // 600, COLUMNS * 255 // 800, (np.sin(ROWS / 40) * np.cos(COLUMNS / 60) * 100 + 128).astype(int)], -1).astype(
    np.uint8
)


def photo(orientation: int = 1, format: str = "JPEG", **options) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(SMOOTH), format, **({"quality": 95} | options if format == "JPEG" else options), exif=exif)


@pytest.fixture
def factors(monkeypatch):
    """The factors by which JPEGs are reduced as they are decoded."""
    seen = []
    real = picture_module.decode_jpeg
    monkeypatch.setattr(picture_module, "decode_jpeg", lambda *given: seen.append(given[3]) or real(*given))
    return seen


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_crop_is_that_of_the_whole_picture_however_it_is_turned(orientation, format):
    data = photo(orientation, format)
    whole = decode(data)
    picture = Picture(data)
    assert (picture.height, picture.width) == tuple(whole.shape[1:]) == ((800, 600) if orientation >= 5 else (600, 800))
    crop = Crop(Window(48, 64, 320, 400), 80, 100, mirrored=orientation % 2 == 0)
    difference = picture.crop(crop).int() - apply(whole, crop).int()
    assert difference.abs().max() <= 3 and difference.float().mean().abs() < 0.3


def test_what_is_shown_of_a_turned_picture_is_what_pillow_shows():
    for orientation in range(1, 9):
        data = photo(orientation, "PNG")
        shown = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
        assert np.array_equal(decode(data).permute(1, 2, 0).numpy(), shown)


def test_a_jpeg_is_decoded_no_larger_than_the_crop_needs(factors):
    picture = Picture(photo())
    for side, factor in ((600, 1), (300, 2), (299, 2), (150, 4), (75, 8), (20, 8)):
        picture.crop(Crop(Window(0, 0, 600, 600), side, side))
        assert factors.pop() == factor, side
    picture.crop(Crop(Window(0, 0, 600, 600), 20, 20, exact=True))
    assert factors == [1]


def test_validation_decodes_every_pixel_and_training_does_not(factors):
    picture = Picture(photo())
    picture.crop(Resize((64, 64)).plan(600, 800))
    picture.crop(Augment((64, 64), (0.9, 1.0)).plan(600, 800, 3))
    assert factors == [1, 8]


def test_reduced_crops_lie_where_they_should():
    data = encoded(Image.fromarray(np.stack([COLUMNS * 255 // 800] * 3, -1).astype(np.uint8)), "JPEG", quality=98)
    for key in range(30):
        crop = Augment((50, 50), (0.3, 1.0), flip=0.0).plan(600, 800, key)
        left, right = (edge * 255 / 800 for edge in (crop.window.left, crop.window.left + crop.window.width))
        means = Picture(data).crop(crop)[0].float().mean(0)
        step = (right - left) / 50  # from one pixel to the next: about 3
        shown = left - 0.5 + (torch.arange(50) + 0.5) * step  # values of the file are rounded down
        assert (means - shown)[5:45].mean().abs() < 0.1 * step


def test_a_grey_jpeg_becomes_three_equal_channels_and_a_coloured_one_a_weighed_one():
    grey = Picture(encoded(Image.fromarray(SMOOTH).convert("L"), "JPEG")).crop(Crop(Window(0, 0, 600, 800), 60, 80))
    assert grey.shape == (3, 60, 80) and torch.equal(grey[0], grey[2])
    one = Picture(photo(), Form(1)).crop(Crop(Window(0, 0, 600, 800), 60, 80))
    assert one.shape == (1, 60, 80)
    assert (one[0].float() - grey[0].float()).abs().max() <= 4


@pytest.mark.parametrize("quality", [60, 95])
@pytest.mark.parametrize("keep", [0.3, 0.9, 0.995])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_cut_jpeg_is_refused_at_any_scale(quality, keep, progressive):
    data = photo(quality=quality, progressive=progressive)
    with pytest.raises(ValueError, match=r"cut\.jpg: the JPEG is damaged or cut short"):
        Picture(data[: int(len(data) * keep)], name="cut.jpg").crop(Crop(Window(0, 0, 8 * 32, 8 * 32), 32, 32))


def test_a_jpeg_with_damaged_pixels_is_refused():
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = bytearray(encoded(Image.fromarray(noise), "JPEG"))
    data[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
    with pytest.raises(ValueError, match=r"damaged or cut short"):
        decode(bytes(data))


def test_a_few_stray_bytes_between_segments_are_no_damage():
    data = photo()
    at = data.rindex(b"\xff\xd9")
    assert torch.equal(decode(data[:at] + b"\0\1\2" + data[at:]), decode(data))


@pytest.mark.parametrize("junk", [b"", b"II", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff" + b"\1\x12" * 40, b"x" * 300])
def test_junk_for_exif_turns_nothing(junk):
    data = encoded(Image.fromarray(SMOOTH), "JPEG", exif=b"Exif\0\0" + junk)
    assert (header(data).height, header(data).width) == (600, 800) and decode(data).shape == (3, 600, 800)


def test_exif_behind_the_pixels_of_a_png_counts():
    exif = Image.Exif()
    exif[0x0112] = 8
    data = encoded(Image.fromarray(SMOOTH), "PNG", exif=exif)
    start = data.index(b"eXIf") - 4
    chunk = data[start : start + 12 + int.from_bytes(data[start : start + 4], "big")]
    moved = data.replace(chunk, b"")[:-12] + chunk + data[-12:]
    assert (header(moved).height, header(moved).width) == (800, 600) and torch.equal(decode(moved), decode(data))


def test_windows_go_back_and_forth_through_every_orientation():
    for orientation in range(1, 9):
        window = stored_window(Window(1, 2, 3, 4), 10, 20, orientation)
        assert (window.height, window.width) == ((4, 3) if orientation >= 5 else (3, 4))
        corner = {1: (1, 2), 2: (1, 14), 3: (6, 14), 4: (6, 2), 5: (2, 1), 6: (14, 1), 7: (14, 6), 8: (2, 6)}[orientation]
        assert (window.top, window.left) == corner


@pytest.mark.parametrize("mode", ["CMYK", "RGBA", "P", "LA", "1", "I;16"])
def test_other_modes_are_cropped_like_the_whole(mode):
    image = Image.fromarray(SMOOTH)
    image = Image.fromarray(SMOOTH[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert("RGB").convert(mode)
    data = encoded(image, "JPEG" if mode == "CMYK" else "PNG")
    crop = Crop(Window(100, 50, 300, 200), 60, 40)
    difference = Picture(data).crop(crop).int() - apply(decode(data), crop).int()
    assert difference.abs().max() <= (2 if mode != "1" else 255) and difference.float().abs().mean() < 1


@pytest.mark.parametrize("colour", ["I;16", "RGB", "RGBA"])
def test_sixteen_bits_of_a_png_are_all_kept(colour):
    values = np.random.default_rng(0).integers(0, 65536, (20, 30, {"I;16": 1, "RGB": 3, "RGBA": 4}[colour]), dtype=np.uint16)
    if colour == "RGBA":
        values[..., 3] = 65535
    data = deep_png(values)
    assert header(data).bits == 16 and header(data).channels == (1 if colour == "I;16" else 3)
    pixels = decode(data, None, bits=16)
    assert pixels.dtype == torch.uint16 and np.array_equal(pixels.permute(1, 2, 0).numpy(), values[..., :3])
    assert np.abs(decode(data, None).permute(1, 2, 0).numpy().astype(int) - values[..., :3] / 257).max() <= 1


def test_eight_bits_fill_sixteen():
    assert decode(encoded(Image.new("L", (4, 4), 255)), 1, bits=16).unique().tolist() == [65535]


def test_a_value_range_is_spread_over_all_bits_and_clipped():
    twelve = Image.fromarray(np.array([[0, 1000, 2047, 4095, 5000]], dtype=np.uint16))
    assert decode(encoded(twelve), 1, value_range=(0, 4095)).flatten().tolist() == [0, 62, 127, 255, 255]
    assert decode(encoded(twelve), 1, bits=16, value_range=(1000, 4095)).flatten().tolist() == [0, 0, 22170, 65535, 65535]
    fractions = Image.fromarray(np.array([[-1, 0, 0.5, 1, np.nan]], dtype=np.float32))
    assert decode(encoded(fractions, "TIFF"), 1, value_range=(0, 1)).flatten().tolist() == [0, 0, 128, 255, 0]


def test_sixteen_bit_crops_are_antialiased_as_eight_bit_ones_are():
    values = np.tile(np.linspace(0, 65535, 200, dtype=np.uint16), (100, 1))
    crop = Crop(Window(0, 20, 100, 160), 20, 30, mirrored=True)
    deep = Picture(encoded(Image.fromarray(values)), Form(1, 16)).crop(crop)
    flat = Picture(encoded(Image.fromarray((values // 257).astype(np.uint8))), Form(1)).crop(crop)
    assert deep.dtype == torch.uint16 and (deep.int() / 257 - flat.int()).abs().max() < 1.5


def test_pixels_in_memory_are_cropped_too():
    pixels = torch.from_numpy(SMOOTH).permute(2, 0, 1)
    crop = Crop(Window(10, 20, 300, 300), 50, 50)
    assert torch.equal(Picture(pixels).crop(crop), apply(pixels, crop)) and Picture(pixels, Form(1)).pixels().shape == (1, 600, 800)
