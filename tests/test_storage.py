"""Files that survive kills, full disks and flipped bits. The faults are real ones."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mae_vlm import storage
from mae_vlm.convert import native

WRITES_FOREVER = """
import sys, time
from pathlib import Path
from mae_vlm import storage
def slowly(file):
    for turn in range(10_000):
        file.write(b"new " * 1000)
        if turn == 100:
            print("half written", flush=True)
        time.sleep(0.001)
storage.write_whole(Path(sys.argv[1]), slowly, step=2)
"""
ON_A_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from mae_vlm import storage
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails as it does on a full disk, instead of ending the process
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    storage.write_whole(Path(sys.argv[1]), lambda file: file.write(b"new " * 100_000), step=2)
except OSError as problem:
    print(f"refused: {problem.strerror}")
"""


def wrote(file: Path, data: bytes = b"whole", step: int = 1) -> Path:
    storage.write_whole(file, lambda opened: opened.write(data), step)
    return file


def saved(folder: Path, step: int) -> Path:
    content = {"global_step": step, "weights": torch.full((1000,), float(step))}
    file = folder / "checkpoints" / f"step_{step:08d}.ckpt"
    storage.write_whole(file, lambda opened: torch.save(content, opened), step)
    return file


def test_what_torch_writes_has_the_checksum_of_the_file(tmp_path):
    file = saved(tmp_path, 7)
    (entry,) = storage.entries(file.parent)[file.name]
    assert entry.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (entry.bytes, entry.step) == (file.stat().st_size, 7)
    assert torch.load(file, weights_only=True)["global_step"] == 7
    assert storage.damage(file) is None


