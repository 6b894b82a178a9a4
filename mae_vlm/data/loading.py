"""A loader over a reader: one item of the order is one batch, prepared in worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from mae_vlm.data.augment import Strengthen
from mae_vlm.data.cache import PixelCache
from mae_vlm.data.fingerprint import difference, fingerprint
from mae_vlm.data.mixture import Mixture
from mae_vlm.data.reader import Reader, most_broken, start_worker
from mae_vlm.data.sampler import Blocks, Endless, Full, Order, Shuffle
from mae_vlm.data.sources.base import Joined, Source
from mae_vlm.data.summary import automatic_workers
from mae_vlm.data.targets import wanted
from mae_vlm.data.transforms import Transform
from mae_vlm.tokens.chance import key_of
from mae_vlm.types import Batch

if TYPE_CHECKING:
    from mae_vlm.data.module import Data

_READ_AHEAD = 2**30  # bytes of batches waiting in shared memory, at most


def part_loader(data: Data, part: str, source: Source, transform: Transform, order: Order) -> DataLoader[Batch]:
    """Batches of ``order`` from a part of the collection, each picture brought to its size by ``transform``, as the options say."""
    summary = data.inspect()
    shape, bits = (data.channels or summary.channels, summary.height, summary.width), data.bits or summary.bits
    cache = None if "partner" in summary.known else PixelCache.of(len(source), shape, bits)  # it has room for one picture of a sample
    training = part == "train"
    patience, wants = most_broken(len(source), data.max_broken), wanted(data.wants, summary.known)
    reader = Reader(source, transform, data.seed, shape[0], cache, patience, training, bits, data.value_range, wants)
    reader.second = data.second
    if training and (data.rand_augment or data.erase):
        reader.augment = Strengthen(data.rand_augment, data.erase, data.size, data.mean, data.std)
    workers = automatic_workers(order.world) if data.num_workers is None else data.num_workers
    return loader(reader, order, workers, shape[0] * data.size[0] * data.size[1] * bits // 8)


def loader(reader: Reader, order: Order, workers: int, picture_bytes: int) -> DataLoader[Batch]:
    """Batches of ``order`` read by ``workers`` processes (0: by this one); a prepared picture takes ``picture_bytes``."""
    # batch_size None: an item of the sampler is a whole batch, and Lightning finds set_epoch on loader.sampler
    return DataLoader(
        reader,
        batch_size=None,
        sampler=order,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # its own: a draw from torch's common one, at each start, would not be repeated by a resumed run
        prefetch_factor=_batches_ahead(workers, order, picture_bytes) if workers else None,
    )


def _batches_ahead(workers: int, order: Order, picture_bytes: int) -> int:
    """Batches that each worker prepares ahead: up to 4, fewer where they are large."""
    size = order.batch_size // (order.world * order.accumulation) * picture_bytes
    return max(1, min(4, _READ_AHEAD // (workers * size)))


def _as_it_is(batch: Any) -> Any:
    return batch


def training_shuffle(train: Source, order: str, seed: int, weights: Sequence[float] = (), batch_size: int = 1) -> Shuffle:
    """How the training pictures are shuffled: ``order`` is full, blocks or auto, ``weights`` are those of a mixture's joined sources.

    An epoch is as many whole batches as its pictures fill; what is left over begins the next: nothing is dropped.
    """
    if weights:
        assert isinstance(train, Joined), "a mixture is joined"
        parts = [_pass(part, order, key_of(seed, number)) for number, part in enumerate(train.parts)]
        return Mixture(parts, weights, len(train) // batch_size * batch_size or len(train))
    return Endless(_pass(train, order, seed), batch_size)


def _pass(train: Source, order: str, seed: int) -> Shuffle:
    return Full(len(train), seed) if _ends(train, order) is None else Blocks(_ends(train, order), seed)


def _ends(train: Source, order: str) -> Any:
    """Where the blocks end that a pass is shuffled by; None where it is shuffled as a whole."""
    return train.block_ends if order == "blocks" or (order == "auto" and train.prefers_blocks) else None


def order_in_words(train: Source, order: str, seed: int, weights: Sequence[float] = ()) -> str:
    """All that decides the order beside the number of pictures: two runs that say the same draw the same."""
    kinds = []
    for part in train.parts if weights and isinstance(train, Joined) else [train]:
        ends = _ends(part, order)
        digest = "" if ends is None else blake2b(np.ascontiguousarray(ends, np.int64).tobytes(), digest_size=4).hexdigest()
        kinds.append("full" if ends is None else f"blocks {len(ends)}-{digest}")
    told = ":".join(f"{weight:g}" for weight in weights)
    return f"{' and '.join(kinds)}, seed {seed}{', weights ' if told else ''}{told}"


def collection_state(sources: dict[str, Source], order: str, seed: int, weights: Sequence[float]) -> dict[str, Any]:
    """What collection is trained on and validated with, in what order: what :func:`check_same` compares."""
    prints = {part: fingerprint(sources[part]) for part in ("train", "val") if part in sources}
    return {"collection": prints, "order": order_in_words(sources["train"], order, seed, weights)}


def check_same(then: dict[str, Any], now: dict[str, Any], allow: bool) -> str:
    """What a checkpoint's state (``then``) says of collection and order that is otherwise ``now``, in one line; empty where nothing is.

    Raises:
        ValueError: something is, and may not be.
    """
    told = [f"data.order is {now['order']}, it was {then['order']}"] if then.get("order", now["order"]) != now["order"] else []
    before, after = then.get("collection", now["collection"]), now["collection"]
    none: dict[str, Any] = {"count": 0, "digest": "", "blocks": {}}
    for part in sorted({*before, *after}):
        changed = difference(before.get(part, none), after.get(part, none))
        told += [f"{part} has {changed}"] if changed else []
    if told and not allow:
        raise ValueError(
            f"the collection has changed since the checkpoint: {'; '.join(told)}; bring it back, or set data.allow_changes true to go on"
        )
    return "; ".join(told)
