"""Files on s3://, gs://, http(s):// and hf://, read by ranges through fsspec and a cache of blocks on the local disk."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from mae_vlm.data.block_cache import read_range

SUFFIXES = (".tar", ".parquet")
_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds before each new attempt
_HUB = re.compile(r"hf://datasets/[^/]+(/[^/]+)?/*")  # a whole data set of the hub: ``datasets`` opens it
_ETAGS = ("ETag", "etag", "md5Hash", "blob_id", "Last-Modified", "LastModified", "last_modified", "mtime")
_EXTRAS = {"s3": "'mae_vlm[s3]'", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}
_TRANSIENT = ("aiohttp", "aiobotocore", "botocore", "httpx", "httpcore", "requests", "urllib3", "huggingface_hub", "gcsfs")

T = TypeVar("T")


def is_remote(path: str) -> bool:
    """Whether ``path`` is an address of files, rather than a local path or a data set of the hub by its name alone."""
    return "://" in path and not _HUB.fullmatch(path)


@dataclass(frozen=True, order=True)
class RemoteFile:
    """One version of a file: its address, bytes, and a tag that changes with its content."""

    url: str
    size: int
    etag: str

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def folder(self) -> str:
        return self.url.rpartition("/")[0]

    @property
    def stamp(self) -> str:
        return self.etag

    def __str__(self) -> str:
        return self.url

    def read(self, size: int, offset: int) -> bytes:
        """``size`` bytes at ``offset``, fewer at the end.

        Raises:
            OSError: the file is gone, or could not be reached in six attempts.
            ValueError: the server sent other bytes than were asked for.
        """
        return read_range(f"{self.url} {self.size} {self.etag}", self.size, size, offset, self._fetch)

    def open(self) -> io.BufferedReader:
        """The file as a binary stream that can seek."""
        return io.BufferedReader(_Stream(self), 1 << 16)

    def _fetch(self, start: int, stop: int) -> bytes:
        fs, path = _filesystem(self.url)
        data: bytes = _patient(lambda: fs.cat_file(path, start=start, end=stop))
        if len(data) != stop - start:
            raise ValueError(
                f"{self.url}: {len(data)} bytes came instead of {stop - start}; it was changed since, or its server gives no ranges"
            )
        return data


class RemoteTree:
    """The files below one address: a folder, or a single file, with as much of ``Path`` as it takes to find train and val parts.

    ``files`` are (path below this folder, file), sorted; a single file has the path "".
    """

    def __init__(self, name: str, files: list[tuple[str, RemoteFile]]) -> None:
        self.name, self._files = name, files

    def is_file(self) -> bool:
        return len(self._files) == 1 and not self._files[0][0]

    def is_dir(self) -> bool:
        return not self.is_file()

    def iterdir(self) -> Iterator[RemoteTree]:
        groups: dict[str, list[tuple[str, RemoteFile]]] = {}
        for path, file in self._files:
            first, _, rest = path.partition("/")
            groups.setdefault(first, []).append((rest, file))
        return (RemoteTree(name, files) for name, files in groups.items())

    def files(self, suffix: str = "") -> list[RemoteFile]:
        return [file for _, file in self._files if file.name.lower().endswith(suffix)]


def list_remote(url: str) -> RemoteTree:
    """The .tar and .parquet files below ``url``, or the one that it is.

    Raises:
        ValueError: there is none, or the place cannot be reached or read; one line that says what to do.
    """
    fs, path = _filesystem(url)
    fs.invalidate_cache()
    name = path.rstrip("/").rpartition("/")[2]
    if url.lower().endswith(SUFFIXES):
        return RemoteTree(name, [("", _told(url, lambda: _one(fs, url, path)))])
    if url.startswith(("http://", "https://")):
        raise ValueError(f"data.path {url} is no file that can be listed; give the address of one {' or '.join(SUFFIXES)} file")
    found: dict[str, Any] = _told(url, lambda: fs.find(path, detail=True))
    cut = len(path.rstrip("/")) + 1
    files = sorted(
        (inner[cut:], _file(fs.unstrip_protocol(inner), info)) for inner, info in found.items() if inner.lower().endswith(SUFFIXES)
    )
    if not files:
        raise ValueError(
            f"data.path {url} does not exist or holds no {' or '.join(SUFFIXES)} file; pictures are read from remote places in shards, "
            "which python -m data_prep shards writes"
        )
    return RemoteTree(name, files)


def find_remote(url: str) -> RemoteFile | None:
    """The file at ``url``, or None where there is none or it may not be read."""
    try:
        fs, path = _filesystem(url)
        return _patient(lambda: _one(fs, url, path))
    except (OSError, ValueError):
        return None


class _Stream(io.RawIOBase):
    def __init__(self, file: RemoteFile) -> None:
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer), self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _filesystem(url: str) -> tuple[Any, str]:
    """(file system, path within it), made anew in each process: fsspec drops what it inherited over a fork."""
    import fsspec

    protocol = url.partition("://")[0]
    try:
        return fsspec.core.url_to_fs(url)  # type: ignore[no-any-return]
    except ImportError:
        raise ValueError(f"data.path {url} needs another package; pip install {_EXTRAS.get(protocol, protocol)}") from None
    except ValueError as error:
        raise ValueError(f"data.path {url} is of no known kind ({_line(error)}); use s3://, gs://, https:// or hf://datasets/") from None


def _one(fs: Any, url: str, path: str) -> RemoteFile:
    info = fs.info(path)
    if info.get("size") is None:
        raise ValueError(f"{url} does not say how long it is; give a place that serves byte ranges")
    return _file(url, info)


def _file(url: str, info: dict[str, Any]) -> RemoteFile:
    return RemoteFile(url, int(info["size"]), next((str(info[key]).strip('"') for key in _ETAGS if info.get(key)), ""))


def _patient(call: Callable[[], T]) -> T:
    """What ``call`` gives, after as many new attempts as there are pauses where the fault may pass."""
    for pause in _PAUSES:
        try:
            return call()
        except Exception as error:
            if not _may_pass(error):
                raise
            time.sleep(pause)
    try:
        return call()
    except Exception as error:
        if isinstance(error, OSError):
            raise
        raise OSError(_line(error)) from error


def _may_pass(error: Exception) -> bool:
    if isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError)) or "Credentials" in type(error).__name__:
        return False
    status = getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "status", None)
    if isinstance(status, int) and 400 <= status < 500 and status not in (408, 429):  # refused, rather than slow or busy
        return False
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _TRANSIENT


def _told(url: str, call: Callable[[], T]) -> T:
    """What ``call`` gives; its failure as the user's mistake."""
    try:
        return _patient(call)
    except FileNotFoundError:
        raise ValueError(f"data.path {url} does not exist; check the bucket or host, and the path") from None
    except PermissionError as error:
        raise ValueError(f"data.path {url} may not be read ({_line(error)}); check your credentials for it") from None
    except ImportError as error:
        raise ValueError(f"data.path {url} needs another package ({_line(error)})") from None
    except Exception as error:
        if "Credentials" in type(error).__name__:
            raise ValueError(f"data.path {url}: no credentials found; set them (AWS_ACCESS_KEY_ID ...), or FSSPEC_S3_ANON=1") from None
        raise ValueError(f"data.path {url} cannot be read ({_line(error)}); check the address and the network") from None


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
