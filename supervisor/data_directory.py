"""The data directory belongs to one supervisor at a time."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from botproc import kernel
from supervisor import settings
from supervisor.core import errors

LOCK = "supervisor.lock"
"""The file that is locked: the holder's pid, and once it serves a second line, which is never the same again."""


def add_flag(parser: argparse.ArgumentParser) -> None:
    """The flag --data-dir, for commands. Its default is the supervisor's, a settings file aside."""
    parser.add_argument(
        "--data-dir",
        type=lambda text: Path(text).expanduser().absolute(),
        default=os.environ.get(f"{settings.PREFIX}DATA_DIR") or str(settings.Flags.model_fields["data_dir"].default),
        help=f"that of the supervisor; default: {settings.PREFIX}DATA_DIR, or %(default)s",
    )


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
            kernel.lock(descriptor)
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


def holder(data_dir: Path) -> int | None:
    """The pid of the supervisor that works in the directory; None where none does. Changes nothing. Raises OSError."""
    try:
        return said(data_dir)[0] if is_locked(data_dir / LOCK) else None
    except FileNotFoundError:
        return None


def is_locked(path: Path) -> bool:
    """Whether a process holds this lock, the supervisor's or a bot's. Raises OSError."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
