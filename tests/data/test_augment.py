"""Promises of mae_vlm.data.augment."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from pictures_on_disk import write_folder

from mae_vlm.data.augment import Strengthen
from mae_vlm.data.module import Data

RECIPE = "rand-m9-mstd0.5-inc1"


@pytest.fixture
def photos(tmp_path):
    return write_folder(tmp_path / "photos", [f"{number}.png" for number in range(40)])


def pictures(photos, workers: int = 0, epoch: int = 0, resume: int | None = None, **options) -> dict[str, torch.Tensor]:
    data = Data(str(photos), val_fraction=0.2, batch_size=8, image_size=16, num_workers=workers, **options)
    if resume is not None:
        data.resume(epoch, resume)
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return {name: image for batch in loader for name, image in zip(batch.ids, batch.images_BCHW, strict=True)}


def test_the_same_pictures_come_again_in_workers_and_after_a_resume(photos):
    once, again = (pictures(photos, rand_augment=RECIPE, erase=0.5) for _ in range(2))
    for other in (again, pictures(photos, workers=2, rand_augment=RECIPE, erase=0.5)):
        assert all(torch.equal(once[name], other[name]) for name in once) and once.keys() == other.keys()
    later = pictures(photos, resume=2, rand_augment=RECIPE, erase=0.5)
    assert 0 < len(later) < len(once) and all(torch.equal(once[name], later[name]) for name in later)
    next_epoch = pictures(photos, epoch=1, rand_augment=RECIPE, erase=0.5)
    assert sum(torch.equal(once[name], next_epoch[name]) for name in set(once) & set(next_epoch)) < 3


def test_what_others_draw_changes_no_picture_and_no_picture_what_they_draw():
    strengthen, image = Strengthen(RECIPE, 1.0, (32, 32)), torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    first = strengthen(image, 7)
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        expected = random.Random(seed).random(), np.random.RandomState(seed).rand(), torch.Generator().manual_seed(seed)
        assert torch.equal(strengthen(image, 7), first)
        assert (random.random(), np.random.rand()) == expected[:2]
        assert torch.equal(torch.rand(3), torch.rand(3, generator=expected[2]))
    assert not torch.equal(strengthen(image, 8), first)


def test_an_erased_rectangle_is_noise_about_the_mean_and_all_else_stays():
    image = torch.full((3, 64, 64), 9, dtype=torch.uint8)
    mean, std = [0.5, 0.25, 0.75], [0.1, 0.1, 0.05]
    strengthen, shares, noise = Strengthen(None, 1.0, (64, 64), mean, std), [], []
    for key in range(200):
        changed_HW = (strengthen(image, key) != 9).any(0)
        rows, columns = changed_HW.any(1).nonzero(), changed_HW.any(0).nonzero()
        box = changed_HW[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert box.float().mean() > 0.95, "one rectangle"
        shares.append(box.numel() / 64**2)
        noise.append(strengthen(image, key)[:, changed_HW].float() / 255)
    assert min(shares) > 0.015 and max(shares) < 0.36 and np.mean(shares) == pytest.approx(0.17, abs=0.03)
    noise = torch.cat(noise, dim=1)
    torch.testing.assert_close(noise.mean(1), torch.tensor(mean), atol=0.01, rtol=0)
    torch.testing.assert_close(noise.std(1), torch.tensor(std), atol=0.01, rtol=0)
    assert (image == 9).all(), "the picture given is not written to"


def test_erase_is_the_share_of_pictures():
    strengthen, image = Strengthen(None, 0.25, (16, 16)), torch.zeros(3, 16, 16, dtype=torch.uint8)
    erased = sum(not torch.equal(strengthen(image, key), image) for key in range(400))
    assert 70 <= erased <= 130


def test_rand_augment_is_timms_own():
    from PIL import Image
    from timm.data import create_transform

    theirs = create_transform((32, 32), is_training=True, auto_augment=RECIPE, interpolation="bicubic").transforms
    theirs = next(one for one in theirs if type(one).__name__ == "RandAugment")
    ours = Strengthen(RECIPE, 0.0, (32, 32))._augment
    told = [[(op.name, op.prob, op.magnitude, op.hparams, op.kwargs) for op in one.ops] for one in (ours, theirs)]
    assert told[0] == told[1] and ours.num_layers == theirs.num_layers == 2
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    from mae_vlm.data.augment import _AUGMENT, drawing_from
    from mae_vlm.tokens.chance import key_of

    with drawing_from(key_of(5, _AUGMENT)):
        expected = np.array(theirs(Image.fromarray(image.permute(1, 2, 0).numpy())))
    assert np.array_equal(Strengthen(RECIPE, 0.0, (32, 32))(image, 5).permute(1, 2, 0).numpy(), expected)


def test_only_training_pictures_change_and_only_where_asked(photos):
    plain, strong = (
        Data(str(photos), val_fraction=0.2, image_size=16, num_workers=0, **more) for more in ({}, {"rand_augment": RECIPE, "erase": 1.0})
    )
    for left, right in zip(plain.val_dataloader(), strong.val_dataloader(), strict=True):
        assert torch.equal(left.images_BCHW, right.images_BCHW)
    left, right = next(iter(plain.train_dataloader())), next(iter(strong.train_dataloader()))
    assert left.ids == right.ids and not any(torch.equal(a, b) for a, b in zip(left.images_BCHW, right.images_BCHW, strict=True))


@pytest.mark.parametrize(
    "options, told",
    [
        ({"rand_augment": "rand-x3"}, "data.rand_augment 'rand-x3' is no recipe of timm's; write it as rand-m9-mstd0.5-inc1"),
        ({"rand_augment": "augmix-m5"}, "is no recipe of timm's"),
        ({"erase": 1.5}, "data.erase 1.5 is a share of the pictures"),
        ({"label_kind": "tags"}, "data.label_kind tags is unknown; use one of auto, class, classes, number"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        Data(**options)


@pytest.mark.parametrize("options", [{"rand_augment": RECIPE}, {"erase": 0.25}], ids=str)
@pytest.mark.parametrize(
    "more, wants, told",
    [
        ({"channels": 1}, (), "take 3 channels of 8 bits, these pictures have 1 of 8; leave them out"),
        ({"channels": 5}, (), "take 3 channels of 8 bits, these pictures have 5 of 8"),
        ({"bits": 16}, (), "take 3 channels of 8 bits, these pictures have 3 of 16"),
        ({}, ("boxes", "masks"), "would move pixels away from the boxes and masks that the model learns; leave them out"),
    ],
    ids=str,
)
def test_pictures_and_targets_that_they_would_spoil_are_refused(photos, options, more, wants, told):
    data = Data(str(photos), num_workers=0, **options, **more)
    data.wants = frozenset(wants)
    with pytest.raises(ValueError, match=told):
        data.setup("fit")
