"""Two index calls on one folder: the second is told, and a killed one keeps nobody out."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal

import pytest

from mae_vlm.index import lock
from mae_vlm.index.lock import LOCK, alone
from mae_vlm.index.stored import Place

_new = multiprocessing.get_context("fork")


def hold(folder, pipe):
    with alone(folder, print):
        pipe.send(os.getpid())
        pipe.recv()


@pytest.fixture
def holder(tmp_path):
    """Another process that writes in ``tmp_path / "index"``."""
    here, there = _new.Pipe()
    process = _new.Process(target=hold, args=(tmp_path / "index", there), daemon=True)
    process.start()
    assert here.poll(60) and here.recv() == process.pid
    yield process, here
    process.kill()
    process.join()


def test_a_second_call_is_told_who_writes_there(tmp_path, holder):
    process, _ = holder
    with pytest.raises(ValueError, match=rf"being written by process {process.pid} on .*; wait until it is done, or name another --out"):
        alone(tmp_path / "index", print).__enter__()


@pytest.mark.parametrize("end", ["done", "killed"])
def test_who_is_done_or_killed_keeps_nobody_out(tmp_path, holder, end):
    process, pipe = holder
    if end == "done":
        pipe.send("done")
    else:
        os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    with alone(tmp_path / "index", print):
        assert f"process {os.getpid()} on " in (tmp_path / "index" / LOCK).read_text()


def test_a_folder_with_nothing_but_a_lock_is_free(tmp_path):
    with alone(tmp_path / "index", print):
        Place(tmp_path / "index").check_free()
        (tmp_path / "index" / "holiday.jpg").touch()
        with pytest.raises(ValueError, match="holds something else"):
            Place(tmp_path / "index").check_free()


@pytest.mark.parametrize("number, passes", [(errno.ENOLCK, True), (errno.EIO, False)])
def test_a_file_system_without_locks_is_told_of_and_other_errors_are_raised(tmp_path, monkeypatch, number, passes):
    def refuse(*given):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.fcntl, "lockf", refuse)
    lines = []
    if passes:
        with alone(tmp_path, lines.append):
            assert "cannot be locked" in lines[0]
    else:
        with pytest.raises(OSError, match=os.strerror(number)):
            alone(tmp_path, lines.append).__enter__()


def test_index_holds_the_lock_while_it_works(tmp_path, holder):
    from mae_vlm.index import build

    with pytest.raises(ValueError, match="is being written by process"):
        build.index(None, None, None, tmp_path / "index", build.Options(), print)
