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
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from botproc import kernel
from supervisor.core.model import Identity
from supervisor.engine import pidfd

log = logging.getLogger(__name__)

_HOLDER = re.compile(rb"(\d+) (\d+) (\d+)\n")


class Locks:
    """A directory with a file for each bot that runs. Only an engine makes it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, bot_id: int) -> Path:
        return self._directory / f"{bot_id}.lock"

    def holder(self, bot_id: int, run_id: int | None = None) -> Identity | None:
        """The process that holds a bot's lock, of this run if one is given; None when there is none, or that cannot be
        seen. Raises OSError when no descriptor is left."""
        try:
            with self._opened(bot_id) as lock:
                if not _is_held(lock):
                    return None
                # The bot's own file: anything can stand there.
                words = _HOLDER.match(os.pread(lock, 100, 0))
            if words is None or (run_id is not None and int(words[1]) != run_id):
                return None
            pid, start_ticks = int(words[2]), int(words[3])
            # What a dead bot has left can hold its lock, and the pid be an innocent process's.
            if kernel.start_ticks(pid) != start_ticks:
                return None
            inode = kernel.pidfd_inode(pid)
            return Identity(pid=pid, start_ticks=start_ticks, inode=inode, boot_id=pidfd.boot_id())
        except (FileNotFoundError, ProcessLookupError):
            return None
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise
            # Another user's, or no file at all: it stays so, and must not keep a supervisor from starting.
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
                found = path.lstat()
                if stat.S_ISREG(found.st_mode):
                    here.add((found.st_dev, found.st_ino))
        try:
            numbers = os.listdir(f"/proc/{pid}/fd")
        except PermissionError:
            # It has become another user's. That somebody holds the lock of here must do.
            with contextlib.suppress(OSError), self._opened(bot_id) as lock:
                return _is_held(lock)
            return False
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
            with self._opened(bot_id) as lock:
                if not _is_held(lock):
                    self.path(bot_id).unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("cannot remove %s: %s", self.path(bot_id), error.strerror)

    @contextlib.contextmanager
    def _opened(self, bot_id: int) -> Iterator[int]:
        """The descriptor of a bot's lock file. Raises OSError. A pipe in its place does not hold us up."""
        fd = os.open(self.path(bot_id), os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)


def _is_held(lock: int) -> bool:
    """Whether a process holds this lock. If none does, it is held here until the descriptor is closed."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
