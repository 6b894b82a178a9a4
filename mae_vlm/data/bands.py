"""TIFF of any number of bands, depth and size, read by windows through rasterio (GDAL): never the whole file.

A window that is much larger than what is wanted of it is read at a power of two of its size, from the file's own overviews
where it has them, else averaged block by block.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mae_vlm.data.modes import over_white
from mae_vlm.data.transforms import Window

_BLOCK_CACHE = 32  # MiB of decoded blocks that GDAL keeps in a process
_MOST_READ = 1 << 24  # pixels of a window read at its full size
_MOST_BYTES = 2  # of what is read at once, for each pixel of max_pixels


def available() -> bool:
    """Whether rasterio is installed."""
    try:
        import rasterio  # noqa: F401
    except ImportError:
        return False
    return True


def read_bands(data: bytes | Path, window: Window, factor: int, channels: int | None, max_pixels: int, name: str) -> NDArray[Any]:
    """Values ``[H, W, bands]`` of ``window`` (of the stored picture) at 1 / ``factor`` of its size, rounded.

    The last band is laid over white where the file calls it opacity, unless ``channels`` are all of the bands.

    Raises:
        ValueError: rasterio is missing, the file is damaged, its bands are not ``channels``, one of its blocks is over ``max_pixels``, or
            what would be read is over 2 bytes for each of ``max_pixels``; but for damage, before any pixel is read.
    """
    while window.height * window.width > _MOST_READ * factor**2:
        factor *= 2
    rows, columns = max(1, round(window.height / factor)), max(1, round(window.width / factor))
    with _opened(data, name) as (file, rasterio):
        if max(height * width for height, width in file.block_shapes) > max_pixels:
            raise ValueError(f"{name}: a block of {file.block_shapes[0]} pixels is more than the limit of {max_pixels:,}; save it in tiles")
        opacity = file.colorinterp[-1] == rasterio.enums.ColorInterp.alpha and channels != file.count and file.dtypes[0].startswith("uint")
        _check_bands(file.count - opacity, channels, name)
        _check_bytes(rows, columns, file, max_pixels, name)
        how = rasterio.enums.Resampling.average if factor > 1 else rasterio.enums.Resampling.nearest
        part = rasterio.windows.Window(window.left, window.top, window.width, window.height)
        values = file.read(window=part, out_shape=(file.count, rows, columns), resampling=how)
    values = np.moveaxis(values, 0, -1)
    return over_white(values) if opacity else values


def _check_bands(own: int, channels: int | None, name: str) -> None:
    if channels is not None and own != channels and {own, channels} != {1, 3}:
        raise ValueError(f"{name}: a picture of {own} channels cannot be read with {channels}; set data.channels to {own}")


def _check_bytes(rows: int, columns: int, file: Any, max_pixels: int, name: str) -> None:
    itemsize = max(16 if kind.startswith("complex") else np.dtype(kind).itemsize for kind in set(file.dtypes))
    taken, most = rows * columns * file.count * itemsize, _MOST_BYTES * max_pixels
    if taken > most:
        raise ValueError(
            f"{name}: {columns} x {rows} pixels of {file.count} bands take {taken:,} bytes, over {most:,}; shrink it or save fewer bands"
        )


@contextmanager
def _opened(data: bytes | Path, name: str) -> Iterator[tuple[Any, Any]]:
    """(file, rasterio): only the GeoTIFF driver is tried, so that a file cannot name others to be opened."""
    try:
        import rasterio
        import rasterio.windows
    except ImportError:
        raise ValueError(f"{name}: a TIFF of this kind or size needs rasterio; run: pip install 'mae_vlm[bands]'") from None
    try:
        with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=_BLOCK_CACHE, GDAL_DISABLE_READDIR_ON_OPEN="TRUE"):
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            if isinstance(data, bytes):
                with rasterio.MemoryFile(data) as memory, memory.open(driver="GTiff") as file:
                    yield file, rasterio
            else:
                with rasterio.open(data, driver="GTiff") as file:
                    yield file, rasterio
    except (rasterio.errors.RasterioError, rasterio._err.CPLE_BaseError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{name}: the TIFF is damaged or cut short ({reason}); remove it or replace it") from None
