"""A loader over a reader: one item of the order is one batch, prepared in worker processes."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader

from mae_vlm.data.reader import Reader, one_thread
from mae_vlm.data.sampler import Order
from mae_vlm.types import Batch

_READ_AHEAD = 2**30  # bytes of batches waiting in shared memory, at most


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
        worker_init_fn=one_thread,
        prefetch_factor=_batches_ahead(workers, order, picture_bytes) if workers else None,
    )


def _batches_ahead(workers: int, order: Order, picture_bytes: int) -> int:
    """Batches that each worker prepares ahead: up to 4, fewer where they are large."""
    size = order.batch_size // (order.world * order.accumulation) * picture_bytes
    return max(1, min(4, _READ_AHEAD // (workers * size)))


def _as_it_is(batch: Any) -> Any:
    return batch
