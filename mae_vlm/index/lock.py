"""One writer at a time in an index folder."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = "lock"
_TAKEN = (errno.EACCES, errno.EAGAIN)
_UNABLE = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def alone(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a folder, which is made if it is not there.

    The lock is the system's, on a file that stays: it ends with the process, however that ends, and its workers do not inherit it.
    Where a file system has no locks, a line says so and the work goes on.

    Raises:
        ValueError: another process holds it.
        OSError: the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            if problem.errno in _TAKEN:
                file.seek(0)
                who = file.read().strip() or "another process"
                raise ValueError(f"--out {folder} is being written by {who}; wait until it is done, or name another --out") from None
            if problem.errno not in _UNABLE:
                raise
            say(f"{folder} cannot be locked ({problem.strerror}): see that no other index call writes there")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
