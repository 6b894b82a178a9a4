from __future__ import annotations

import pytest
import torch
from lightning import LightningModule, Trainer
from pictures_on_disk import SHARED, picture, write_folder, write_tar

from mae_vlm.callbacks.checkpoint import Checkpoint
from mae_vlm.data.module import Data


@pytest.fixture
def photos(tmp_path):
    return write_folder(tmp_path / "photos", [f"{number}.png" for number in range(60)])


def test_scenes_need_no_path_and_summary_tells_what_they_are():
    data = Data(scenes=40, val_scenes=12, num_workers=0)
    summary = data.inspect()
    assert (summary.format, summary.train, summary.val, summary.test) == ("scenes", 40, 12, 0)
    assert (summary.height, summary.width, summary.channels) == (64, 64, 3) and "star" in summary.classes
    batch = next(iter(data.train_dataloader()))
    assert batch.images_BCHW.shape == (8, 3, 64, 64) and batch.images_BCHW.dtype == torch.uint8
    assert batch.real_B.all() and len(batch.captions) == len(batch.ids) == 8 and (batch.labels_B >= 0).all()


def test_batches_do_not_depend_on_the_number_of_workers(photos):
    found = []
    for workers in (0, 2):
        data = Data(str(photos), batch_size=16, image_size=16, num_workers=workers)
        found.append([(batch.ids, batch.keys_B.tolist(), batch.images_BCHW) for batch in data.train_dataloader()])
    assert [pair[:2] for pair in found[0]] == [pair[:2] for pair in found[1]]
    assert all(torch.equal(one[2], other[2]) for one, other in zip(*found, strict=True))


def test_a_crop_is_the_same_in_a_repeated_epoch_and_another_in_the_next(photos):
    data = Data(str(photos), batch_size=16, image_size=16, num_workers=0)
    loader = data.train_dataloader()
    epochs = []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)
        epochs.append({name: image for batch in loader for name, image in zip(batch.ids, batch.images_BCHW, strict=True)})
    shared = set(epochs[0]) & set(epochs[1])
    assert all(torch.equal(epochs[0][name], epochs[2][name]) for name in epochs[0])
    assert sum(torch.equal(epochs[0][name], epochs[1][name]) for name in shared) < 3


def test_validation_has_the_same_keys_at_every_epoch_and_every_picture_once(photos):
    data = Data(str(photos), val_fraction=0.5, batch_size=4, image_size=(16, 24), num_workers=0)
    loader = data.val_dataloader()
    first = [batch.keys_B.tolist() for batch in loader]
    loader.sampler.set_epoch(7)
    assert [batch.keys_B.tolist() for batch in loader] == first
    assert sum(int(batch.real_B.sum()) for batch in loader) == data.inspect().val
    assert next(iter(loader)).images_BCHW.shape[1:] == (3, 16, 24)


def test_keys_of_a_picture_stay_when_pictures_are_added(photos):
    def keys():
        loader = Data(str(photos), val_fraction=0.5, image_size=16, num_workers=0).val_dataloader()
        return {name: key for batch in loader for name, key in zip(batch.ids, batch.keys_B.tolist(), strict=True)}

    before = keys()
    (photos / "000.png").write_bytes(picture(77))
    after = keys()
    assert all(after[name] == key for name, key in before.items())


def test_val_path_wins_over_the_own_split_and_that_over_the_fraction(tmp_path):
    write_folder(
        tmp_path, [*(f"a/train/{i}.png" for i in range(9)), "a/val/x.png", "a/test/y.png", "a/test/z.png", "b/1.png", "b/2.png", "b/3.png"]
    )
    own = Data(str(tmp_path / "a"), val_fraction=0.5).inspect()
    given = Data(str(tmp_path / "a"), val_path=str(tmp_path / "b")).inspect()
    assert (own.train, own.val, own.test) == (9, 1, 2) and "own val part" in own.split
    assert (given.train, given.val) == (9, 3)


def test_val_fraction_zero_means_no_validation(photos):
    data = Data(str(photos), val_fraction=0)
    assert data.inspect().val == 0 and data.val_dataloader() == []


