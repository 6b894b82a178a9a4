from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from pictures_in_memory import chunk, encoded
from PIL import Image

from mae_vlm.data.decode import decode, header, to_channels

GREY = np.tile(np.linspace(0, 255, 24, dtype=np.uint8), (16, 1))


@pytest.mark.parametrize(
    ("mode", "format"),
    [
        *[(mode, "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")],
        *[(mode, "JPEG") for mode in ("L", "RGB", "CMYK")],
        *[(mode, "TIFF") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I")],
        ("RGB", "WEBP"),
        ("P", "GIF"),
        ("RGB", "BMP"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_uint8_pixels(mode, format, channels):
    grey = Image.fromarray(GREY)
    if mode == "I;16":
        image = Image.fromarray(GREY.astype(np.uint16) * 257)
    elif mode == "LAB":
        image = Image.new("LAB", (24, 16), (128, 128, 128))
    elif mode == "I":
        image = Image.fromarray(GREY.astype(np.int32) * 257)
    elif mode == "P":
        image = grey.convert("RGB").quantize(64)
    else:
        image = grey.convert("RGB").convert(mode)
    pixels = decode(encoded(image, format), channels)
    assert pixels.dtype == torch.uint8 and pixels.shape == (channels, 16, 24)
    if mode not in ("1", "LAB"):
        assert (pixels[0].int() - torch.from_numpy(GREY).int()).abs().float().mean() < 8


def test_own_channels_are_kept_where_none_are_asked_for():
    assert decode(encoded(Image.fromarray(GREY)), None).shape[0] == 1
    assert decode(encoded(Image.fromarray(GREY), "JPEG"), None).shape[0] == 1
    assert decode(encoded(Image.fromarray(GREY).convert("RGB"), "JPEG"), None).shape[0] == 3


def test_transparency_is_laid_over_white():
    assert (decode(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0)))) == 255).all()


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_exif_orientation_is_applied(format):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    upright = decode(encoded(Image.fromarray(GREY).convert("RGB"), format, exif=exif))
    assert upright.shape == (3, 24, 16)
    assert upright[0, 0].float().mean() < 30 and upright[0, -1].float().mean() > 225


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    pixels = decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert pixels[:, 0, 0].tolist() == [255, 0, 0]


def png_header(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(b"IDAT", b"")


@pytest.mark.parametrize("side", [14_000, 50_000])
def test_png_bomb_is_refused_by_its_header(side):
    with pytest.raises(ValueError, match=r"big\.png: .*pixels"):
        decode(png_header(side, side), name="big.png")


def test_jpeg_bomb_is_refused_by_its_header():
    data = bytearray(encoded(Image.fromarray(GREY).convert("RGB"), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
    with pytest.raises(ValueError, match=r"big\.jpg: 60000 x 60000 pixels are more than the limit of 178,956,970"):
        decode(bytes(data), name="big.jpg")


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_truncated_picture_is_named(format):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, format)
    with pytest.raises(ValueError, match=r"cut\.x: .*damaged or cut short"):
        decode(data[: len(data) // 2], name="cut.x")


@pytest.mark.parametrize(
    "data", [b"", b"hello, this is no picture", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00\x10JFIF", b"\xff\xd8\xff\xc0\x00\x11\x08"]
)
def test_what_is_no_picture_is_named(data):
    with pytest.raises(ValueError, match=r"a/b\.jpg: "):
        decode(data, name="a/b.jpg")


def test_floating_point_pictures_are_refused_with_advice():
    with pytest.raises(ValueError, match=r"floating point numbers.*save it with 8 or 16 bits"):
        decode(encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"))


@pytest.mark.parametrize(("mode", "format"), [("L", "JPEG"), ("RGB", "JPEG"), ("CMYK", "JPEG"), ("L", "PNG"), ("RGBA", "PNG")])
def test_header_tells_size_and_channels_without_decoding(mode, format):
    found = header(encoded(Image.fromarray(GREY).convert("RGB").convert(mode), format)[:400])
    assert (found.height, found.width, found.channels, found.format) == (16, 24, 1 if mode == "L" else 3, format.lower())


def test_progressive_jpeg_with_comments_is_read():
    data = encoded(Image.fromarray(GREY).convert("RGB"), "JPEG", progressive=True, comment=b"x" * 5000)
    assert header(data).decoder == "jpeg" and decode(data).shape == (3, 16, 24)


def test_channels_of_pixels_change_as_pillow_does():
    picture = torch.randint(0, 256, (3, 9, 9), dtype=torch.uint8)
    grey = np.asarray(Image.fromarray(picture.permute(1, 2, 0).numpy()).convert("L"))
    assert np.array_equal(to_channels(picture, 1)[0].numpy(), grey)
    assert to_channels(picture[:1], 3).shape == (3, 9, 9)
    with pytest.raises(ValueError, match=r"set data\.channels to 5"):
        to_channels(torch.zeros(5, 2, 2, dtype=torch.uint8), 3)


def test_postscript_never_reaches_its_interpreter():
    data = encoded(Image.new("RGB", (8, 8)), "EPS")
    with pytest.raises(ValueError, match=r"x\.jpg: not a picture"):
        header(data, "x.jpg")
