"""The locks of bots: what keeps a second copy of a bot from running, and says who is the first.

A bot's process holds the lock of its file as long as it lives, and so does what it forks. Its first line is
"run_id pid start_ticks"; what may follow is told by `engine.crash`.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
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
        """Who holds a bot's lock, of this run if one is given; None when nobody does."""
        try:
            fd = os.open(self.path(bot_id), os.O_RDWR)
        except FileNotFoundError:
            return None
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return None
            except BlockingIOError:
                words = os.pread(fd, 100, 0).partition(b"\n")[0].split()
                if len(words) != 3 or (run_id is not None and int(words[0]) != run_id):
                    return None
                pid, start_ticks = int(words[1]), int(words[2])
                # What a dead bot has left can hold its lock, and the pid be an innocent process's.
                if kernel.start_ticks(pid) != start_ticks:
                    return None
                inode = kernel.pidfd_inode(pid)
                return Identity(pid=pid, start_ticks=start_ticks, inode=inode, boot_id=pidfd.boot_id())
        except (FileNotFoundError, ProcessLookupError):
            return None
        finally:
            os.close(fd)

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

    def _is_held(self, bot_id: int) -> bool:
        try:
            with self.path(bot_id).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def remove(self, bot_id: int) -> None:
        """The file can go, unless it is that of a copy that lives after all: then it keeps the next one from being made
        beside it. One that cannot be looked at stays, too."""
        path = self.path(bot_id)
        try:
            with path.open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
        except (FileNotFoundError, BlockingIOError):
            pass
        except OSError as error:
            log.warning("cannot remove %s: %s", path, error.strerror)