def test_a_kill_while_writing_leaves_the_old_file_whole(tmp_path):
    file = wrote(tmp_path / "last.ckpt", b"old")
    process = subprocess.Popen([sys.executable, "-c", WRITES_FOREVER, str(file)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "half written\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert file.read_bytes() == b"old" and storage.damage(file) is None
    assert (tmp_path / "last.ckpt.partial").exists()  # what was killed could not clean up; the next write does
    wrote(file, b"new")
    assert not (tmp_path / "last.ckpt.partial").exists() and storage.damage(file) is None


def test_a_full_disk_leaves_the_old_file_whole_and_no_part(tmp_path):
    file = wrote(tmp_path / "last.ckpt", b"old")
    process = subprocess.run([sys.executable, "-c", ON_A_FULL_DISK, str(file)], capture_output=True, text=True)
    assert process.stdout.startswith("refused: "), process
    assert file.read_bytes() == b"old" and storage.damage(file) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "manifest.json"]


def test_between_checksum_and_rename_both_files_pass(tmp_path, monkeypatch):
    """A kill there must condemn neither: the manifest knows the old checksum and the new one."""
    file = wrote(tmp_path / "last.ckpt", b"old")
    with monkeypatch.context() as patch:
        rename = Path.replace

        def dies(self, target):
            if Path(target).name == "last.ckpt":
                raise OSError("killed here")
            return rename(self, target)

        patch.setattr(Path, "replace", dies)
        with pytest.raises(OSError, match="killed here"):
            wrote(file, b"newer")
    assert storage.damage(file) is None
    file.write_bytes(b"newer")
    assert storage.damage(file) is None
    file.write_bytes(b"newed")
    assert "checksum" in str(storage.damage(file))


@pytest.mark.parametrize("harm", ["flip", "cut", "empty"])
def test_the_newest_whole_checkpoint_is_found_and_the_damaged_one_named(tmp_path, harm):
    older, newer = saved(tmp_path, 100), saved(tmp_path, 200)
    data = bytearray(newer.read_bytes())
    data[len(data) // 2] ^= 1
    newer.write_bytes({"flip": bytes(data), "cut": newer.read_bytes()[:-100], "empty": b""}[harm])
    with pytest.warns(RuntimeWarning, match=r"damaged checkpoint .*step_00000200\.ckpt: it"):
        assert native.find_checkpoint(tmp_path) == older
    with pytest.raises(ValueError, match=r"step_00000200\.ckpt is damaged: .*; give another"):
        native.find_checkpoint(newer)


def test_newest_goes_by_step_and_not_by_the_clock(tmp_path):
    newer, older = saved(tmp_path, 30), saved(tmp_path, 5)
    os.utime(newer, (1, 1))
    assert storage.checkpoints(tmp_path / "checkpoints") == [newer, older]


def test_a_link_names_a_whole_file_at_every_moment(tmp_path):
    first, second = wrote(tmp_path / "a", b"1"), wrote(tmp_path / "b", b"2", 2)
    link = tmp_path / "last.ckpt"
    storage.point(link, first)
    storage.point(link, second)
    assert link.read_bytes() == b"2" and str(link.readlink()) == "b"  # relative: the folder may be moved
    assert storage.damage(link) is None


def test_a_removed_file_is_forgotten(tmp_path):
    file = wrote(tmp_path / "a")
    storage.remove(file)
    assert not file.exists() and storage.entries(tmp_path) == {}


@pytest.mark.parametrize("harm", ["damaged", "missing", "does not name it"])
def test_a_lost_manifest_condemns_nothing_and_says_that_nothing_is_checked(tmp_path, harm):
    file = saved(tmp_path, 3)
    manifest = file.parent / storage.MANIFEST
    if harm == "missing":
        manifest.unlink()
    else:
        manifest.write_bytes(manifest.read_bytes()[:-20] if harm == "damaged" else b'{"files": {}}')
    assert storage.damage(file) is None
    for named in (tmp_path, file):
        with pytest.warns(RuntimeWarning, match=f"its checksums are lost .manifest.json .*{harm}.*it is not checked") as told:
            assert native.find_checkpoint(named) == file
        assert len(told) == 1 and "\n" not in str(told[0].message)


def test_a_checkpoint_with_its_checksum_is_taken_without_a_word(tmp_path, recwarn):
    file = saved(tmp_path, 3)
    assert native.find_checkpoint(tmp_path) == native.find_checkpoint(file) == file and not recwarn.list


def test_a_damaged_manifest_is_begun_anew_with_a_warning(tmp_path):
    older = saved(tmp_path, 3)
    (older.parent / storage.MANIFEST).write_text("{not json")
    with pytest.warns(RuntimeWarning, match="manifest.json is damaged; it is begun anew, .* are not checked"):
        newer = saved(tmp_path, 4)
    assert set(storage.entries(newer.parent)) == {newer.name}
    assert storage.unchecked(newer) is None and storage.unchecked(older) is not None


def test_a_manifest_that_cannot_be_read_for_now_is_not_forgotten(tmp_path):
    older = saved(tmp_path, 3)
    manifest = older.parent / storage.MANIFEST
    known = manifest.rename(tmp_path / "aside")
    manifest.mkdir()  # reading it is refused by the system, also to root
    with pytest.raises(OSError, match=r"manifest\.json"):
        saved(tmp_path, 4)
    assert [file.name for file in older.parent.glob("step_*")] == [older.name]
    manifest.rmdir()
    known.rename(manifest)
    newer = saved(tmp_path, 4)
    assert set(storage.entries(newer.parent)) == {older.name, newer.name}


def sealed(folder: Path, data: bytes) -> Path:
    """A checkpoint in pieces of step 8."""
    target = folder / "checkpoints" / "step_00000008.ckpt"
    part = storage.partial(target)
    storage.make_folder(part)
    (part / "meta.pt").write_bytes(data)
    storage.seal(part, target, {"meta.pt": storage.measure(part / "meta.pt")}, 8)
    return target


def fails_to_rename(monkeypatch, problem: type[BaseException]) -> None:
    rename = Path.replace

    def dies(self, target):
        if self.name == "step_00000008.ckpt.partial":
            raise problem("here")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", dies)


@pytest.mark.parametrize("new_is_whole", [True, False])
@pytest.mark.parametrize("named", ["run", "file"])
def test_a_kill_between_the_two_renames_of_a_folder_costs_no_checkpoint(tmp_path, monkeypatch, new_is_whole, named):
    target = sealed(tmp_path, b"old")
    with monkeypatch.context() as patch:
        fails_to_rename(patch, KeyboardInterrupt)  # nothing is put right after it, as after a kill
        with pytest.raises(KeyboardInterrupt):
            sealed(tmp_path, b"new")
    assert not target.exists()
    if not new_is_whole:
        (storage.partial(target) / "meta.pt").write_bytes(b"cut")
    assert native.find_checkpoint(tmp_path if named == "run" else target) == target
    assert (target / "meta.pt").read_bytes() == (b"new" if new_is_whole else b"old") and storage.damage(target) is None


def test_a_refused_rename_of_a_folder_leaves_the_old_one_under_its_name(tmp_path, monkeypatch):
    target = sealed(tmp_path, b"old")
    with monkeypatch.context() as patch:
        fails_to_rename(patch, OSError)
        with pytest.raises(OSError, match="here"):
            sealed(tmp_path, b"new")
    assert (target / "meta.pt").read_bytes() == b"old" and storage.damage(target) is None


def test_a_folder_whose_removal_was_killed_does_not_come_back(tmp_path, monkeypatch):
    target = sealed(tmp_path, b"old")

    def dies(place):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", dies)
        with pytest.raises(KeyboardInterrupt):
            storage.remove(target)
    assert storage.checkpoints(target.parent) == []
    assert [file.name for file in target.parent.glob("*.partial")] == ["step_00000008.ckpt.gone.partial"]  # which the next start discards


def test_a_file_that_no_manifest_knows_must_at_least_open(tmp_path):
    file = saved(tmp_path, 3)
    (file.parent / "step_00000009.ckpt").write_bytes(b"nonsense")
    with pytest.warns(RuntimeWarning, match="cannot be read as plain tensors"):
        assert native.find_checkpoint(tmp_path) == file