def test_predict_goes_over_the_whole_collection_in_its_order(tmp_path):
    write_folder(tmp_path, ["train/a.png", "train/b.png", "train/c.png", "val/d.png"])
    loader = Data(str(tmp_path), image_size=16, num_workers=0).predict_dataloader()
    assert [name for batch in loader for name in batch.ids] == ["a.png", "b.png", "c.png", "d.png"]


def test_resume_goes_on_in_the_middle_of_an_epoch(photos):
    data = Data(str(photos), batch_size=8, image_size=16, num_workers=0)
    whole = [batch.ids for batch in data.train_dataloader()]
    again = Data(str(photos), batch_size=8, image_size=16, num_workers=0)
    again.resume(0, 3)
    assert [batch.ids for batch in again.train_dataloader()] == whole[3:]


def batches_of(path, workers=0, **options):
    data = Data(str(path), batch_size=12, val_fraction=0, image_size=16, num_workers=workers, **options)
    return list(data.train_dataloader())


BAD = {
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:700]),
    "empty": lambda file: file.write_bytes(b""),
    "wrong": lambda file: file.write_bytes(b"<html>not found</html>"),
    "vanished": lambda file: file.unlink(),
    "oversized": lambda file: file.write_bytes(oversized()),
}


def oversized():
    """A PNG header of 60,000 x 60,000 pixels."""
    import struct
    import zlib

    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


@pytest.mark.parametrize("bad", sorted(BAD))
def test_a_bad_picture_is_replaced_by_the_next_and_told_with_its_reason(photos, bad):
    whole = batches_of(photos)
    data = Data(str(photos), batch_size=12, val_fraction=0, image_size=16, num_workers=0)
    loader = data.train_dataloader()
    names = [data._opened()["train"].name(index) for index in range(60)]
    lost, substitute = names[7], names[8]
    BAD[bad](photos / lost)
    found = list(loader)
    assert [len(batch) for batch in found] == [12] * 5 and all(batch.real_B.all() for batch in found)
    expected = [substitute if name == lost else name for batch in whole for name in batch.ids]
    assert [name for batch in found for name in batch.ids] == expected
    told = [one for batch in found for one in batch.broken]
    assert [one.id for one in told] == [lost] and told[0].reason
    assert "\n" not in told[0].reason and not told[0].reason.startswith(lost)


def test_shards_are_shuffled_by_blocks_where_asked_for_and_as_a_whole_else(tmp_path):
    for shard in range(12):
        write_tar(tmp_path / f"{shard:02}.tar", {f"{number}.png": picture(shard) for number in range(10)})
    shards = {}
    for order in ("blocks", "auto"):
        data = Data(str(tmp_path), batch_size=40, val_fraction=0, image_size=16, num_workers=0, order=order)
        batches = [batch.ids for batch in data.train_dataloader()]
        assert len({name for ids in batches for name in ids}) == 120
        shards[order] = [len({name.partition("/")[0] for name in ids}) for ids in batches]
    assert shards["blocks"] == [4, 4, 4] and min(shards["auto"]) > 4


def test_every_worker_takes_the_same_substitute_and_tells_it_each_time(photos):
    for number in (3, 4, 17, 30):
        (photos / f"{number}.png").write_bytes(b"")
    told = []
    for workers in (0, 2):
        data = Data(str(photos), batch_size=12, val_fraction=0, image_size=16, num_workers=workers)
        loader = data.train_dataloader()
        told.append([(batch.ids, sorted(batch.broken)) for _ in range(2) for batch in loader])
    for epochs in told:
        assert {one.id for _, broken in epochs for one in broken} == {f"{number}.png" for number in (3, 4, 17, 30)}
        assert {one.id for _, broken in epochs[5:] for one in broken} == {f"{number}.png" for number in (3, 4, 17, 30)}
    assert [ids for ids, _ in told[0]] == [ids for ids, _ in told[1]]


def test_a_broken_file_is_not_read_again(photos, monkeypatch):
    (photos / "7.png").write_bytes(b"broken")
    data = Data(str(photos), batch_size=12, val_fraction=0, image_size=16, num_workers=0)
    loader, read = data.train_dataloader(), []
    source = type(data._opened()["train"])
    original = source.__getitem__
    monkeypatch.setattr(source, "__getitem__", lambda self, index: (read.append(self.name(index)), original(self, index))[1])
    for _ in range(3):
        list(loader)
    assert read.count("7.png") == 1


