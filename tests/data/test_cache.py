from __future__ import annotations

import multiprocessing
import pickle

import torch
from pictures_on_disk import write_folder

from mae_vlm.data.cache import PixelCache
from mae_vlm.data.reader import Reader
from mae_vlm.data.sampler import Draw
from mae_vlm.data.sources.image_folder import ImageFolder
from mae_vlm.data.transforms import Augment
from mae_vlm.encoders.vit import Vit


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


def test_sixteen_bits_take_twice_the_room_and_come_back():
    cache = pickle.loads(pickle.dumps(PixelCache(3, (2, 4, 4), 16)))
    picture = torch.arange(32, dtype=torch.int32).mul(2000).to(torch.uint16).view(2, 4, 4)
    cache.put(1, picture)
    assert torch.equal(cache.get(1), picture) and cache.get(1).dtype == torch.uint16
    assert PixelCache.fits(1 << 20, (1, 16, 16)) and not PixelCache.fits(1 << 20, (1, 16, 16), 16)


def test_a_reader_gives_the_same_batch_with_the_cache_and_without(tmp_path):
    source = ImageFolder(write_folder(tmp_path, [f"{i}.png" for i in range(4)]))
    draws = [Draw(i, 2, True) for i in (3, 0, 2)]
    plain = Reader(source, Augment((8, 8)), 1, 3)[draws]
    reader = Reader(source, Augment((8, 8)), 1, 3, PixelCache(4, (3, 20, 24)))
    for batch in (reader[draws], reader[draws]):
        assert torch.equal(batch.images_BCHW, plain.images_BCHW) and torch.equal(batch.keys_B, plain.keys_B)


def test_sixteen_bit_batches_can_be_sliced_and_moved_and_normalised(tmp_path):
    source = ImageFolder(write_folder(tmp_path, ["a.png", "b.png"]))
    batch = Reader(source, Augment((8, 8)), 1, 3, bits=16)[[Draw(0, 0, True), Draw(1, 0, True)]]
    assert batch.images_BCHW.dtype == torch.uint16 and batch.images_BCHW.shape == (2, 3, 8, 8)
    same = Reader(source, Augment((8, 8)), 1, 3)[[Draw(0, 0, True), Draw(1, 0, True)]]
    vit = Vit(width=16, depth=1, heads=1, patch=4, image_size=8)
    deep, flat = (vit.normalise(one[:1].to("cpu").images_BCHW) for one in (batch, same))
    assert deep.shape == (1, 3, 8, 8) and (deep - flat).abs().max() < 3 / 255 / 0.2
