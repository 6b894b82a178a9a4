"""The headers of a tar file without its data: where each member begins and how long it is (POSIX ustar and pax, GNU long names)."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

BLOCK = 512
_LOOKED_AT = 1 << 20  # bytes behind the end that are looked at at once
_MOST_NAME = 1 << 20  # bytes of a long name or of pax records
_REGULAR = (b"0", b"\0", b"7")
_LINKS = (b"1", b"2")
_SPARSE = (b"S",)
_PICKLES = (".pkl", ".pickle", ".pyd", ".pth", ".pt", ".ckpt", ".joblib", ".dill")
_NPY_HEADER, _OBJECTS = 4096, re.compile(rb"['\"][|<>=]?O[48]?['\"]")
_HIDDEN = re.compile(r"[\x00-\x1f]")  # letters that no name of a picture needs

Read = Callable[[int, int], bytes]  # (bytes, offset) -> that many bytes, or fewer at the end of the file


class Member(NamedTuple):
    """A regular member: its name (bytes that are not UTF-8 as surrogates), and where its data lies in the file."""

    name: str
    offset: int
    size: int


def members(read: Read, size: int, shard: str) -> Iterator[Member]:
    """The regular members of an uncompressed tar file of ``size`` bytes, in order.

    Raises:
        ValueError: not a tar file, damaged or cut short, with more behind its end, or a member that is a link, a pickle, absolute
            or climbs out by ``..``.
    """
    offset, long_name, long_size = 0, None, None
    while offset < size:
        block = read(BLOCK, offset)
        if len(block) == BLOCK and not block.strip(b"\0"):
            _check_end(read, offset + BLOCK, size, shard)
            return
        kind = _check(block, shard, offset)
        length = _number(block[124:136], shard, offset)
        if long_size is not None and kind not in b"xgLK":
            length = long_size
        if length < 0 or offset + BLOCK + length > size:
            raise _damaged(shard, f"its end is missing: {offset + BLOCK + length:,} bytes and more, but the file has {size:,}")
        if kind in (b"L", b"x"):
            if length > _MOST_NAME:
                raise _damaged(shard, f"a name of {length:,} bytes at byte {offset}")
            data = read(length, offset + BLOCK)
            if kind == b"L":
                long_name = _text(data.rstrip(b"\0"))
            else:
                long_name, long_size = _pax(data, shard, offset, long_name, long_size)
        elif kind not in (b"g", b"K"):
            name = long_name if long_name is not None else _name(block)
            _refuse(name, kind, shard)
            if kind in _REGULAR and not name.endswith("/"):
                yield _checked(Member(name, offset + BLOCK, length), read, shard)
            long_name = long_size = None
        offset += BLOCK + -(-length // BLOCK) * BLOCK
    if not size:
        raise _damaged(shard, "the file is empty")


def _check_end(read: Read, offset: int, size: int, shard: str) -> None:
    """ValueError where behind the end of the archive there is anything but zeros: its pictures would be lost without a word."""
    while offset < size:
        data = read(min(_LOOKED_AT, size - offset), offset)
        if data.strip(b"\0"):
            raise ValueError(
                f"{shard}: more follows behind the archive's end, as if tar files were joined by cat; unpack it (tar -xif), write it again"
            )
        if not data:
            return
        offset += len(data)


def _check(block: bytes, shard: str, offset: int) -> bytes:
    """The type of the header ``block``, once its checksum is found right."""
    if len(block) < BLOCK:
        raise _damaged(shard, f"its end is missing: {len(block)} of {BLOCK} bytes of the header at byte {offset}")
    rest = block[:148] + b"        " + block[156:]
    told = _number(block[148:156], shard, offset)
    total = zlib.adler32(rest) & 0xFFFF  # 1 and the sum of all bytes, modulo 65521: ten times as fast as a sum in Python
    if total != (told + 1) % 65521 and told != sum(rest) - 256 * sum(byte > 127 for byte in rest):  # old programs summed signed bytes
        raise _damaged(shard, f"no tar header at byte {offset}")
    return block[156:157]


def _number(field: bytes, shard: str, offset: int) -> int:
    if field[0] == 0x80:  # GNU: sizes from 8 GiB up in binary
        return int.from_bytes(field[1:], "big")
    text = field.split(b"\0", 1)[0].strip()
    try:
        return int(text or b"0", 8)
    except ValueError:
        raise _damaged(shard, f"no tar header at byte {offset}") from None


def _name(block: bytes) -> str:
    name = _text(block[:100].split(b"\0", 1)[0])
    if block[257:263] == b"ustar\0" and block[345]:
        return f"{_text(block[345:500].split(bytes(1), 1)[0])}/{name}"
    return name


def _pax(data: bytes, shard: str, offset: int, name: str | None, size: int | None) -> tuple[str | None, int | None]:
    """``path`` and ``size`` of the records ``length key=value``, over what is known."""
    while data.strip(b"\0"):
        length, _, _ = data.partition(b" ")
        if not length.isdigit() or not len(length) < int(length) <= len(data):
            raise _damaged(shard, f"bad pax records at byte {offset}")
        key, _, value = data[len(length) + 1 : int(length) - 1].partition(b"=")
        if key == b"path":
            name = _text(value)
        elif key == b"size" and value.isdigit():
            size = int(value)
        elif key.startswith(b"GNU.sparse"):
            raise ValueError(f"{shard}: the member at byte {offset} is stored with holes, which is refused; write the shard again without")
        data = data[int(length) :]
    return name, size


def _refuse(name: str, kind: bytes, shard: str) -> None:
    if kind in _LINKS:
        why = "a link"
    elif kind in _SPARSE:
        why = "stored with holes"
    elif name.startswith("/"):
        why = "an absolute path"
    elif ".." in name.split("/"):
        why = "a path that climbs out by '..'"
    elif name.lower().endswith(_PICKLES):
        why = "a pickle, which could run code"
    elif _HIDDEN.search(name):
        name, why = repr(name), "a name with control characters"
    else:
        return
    raise ValueError(f"{shard}: member {name} is {why}, which is refused; write the shard again without it")


def _checked(member: Member, read: Read, shard: str) -> Member:
    if member.name.lower().endswith(".npy"):
        layout = read(min(member.size, _NPY_HEADER), member.offset).partition(b"}")[0]
        if _OBJECTS.search(layout):
            raise ValueError(f"{shard}: member {member.name} holds a pickle (Python objects), which is refused; write it again without")
    return member


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _damaged(shard: str, what: str) -> ValueError:
    return ValueError(f"{shard} is not an uncompressed tar file, or is damaged ({what}); unpack it (gunzip) or write it again")