def test_a_substitute_does_not_count_in_validation(photos):
    data = Data(str(photos), val_fraction=0.5, batch_size=4, image_size=16, num_workers=0)
    count, loader = data.inspect().val, data.val_dataloader()
    lost = data._opened()["val"].name(3)
    (photos / lost).unlink()
    batches = list(loader)
    counted = [name for batch in batches for name, real in zip(batch.ids, batch.real_B.tolist(), strict=True) if real]
    assert len(counted) == len(set(counted)) == count - 1 and lost not in counted


def test_more_broken_pictures_than_may_be_leave_the_loader_alive(photos):
    for number in range(40):
        (photos / f"{number}.png").write_bytes(b"")
    assert [len(batch) for batch in batches_of(photos)] == [12] * 5


def test_a_disk_that_vanishes_does_not_keep_the_loader_searching(photos):
    loader = Data(str(photos), batch_size=12, val_fraction=0, image_size=16, num_workers=0).train_dataloader()
    batches = iter(loader)
    next(batches)
    for file in photos.iterdir():
        file.unlink()
    second = next(batches)
    assert len(second) == 12 and 11 <= len(second.broken) < 59, "what may be broken and one more, not all that there is"


def test_a_collection_without_a_readable_picture_is_refused(photos):
    data = Data(str(photos), batch_size=12, val_fraction=0, image_size=16, channels=3, num_workers=0)
    loader = data.train_dataloader()
    for file in photos.iterdir():
        file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of the 60 pictures can be read; the last: \d+\.png: "):
        next(iter(loader))


def test_grey_collections_have_one_channel_unless_told(tmp_path):
    import io

    from PIL import Image

    for number in range(12):
        buffer = io.BytesIO()
        Image.new("L", (20, 28), number).save(buffer, "PNG")
        (tmp_path / f"{number}.png").write_bytes(buffer.getvalue())
    data = Data(str(tmp_path), num_workers=0)
    assert data.inspect().channels == 1 and data.size == (28, 20)
    assert next(iter(data.train_dataloader())).images_BCHW.shape[1:] == (1, 28, 20)
    assert next(iter(Data(str(tmp_path), channels=3, num_workers=0).train_dataloader())).images_BCHW.shape[1:] == (3, 28, 20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "zip"}, r"data\.format zip is unknown"),
        ({"format": "tar", "mixture": [{"path": "A"}]}, r"data\.format tar beside data\.mixture"),
        ({"path": "A", "mixture": [{"path": "A"}]}, r"data\.path A and data\.mixture are both set"),
        ({"format": "tar"}, r"data\.format tar needs pictures; set data\.path"),
        ({"image_size": 0}, r"data\.image_size 0 must be positive"),
        ({"channels": 0}, r"data\.channels 0 must be at least 1"),
        ({"order": "random"}, r"data\.order random is unknown; use one of auto, full, blocks"),
        ({"max_broken": 2}, r"data\.max_broken 2 must be a share of the pictures from 0 to 1"),
        ({"val_fraction": 1.0}, r"data\.val_fraction 1.0 must be at least 0 and less than 1"),
        ({"batch_size": 0}, r"data\.batch_size 0 must be at least 1"),
        ({"num_workers": -1}, r"data\.num_workers -1 must be at least 0"),
        ({"crop_scale": (0.0, 1.0)}, r"crop_scale"),
        ({"flip": 2.0}, r"flip 2.0 is a probability"),
    ],
)
def test_options_that_never_fit_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        Data(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": [0.5]}, r"data\.mean \[0.5\] has 1 numbers for 3 channels"),
        ({"std": [0.5, 0.5, 0.0]}, r"data\.std .* must be positive"),
        ({"order": "blocks"}, r"data\.order blocks needs shards, or tables .* which .*photos is not; set data\.order full"),
        ({"batch_size": 1000}, r"batch_size 1000 is more than the \d+ pictures to train on; set data\.batch_size to at most"),
    ],
)
def test_options_that_do_not_fit_the_collection_are_refused_at_setup(photos, options, message):
    with pytest.raises(ValueError, match=message):
        Data(str(photos), **options).setup("fit")


