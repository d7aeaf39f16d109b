"""The data directory belongs to one supervisor at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from botproc import kernel
from supervisor.core import errors

LOCK = "supervisor.lock"
"""The file of the holder: its pid, and once it serves a second line, which is never the same again."""


class Held:
    """The data directory that is ours. `fd` has the lock, for a supervisor that is to replace this one."""

    def __init__(self, fd: int, record: int) -> None:
        self.fd = fd
        self._record = record

    def serves(self) -> None:
        """Say that the supervisor serves: `bot-supervisor restart` waits for that."""
        # On a full disk everything goes on but a restart.
        with contextlib.suppress(OSError):
            os.write(self._record, f"serves since {time.monotonic()}\n".encode())


@contextlib.contextmanager
def held(data_dir: Path, handed: int | None = None) -> Iterator[Held]:
    """Make the directory, for its owner alone, and lock it. The lock goes with the process, however it ends.

    Locked is the directory itself, which no one can replace by another while it is in use, as they can a file in it.
    The file is locked too: a version that knows of nothing else must be kept out, and keep us out. `handed` is the
    descriptor that had the lock of the supervisor that we replace.

    Raises DataDirectoryBusy, SettingsRefused.
    """
    with contextlib.ExitStack() as opened:
        if handed is not None:
            opened.callback(os.close, handed)
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, directory)
            if handed is not None and os.path.samestat(os.fstat(handed), os.fstat(directory)):
                directory = handed
            _lock(directory, data_dir)
            record = os.open(data_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            opened.callback(os.close, record)
            _lock(record, data_dir)
        except OSError as error:
            raise errors.SettingsRefused(f"cannot use {data_dir} for data: {error.strerror}") from None
        os.ftruncate(record, 0)
        os.write(record, f"{os.getpid()}\n".encode())
        yield Held(directory, record)


def _lock(descriptor: int, data_dir: Path) -> None:
    try:
        kernel.lock(descriptor)
    except BlockingIOError:
        pid, _ = said(data_dir)
        who = f"another supervisor (pid {pid})" if pid else "another supervisor"
        raise errors.DataDirectoryBusy(f"{who} works in {data_dir}") from None


def said(data_dir: Path) -> tuple[int, str]:
    """Return what the latest holder of the lock wrote: its pid, and since when it serves, "" before it does.

    (0, "") when there is nothing to read. Raises OSError.
    """
    try:
        pid, _, since = (data_dir / LOCK).read_text().partition("\n")
    except FileNotFoundError:
        return 0, ""
    return int(pid) if pid.isdecimal() else 0, since if since.endswith("\n") else ""


def holder(data_dir: Path) -> int | None:
    """Return the pid of the supervisor that works in the directory, 0 for one that cannot be told, None without one.

    Changes nothing. Raises OSError.
    """
    for path in (data_dir, data_dir / LOCK):
        with contextlib.suppress(FileNotFoundError):
            if is_locked(path):
                return said(data_dir)[0]
    return None


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock of this file or directory. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
