from __future__ import annotations

import struct
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures_in_memory import encoded
from PIL import Image

from mae_vlm.data.decode import Form, Picture, decode, header
from mae_vlm.data.module import Data
from mae_vlm.data.transforms import Augment, Crop, Resize, Window

rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def write(file: Path, values: np.ndarray, **options) -> Path:
    """A GeoTIFF of ``[bands, H, W]``."""
    bands, height, width = values.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(file, "w", driver="GTiff", height=height, width=width, count=bands, dtype=values.dtype, **options) as out:
            out.write(values)
    return file


def sent(file: Path, way: str) -> Path | bytes:
    return file if way == "path" else file.read_bytes()


BOTH = pytest.mark.parametrize("way", ["path", "bytes"])


@BOTH
def test_every_band_and_all_its_bits_are_read(tmp_path, way):
    values = np.random.default_rng(0).integers(0, 65536, (5, 40, 60), dtype=np.uint16)
    data = sent(write(tmp_path / "a.tif", values), way)
    found = header(data)
    assert (found.height, found.width, found.channels, found.bits) == (40, 60, 5, 16)
    assert np.array_equal(decode(data, 5, bits=16).numpy(), values)
    assert np.array_equal(decode(data, None).numpy(), ((values.astype(int) + 128) // 257).astype(np.uint8))


@BOTH
def test_a_crop_of_a_large_file_reads_none_of_the_blocks_beside_it(tmp_path, way):
    side, tile = 2048, 256
    values = np.random.default_rng(0).integers(0, 255, (4, side, side), dtype=np.uint8)
    file = write(tmp_path / "large.tif", values, tiled=True, blockxsize=tile, blockysize=tile, compress="deflate", photometric="minisblack")
    whole = bytearray(file.read_bytes())
    with rasterio.open(file) as opened:
        for row, column in np.ndindex(8, 8):
            at, size = (int(opened.get_tag_item(f"BLOCK_{what}_{column}_{row}", "TIFF", bidx=1)) for what in ("OFFSET", "SIZE"))
            if (row, column) != (1, 2):  # whoever reads another block fails
                whole[at : at + size] = bytes(size)
    file.write_bytes(whole)
    picture = Picture(sent(file, way), Form(4))
    crop = picture.crop(Crop(Window(300, 550, 200, 150), 200, 150))
    assert np.array_equal(crop.numpy(), values[:, 300:500, 550:700])
    with pytest.raises(ValueError, match="damaged or cut short"):
        picture.crop(Crop(Window(300, 800, 200, 150), 200, 150))


def test_a_crop_reads_few_bytes_of_a_large_file(tmp_path):
    counters = Path("/proc/self/io")
    if not counters.exists():
        pytest.skip("this system does not count the bytes that a process reads")
    values = np.random.default_rng(0).integers(0, 65535, (5, 1536, 1536), dtype=np.uint16)
    file = write(tmp_path / "large.tif", values, tiled=True, blockxsize=256, blockysize=256)
    Picture(file, Form(5)).crop(Crop(Window(0, 0, 64, 64), 64, 64))  # imports read bytes as well

    def read() -> int:
        return int(counters.read_text().split()[1])

    before = read()
    Picture(file, Form(5)).crop(Crop(Window(600, 600, 128, 128), 64, 64))
    assert read() - before < file.stat().st_size / 10


def test_overviews_are_read_where_a_crop_needs_no_more(tmp_path):
    values = np.full((5, 1024, 1024), 10, dtype=np.uint8)
    file = write(tmp_path / "o.tif", values, tiled=True, blockxsize=256, blockysize=256)
    with rasterio.open(file, "r+") as opened:
        opened.build_overviews([2, 4, 8])
        opened.write(np.full((5, 1024, 1024), 200, dtype=np.uint8))  # whoever reads the full size now sees it
    crop = Crop(Window(0, 0, 1024, 1024), 128, 128)
    assert Picture(file, Form(5)).crop(crop).unique().tolist() == [10]
    assert Picture(file, Form(5)).crop(crop._replace(exact=True)).unique().tolist() == [200]


@pytest.mark.parametrize("side", [64, 100])
def test_reduced_windows_lie_where_they_should(tmp_path, side):
    values = np.stack([np.tile(np.linspace(0, 65535, 1000), (800, 1))] * 4).astype(np.uint16)
    file = write(tmp_path / "ramp.tif", values, photometric="minisblack")
    for key in range(10):
        crop = Augment((side, side), (0.3, 1.0), flip=0.0).plan(800, 1000, key)
        means = Picture(file, Form(4, 16)).crop(crop)[3].float().mean(0)
        left, step = crop.window.left * 65.6, crop.window.width * 65.6 / side
        assert abs(means[side // 2] - (left + (side // 2 + 0.5) * step)) < 0.3 * step


def test_large_plain_tiffs_are_read_by_windows_and_alike(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (3, 2100, 2100), dtype=np.uint8)
    file = write(tmp_path / "rgb.tif", values, tiled=True, photometric="rgb")
    assert header(file).decoder == "bands" and header(file).easy
    crop = Crop(Window(1000, 1000, 96, 96), 96, 96)
    assert np.array_equal(Picture(file).crop(crop).numpy(), values[:, 1000:1096, 1000:1096])
    assert Picture(file, max_pixels=1_000_000).crop(crop).shape == (3, 96, 96)  # the limit is for what is decoded at once


def test_opacity_is_laid_over_white_unless_all_bands_are_asked_for(tmp_path):
    values = np.zeros((4, 8, 8), dtype=np.uint16)
    file = write(tmp_path / "rgba.tif", values, photometric="rgb", alpha="yes")
    assert header(file).channels == 3
    assert decode(file, 3, bits=16).unique().tolist() == [65535]
    assert decode(file, 4, bits=16).unique().tolist() == [0]


def test_signed_and_floating_bands_go_by_their_range(tmp_path):
    signed = write(tmp_path / "s.tif", np.array([[[-32768, 0, 32767]]] * 5, dtype=np.int16))
    assert decode(signed, 5)[0].flatten().tolist() == [0, 128, 255]
    floats = write(tmp_path / "f.tif", np.array([[[-0.5, 0.0, 0.25, 2.0]]] * 5, dtype=np.float32))
    assert decode(floats, 5, bits=16, value_range=(0, 1))[2].flatten().tolist() == [0, 0, 16384, 65535]
    with pytest.raises(ValueError, match=r"floating point numbers has no known range; set data\.value_range"):
        decode(floats, 5)


def test_without_rasterio_the_error_says_what_to_install(tmp_path, monkeypatch):
    five = write(tmp_path / "5.tif", np.zeros((5, 8, 8), dtype=np.uint8))
    plain = encoded(Image.new("RGB", (8, 8), "red"), "TIFF")
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(ValueError, match=r"5\.tif: a TIFF of this kind or size needs rasterio; run: pip install 'mae_vlm\[bands\]'"):
        Picture(five, Form(5), "5.tif").pixels()
    assert decode(plain)[:, 0, 0].tolist() == [255, 0, 0]


@BOTH
@pytest.mark.parametrize("keep", [0.02, 0.5])
def test_a_cut_file_is_named(tmp_path, way, keep):
    values = np.random.default_rng(0).integers(0, 65536, (5, 64, 64), dtype=np.uint16)
    file = write(tmp_path / "cut.tif", values, compress="deflate")
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * keep)])
    with pytest.raises(ValueError, match=r"^cut\.tif: "):
        Picture(sent(file, way), Form(5), "cut.tif").pixels()


def test_one_huge_block_is_refused_before_it_is_decoded(tmp_path):
    file = write(tmp_path / "strip.tif", np.zeros((5, 512, 512), dtype=np.uint8), blockysize=512, compress="deflate")
    with pytest.raises(ValueError, match=r"strip\.tif: a block of \(512, 512\) pixels is more than the limit of 100,000; save it in tiles"):
        Picture(file, Form(5), "strip.tif", max_pixels=100_000).crop(Crop(Window(0, 0, 8, 8), 8, 8))


def test_wrong_number_of_channels_says_which_to_set(tmp_path):
    file = write(tmp_path / "5.tif", np.zeros((5, 8, 8), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"5\.tif: a picture of 5 channels cannot be read with 3; set data\.channels to 5"):
        Picture(file, Form(3), "5.tif").crop(Resize((4, 4)).plan(8, 8))


def test_turned_tiffs_are_shown_upright(tmp_path):
    image = Image.fromarray(np.tile(np.linspace(0, 255, 24, dtype=np.uint8), (16, 1)))
    data = encoded(image, "TIFF", tiffinfo={274: 6})
    assert (header(data).height, header(data).width) == (24, 16)
    pixels = decode(data, 1)
    assert pixels.shape == (1, 24, 16) and pixels[0, 0].max() < 5 and pixels[0, -1].min() > 250
    assert torch.equal(Picture(data, Form(1)).crop(Crop(Window(0, 0, 24, 16), 24, 16)), pixels)


def test_a_folder_of_bands_becomes_batches_of_all_bands_and_bits(tmp_path):
    for number in range(12):
        values = np.random.default_rng(number).integers(1000, 3000, (5, 40, 48), dtype=np.uint16)
        values[4] = 7
        write(tmp_path / f"{number}.tif", values)
    data = Data(str(tmp_path), image_size=16, batch_size=4, num_workers=0, val_fraction=0)
    found = data.inspect()
    assert (found.height, found.width, found.channels, found.bits) == (40, 48, 5, 16)
    means, deviations = found.moments
    assert means[:4] == pytest.approx([2000 / 65535] * 4, rel=0.02) and means[4] == pytest.approx(0.0001)
    assert 0.002 < deviations[0] < 0.009 and deviations[4] == 0.001  # never zero: it is divided by
    batch = next(iter(data.train_dataloader()))
    assert batch.images_BCHW.shape == (4, 5, 16, 16) and batch.images_BCHW.dtype == torch.uint16
    stretched = Data(str(tmp_path), image_size=16, batch_size=4, num_workers=0, val_fraction=0, bits=8, value_range=(1000, 3000))
    images = next(iter(stretched.train_dataloader())).images_BCHW
    assert images.dtype == torch.uint8 and images[:, :4].float().mean() == pytest.approx(127.5, abs=8) and images[:, 4].max() == 0


def test_a_bomb_of_bands_is_refused_before_it_is_read(tmp_path, monkeypatch):
    file = write(
        tmp_path / "bomb.tif", np.zeros((400, 64, 64), dtype=np.uint8), compress="deflate", tiled=True, blockxsize=16, blockysize=16
    )
    monkeypatch.setattr(rasterio.DatasetReader, "read", None, raising=False)
    with pytest.raises(ValueError, match=r"bomb\.tif: 64 x 64 pixels of 400 bands take 1,638,400 bytes, over 20,000"):
        Picture(file, Form(None), "bomb.tif", max_pixels=10_000).pixels()
    with pytest.raises(ValueError, match=r"bomb\.tif: a picture of 400 channels cannot be read with 3"):
        Picture(file, Form(3), "bomb.tif").pixels()


@BOTH
def test_more_bands_than_any_camera_has_are_refused_by_the_header(tmp_path, way):
    tags = [(256, 8), (257, 8), (258, 8), (262, 1), (277, 60_000)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    file = tmp_path / "many.tif"
    file.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4))
    with pytest.raises(ValueError, match=r"many\.tif: 60,000 bands are more than the limit of 4,096"):
        header(sent(file, way), "many.tif")