class Counting(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight, self.trained, self.validated = torch.nn.Parameter(torch.zeros(())), [], []

    def training_step(self, batch, _):
        self.trained.append((self.current_epoch, tuple(batch.ids)))
        return self.weight * batch.images_BCHW.float().mean()

    def validation_step(self, batch, _):
        self.validated += [name for name, real in zip(batch.ids, batch.real_B, strict=True) if real]

    def predict_step(self, batch, _):
        return batch.ids

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_lightning_shuffles_every_epoch_and_accumulates_the_same_pictures(photos):
    runs = []
    for accumulation in (1, 2):
        data = Data(str(photos), batch_size=8, image_size=16, num_workers=0, val_fraction=0.2)
        options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = Trainer(max_epochs=2, accelerator="cpu", accumulate_grad_batches=accumulation, use_distributed_sampler=False, **options)
        trainer.fit(model := Counting(), data)
        steps = [model.trained[i : i + accumulation] for i in range(0, len(model.trained), accumulation)]
        runs.append([sorted(name for _, ids in step for name in ids) for step in steps])
        assert len(set(model.validated)) == data.inspect().val
    assert runs[0] == runs[1]
    half = len(runs[0]) // 2
    assert runs[0][:half] != runs[0][half:]
    predicted = trainer.predict(model, data)
    assert sorted(name for ids in predicted for name in ids) == sorted(f"{number}.png" for number in range(60))


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("step", [1, 7])
def test_a_checkpoint_goes_on_with_another_accumulation_where_the_first_had_stopped(photos, tmp_path, accumulation, step):
    """60 pictures, 5 steps an epoch: two epochs draw each twice, whatever the step of the interruption."""
    ids = []
    for turn, (steps, parts) in enumerate([(step, 2), (10, accumulation)]):
        checkpoint = Checkpoint()
        checkpoint.folder = tmp_path / f"{turn}"
        options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "use_distributed_sampler": False}
        trainer = Trainer(max_steps=steps, accelerator="cpu", accumulate_grad_batches=parts, callbacks=[checkpoint], **options)
        data = Data(str(photos), batch_size=12, image_size=16, num_workers=0, val_fraction=0)
        trainer.fit(model := Counting(), data, ckpt_path=tmp_path / "0" / "checkpoints" / "last.ckpt" if turn else None, weights_only=True)
        ids += [name for _, batch in model.trained for name in batch]
        assert trainer.global_step == steps
    assert len(ids) == 120 and set(ids[:60]) == set(ids[60:]) and len(set(ids)) == 60


def test_a_run_of_shortened_epochs_goes_on_where_it_stopped(photos, tmp_path):
    """With limit_train_batches an epoch is a part of the order: the next one draws on, also after a checkpoint."""
    ids = {}
    for name, lengths in {"whole": [7], "cut": [4, 7]}.items():
        ids[name] = []
        for turn, steps in enumerate(lengths):
            checkpoint = Checkpoint()
            checkpoint.folder = tmp_path / f"{name}{turn}"
            options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "use_distributed_sampler": False}
            trainer = Trainer(max_steps=steps, accelerator="cpu", limit_train_batches=3, callbacks=[checkpoint], **options)
            data = Data(str(photos), batch_size=12, image_size=16, num_workers=0, val_fraction=0)
            last = tmp_path / f"{name}0" / "checkpoints" / "last.ckpt"
            trainer.fit(model := Counting(), data, ckpt_path=last if turn else None, weights_only=True)
            ids[name] += [one for _, batch in model.trained for one in batch]
    assert ids["cut"] == ids["whole"] and len(ids["whole"]) == 84


def test_a_file_of_annotations_cannot_serve_two_collections(tmp_path):
    write_folder(tmp_path, ["a/x.png", "b/y.png"])
    with pytest.raises(ValueError, match=r"one file for two collections, path and val_path"):
        Data(str(tmp_path / "a"), annotations=str(tmp_path / "a.json"), val_path=str(tmp_path / "b")).inspect()


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data sets are not beside this checkout")
def test_cifar_comes_as_it_is_told():
    data = Data(str(SHARED / "cifar10"), num_workers=0)
    summary = data.inspect()
    assert (summary.train, summary.val, summary.height, summary.width, summary.channels) == (18_000, 3_000, 32, 32, 3)
    batch = next(iter(data.train_dataloader()))
    assert batch.images_BCHW.shape == (256, 3, 32, 32) and set(batch.labels_B.tolist()) <= set(range(10))
