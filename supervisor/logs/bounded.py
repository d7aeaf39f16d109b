"""A log file whose head is given back to the file system while somebody appends to it."""

from __future__ import annotations

import ctypes
import errno
import functools
import logging
import os
import stat
from pathlib import Path

logger = logging.getLogger(__name__)

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2

_libc = ctypes.CDLL(None, use_errno=True)
# On 32 bits the plain name takes 32-bit offsets in glibc; musl has the plain name alone, with 64-bit offsets.
_fallocate = getattr(_libc, "fallocate64", None) or _libc.fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def log_path(log_dir: Path, bot_id: int) -> Path:
    """The one log file of a bot."""
    return log_dir / f"{bot_id}.log"


def size(path: Path) -> int:
    """The size of a log in bytes, which is the offset of what is written next; 0 when there is no such file."""
    try:
        return os.lstat(path).st_size
    except FileNotFoundError:
        return 0


def open_log(path: Path, flags: int) -> int:
    """Open a log. A bot owns its log and may put anything in its place, so only a regular file is one, and links are
    not followed. Raises OSError."""
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
    except OSError:
        os.close(fd)
        raise
    return fd


def punch(fd: int, start: int, end: int) -> None:
    """Gives the disk space of a part of a file back; the size stays. Raises OSError, EOPNOTSUPP where it cannot be."""
    if _fallocate(fd, _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE, start, end - start) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def data_start(fd: int, offset: int) -> int:
    """The first offset from `offset` on that is not in a hole; the end of the file when there is none."""
    # First: what is appended once there was no data to be found is data, and stands behind this.
    end = os.fstat(fd).st_size
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return end


class LogFile:
    """An open log, of which about `limit_bytes` stay on the disk.

    `size` and `start` are as of the last look; before `start` there is nothing but holes.
    """

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._fd = open_log(path, os.O_RDWR)
        self.size = 0
        self.start = 0
        try:
            self.start = data_start(self._fd, 0)
        except OSError:
            os.close(self._fd)
            raise

    def look(self) -> None:
        """Sees how far the file has come. Over the limit on the disk: keeps the last three quarters of it."""
        status = os.fstat(self._fd)
        self.size = status.st_size
        if self.size < self.start:  # somebody truncated it
            self.start = 0
        if status.st_blocks * 512 <= self._limit_bytes:
            return
        end = (self.size - self._limit_bytes * 3 // 4) // _PAGE_BYTES * _PAGE_BYTES
        if end <= self.start:
            return
        try:
            punch(self._fd, self.start, end)
            self.start = end
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            _warn_no_holes(status.st_dev)
            os.ftruncate(self._fd, 0)
            self.size = self.start = 0

    def read(self, length: int, offset: int) -> bytes:
        return os.pread(self._fd, length, offset)

    def close(self) -> None:
        os.close(self._fd)


@functools.cache
def _warn_no_holes(device: int) -> None:
    """Once for each file system."""
    logger.warning(
        "the file system of the logs (device %d:%d) cannot make holes: a full log is truncated, its offsets begin anew",
        os.major(device),
        os.minor(device),
    )
