"""What a collection held when a checkpoint was made: counts and digests of names, fine enough to tell what has changed since."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mae_vlm.data.sources.base import Source

MOST = 4096  # blocks told apart
_SHOWN = 5
# Where a name is cut, and from which end: its folder; its first folder or shard; the table that it is a row of.
_CUTS = ((b"/", True), (b"/", False), (b":", True))


def fingerprint(source: Source) -> dict[str, Any]:
    """``{"count", "digest", "blocks": {name: [count, digest]}}`` of all names, their order included; about a second for a million.

    Blocks are the folders of the names where there are at most 4096, else their first folders (the shards of a tar collection), or the
    tables that rows are numbered in. Contents and labels are not looked at.
    """
    names = source.names()
    names = pa.concat_arrays(names.chunks) if isinstance(names, pa.ChunkedArray) else names
    names = names.cast(pa.large_binary())
    blocks = {name: [len(part), _digest(part)] for name, part in _blocks(names).items()}
    return {"count": len(names), "digest": _digest(names), "blocks": blocks}


def difference(then: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs between two fingerprints, in words; empty where nothing does."""
    if then["digest"] == now["digest"]:
        return ""
    before, after = then["blocks"], now["blocks"]
    found = [_change(name, before.get(name), after.get(name)) for name in sorted({*before, *after})]
    told = [change for change in found if change]
    if len(before) == len(after) == 1 or not told:
        told = [] if then["count"] != now["count"] else ["other names, or another order"]
    more = f", and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
    details = f" ({', '.join(told[:_SHOWN])}{more})" if told else ""
    return f"{now['count']:,} pictures, {then['count']:,} in the checkpoint{details}"


def _change(name: str, before: list[Any] | None, after: list[Any] | None) -> str:
    name = name or "pictures without a folder"
    if before is None or after is None:
        count = (before or after or [0])[0]
        return f"{name} is {'new' if before is None else 'gone'}: {count:,}"
    if before[0] != after[0]:
        return f"{name}: {before[0]:,} -> {after[0]:,}"
    return "" if before[1] == after[1] else f"{name} has other names, or another order"


def _blocks(names: Any) -> dict[str, Any]:
    """The names by block, each in the order of the collection."""
    for mark, last in _CUTS:
        pieces = pc.split_pattern(names, mark, max_splits=1, reverse=last)
        whole = pc.equal(pc.list_value_length(pieces), 1)
        coded = pc.if_else(whole, pa.scalar(b"", pa.large_binary()), pc.list_element(pieces, 0)).dictionary_encode()
        if len(coded.dictionary) <= MOST and coded.dictionary.to_pylist() != [b""]:
            break
    else:
        return {"": names}
    codes = coded.indices.to_numpy(zero_copy_only=False)
    if (np.diff(codes) < 0).any():
        order = np.argsort(codes, kind="stable")
        names, codes = names.take(pa.array(order)), codes[order]
    begins = np.searchsorted(codes, np.arange(len(coded.dictionary) + 1))
    titles = [name.decode("utf-8", "replace") for name in coded.dictionary.to_pylist()]
    return {title: names[begin:end] for title, begin, end in zip(titles, begins[:-1].tolist(), begins[1:].tolist(), strict=True)}


def _digest(names: Any) -> str:
    """16 hexadecimal digits of a ``large_binary`` array, whose names' ends are digested too: "ab", "c" is not "a", "bc"."""
    _, ends, data = names.buffers()
    marks = np.frombuffer(ends, np.int64)[names.offset : names.offset + len(names) + 1]
    state = blake2b(np.ascontiguousarray(marks - marks[0]).tobytes(), digest_size=8)
    state.update(memoryview(data)[int(marks[0]) : int(marks[-1])] if data is not None else b"")
    return state.hexdigest()
