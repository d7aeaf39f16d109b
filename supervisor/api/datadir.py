"""The data directory belongs to one supervisor at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from supervisor import errors

LOCK = "supervisor.lock"
"""The file that is locked: the holder's pid, and once it serves a second line, which is never the same again."""


@contextlib.contextmanager
def held(data_dir: Path) -> Iterator[Callable[[], None]]:
    """Makes the directory, for its owner alone, and locks it. The lock goes with the process, however it ends.

    Gives what is to be called when the supervisor serves: `bot-supervisor restart` waits for that.

    Raises DataDirectoryBusy, SettingsRefused.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(data_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise errors.SettingsRefused(f"cannot use {data_dir} for data: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode().partition("\n")[0]
            raise errors.DataDirectoryBusy(f"another supervisor (pid {holder}) works in {data_dir}") from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())

        def serves() -> None:
            # On a full disk everything goes on but for a restart.
            with contextlib.suppress(OSError):
                os.write(descriptor, f"serves since {time.monotonic()}\n".encode())

        yield serves
    finally:
        os.close(descriptor)


def said(data_dir: Path) -> tuple[int, str]:
    """What the lock tells of its latest holder: its pid, and since when it serves, "" before it does.

    (0, "") when there is nothing to read. Raises OSError.
    """
    pid, _, since = (data_dir / LOCK).read_text().partition("\n")
    return int(pid or 0), since if since.endswith("\n") else ""


def is_held(data_dir: Path) -> bool:
    """Whether a supervisor works in the directory. Raises OSError."""
    with (data_dir / LOCK).open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
