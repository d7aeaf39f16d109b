"""The locks of bots: what keeps a second copy of a bot from running, and says who is the first.

A bot's process holds the lock of its file as long as it lives, and so does what it forks. Its first line is
"run_id pid start_ticks"; what may follow is told by `engine.crash_report`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from botproc import kernel
from supervisor.core.model import Identity
from supervisor.engine import pidfd

log = logging.getLogger(__name__)


class Locks:
    """A directory with a file for each bot that runs."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, exist_ok=True)

    def path(self, bot_id: int) -> Path:
        return self._directory / f"{bot_id}.lock"

    def holder(self, bot_id: int, run_id: int | None = None) -> Identity | None:
        """Who holds a bot's lock, of this run if one is given; None when nobody does. Raises OSError (EMFILE)."""
        try:
            with self._opened(bot_id) as fd:
                if not _is_held(fd):
                    return None
                words = os.pread(fd, 100, 0).partition(b"\n")[0].split()
                if len(words) != 3 or not all(map(bytes.isdigit, words)):
                    # The file is the bot's own, which can write anything.
                    return None
                run, pid, start_ticks = map(int, words)
                # What a dead bot has left can hold its lock, and the pid be an innocent process's.
                if run_id not in (None, run) or kernel.start_ticks(pid) != start_ticks:
                    return None
                inode = kernel.pidfd_inode(pid)
                return Identity(pid=pid, start_ticks=start_ticks, inode=inode, boot_id=pidfd.boot_id())
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise
            if not isinstance(error, FileNotFoundError | ProcessLookupError):
                log.warning("cannot see who holds %s: %s", self.path(bot_id), error.strerror)
            return None

    def is_of(self, pid: int, bot_id: int, log_path: Path) -> bool:
        """Whether the process is a bot of this very directory: it has the lock file or the log of here open.

        A copy of a data directory names the same pids, and the processes are still those of the original. A bot may
        have closed its lock, with every descriptor that it did not know.
        """
        here = set()
        for path in (self.path(bot_id), log_path):
            with contextlib.suppress(OSError):
                found = path.stat()
                here.add((found.st_dev, found.st_ino))
        try:
            numbers = os.listdir(f"/proc/{pid}/fd")
        except PermissionError:
            # It has become another user's. That somebody holds the lock of here must do.
            return self._is_held(bot_id)
        except OSError:
            return False
        for number in numbers:
            with contextlib.suppress(OSError):
                found = os.stat(f"/proc/{pid}/fd/{number}")
                if (found.st_dev, found.st_ino) in here:
                    return True
        return False

    def remove(self, bot_id: int) -> None:
        """The file can go, unless it is that of a copy that lives after all: then it keeps the next one from being made
        beside it. One that cannot be looked at stays, too."""
        try:
            with self._opened(bot_id) as fd:
                if not _is_held(fd):
                    self.path(bot_id).unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("cannot remove %s: %s", self.path(bot_id), error.strerror)

    def _is_held(self, bot_id: int) -> bool:
        try:
            with self._opened(bot_id) as fd:
                return _is_held(fd)
        except OSError:
            return False

    @contextlib.contextmanager
    def _opened(self, bot_id: int) -> Iterator[int]:
        """The lock file of a bot, as a descriptor. Raises OSError, also where something else stands in its place: to
        open a pipe would take for ever."""
        path = self.path(bot_id)
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "not a regular file", str(path))
            yield fd
        finally:
            os.close(fd)


def _is_held(fd: int) -> bool:
    """Whether another has the lock. If not, it is ours until the descriptor is closed."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
