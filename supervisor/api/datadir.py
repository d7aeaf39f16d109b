"""The data directory belongs to one supervisor at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from supervisor import errors


@contextlib.contextmanager
def held(data_dir: Path) -> Iterator[None]:
    """Makes the directory, for its owner alone, and locks it. The lock goes with the process, however it ends.

    Raises DataDirectoryBusy, SettingsRefused.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(data_dir / "supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise errors.SettingsRefused(f"cannot use {data_dir} for data: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode().strip()
            raise errors.DataDirectoryBusy(f"another supervisor (pid {holder}) works in {data_dir}") from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


def holder(data_dir: Path) -> str | None:
    """The pid of the supervisor that works in the directory; None if none does. Makes and changes nothing.

    Raises OSError.
    """
    try:
        descriptor = os.open(data_dir / "supervisor.lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(descriptor, 20).decode().partition("\n")[0]
    finally:
        os.close(descriptor)
    return None
