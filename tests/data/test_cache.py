from __future__ import annotations

import multiprocessing
import pickle

import torch

from mae_vlm.data.cache import PixelCache


def test_gives_back_what_was_put_and_nothing_else():
    cache = PixelCache(4, (3, 5, 7))
    picture = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    cache.put(2, picture)
    cache.put(1, picture[:, :4])
    assert torch.equal(cache.get(2), picture) and cache.get(1) is None and cache.get(0) is None


def test_what_a_forked_worker_puts_is_there_for_all():
    cache = PixelCache(4, (1, 2, 2))
    worker = multiprocessing.get_context("fork").Process(target=cache.put, args=(3, torch.full((1, 2, 2), 9, dtype=torch.uint8)))
    worker.start()
    worker.join()
    assert cache.get(3).tolist() == [[[9, 9], [9, 9]]]


def test_a_pickled_cache_is_empty_and_small():
    cache = PixelCache(1000, (3, 32, 32))
    cache.put(0, torch.zeros(3, 32, 32, dtype=torch.uint8))
    data = pickle.dumps(cache)
    assert len(data) < 200 and pickle.loads(data).get(0) is None
