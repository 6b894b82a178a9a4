"""Promises of mae_vlm.convert.parcel that need no run."""

from __future__ import annotations

import shutil

import pytest

from mae_vlm import storage
from mae_vlm.convert import native, parcel
from mae_vlm.manifest import measure


def test_a_checkpoint_in_pieces_is_handed_out_with_checksums_that_hold(tmp_path):
    target = tmp_path / "run" / "checkpoints" / "step_00000007.ckpt"
    part = storage.partial(target)
    storage.make_folder(part)
    for name in ("meta.pt", ".metadata", "__0_0.distcp"):
        (part / name).write_bytes(name.encode() * 100)
    storage.seal(part, target, {file.name: measure(file) for file in part.iterdir()}, 7)

    files = parcel._state(target, tmp_path / "made", 7)
    for name, file in files.items():
        (tmp_path / "there" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tmp_path / "there" / name)
    last = tmp_path / "there" / "checkpoints" / "last.ckpt"
    assert storage.damage(last) is None and storage.checkpoints(last.parent) == [last]
    assert native.newest_whole(tmp_path / "there") == last
    (last / "__0_0.distcp").write_bytes(b"other" * 240)
    assert "__0_0.distcp" in (storage.damage(last) or "")


def test_a_checkpoint_that_a_run_at_work_removes_meanwhile_is_no_failure(tmp_path, monkeypatch):
    older, newer = tmp_path / "1.ckpt", tmp_path / "2.ckpt"
    older.touch(), newer.touch()
    monkeypatch.setattr(native, "newest_whole", lambda run: newer if newer.exists() else older)

    def read(checkpoint):
        if checkpoint == newer:
            newer.unlink()
            raise FileNotFoundError(checkpoint)
        return checkpoint

    assert parcel._with_newest(tmp_path, read) == older
    with pytest.raises(FileNotFoundError):
        parcel._with_newest(tmp_path, lambda checkpoint: (_ for _ in ()).throw(FileNotFoundError("another file")))
