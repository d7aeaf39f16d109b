"""Which logs have changed, as the kernel tells it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import struct
from pathlib import Path

_IN_MODIFY = 0x2
_IN_COME_OR_GO = 0x40 | 0x80 | 0x100 | 0x200
"""IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE."""
_IN_ONLYDIR = 0x01000000
_READ_BYTES = 64 * 1024
_LONGEST_EVENT_BYTES = 16 + 256

_LOG = re.compile(rb"([0-9]+)\.log\0")
_OVERFLOW = struct.pack("=iI", -1, 0x4000)

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


class Watch:
    """One watch on the directory of all logs, however many there are. `fd` is readable when a file has changed.

    Another watch is on the directory above: a directory that is deleted while a file in it is open says nothing of it,
    and bots make one again at the same path. The watch on the former directory stays as long as that one exists.

    Raises OSError: EMFILE or ENOSPC when this user has used up what the machine allows.
    """

    def __init__(self, log_dir: Path) -> None:
        self.rests = False
        self._log_dir = os.fsencode(log_dir)
        self.fd = _check(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
        try:
            directory = os.path.dirname(self._log_dir) or b"."
            above = _check(_libc.inotify_add_watch(self.fd, directory, _IN_COME_OR_GO))
            name = os.path.basename(self._log_dir)
            # The event's header: the watch, then mask, cookie and length of the name.
            self._replaced = re.compile(re.escape(struct.pack("=i", above)) + b".{12}" + re.escape(name) + b"\0", re.S)
            self._begin()
        except OSError:
            os.close(self.fd)
            raise

    def rest(self) -> None:
        """Watches nothing until `changed` is called, which then knows nothing.

        For a bot that prints as fast as it can: that a write is announced is a third of what it costs.
        """
        if not self.rests:
            # The watch is gone already if the directory is.
            with contextlib.suppress(OSError):
                _check(_libc.inotify_rm_watch(self.fd, self._number))
            self.rests = True

    def changed(self) -> set[int] | None:
        """The bots whose logs changed since the last call. None: the kernel lost count, look at all of them."""
        rested = self.rests
        if rested:
            # What others watch may have used up all that there may be: then it rests on.
            with contextlib.suppress(OSError):
                self._begin()
        events = b""
        while True:
            try:
                read = os.read(self.fd, _READ_BYTES)
            except BlockingIOError:
                break
            events += read
            if len(read) < _READ_BYTES - _LONGEST_EVENT_BYTES:
                break
        if self._replaced.search(events):
            # If there is none now, another event tells when there is one again.
            with contextlib.suppress(OSError):
                self._begin()
            return None
        if rested or _OVERFLOW in events:
            return None
        # Two busy bots leave thousands of events, and a name is the one part that matters: it is sought at C speed.
        # Digits before it, in the event's header, cannot be taken for a part of it: there are NULs in between.
        return {int(name) for name in set(_LOG.findall(events))}

    def close(self) -> None:
        os.close(self.fd)

    def _begin(self) -> None:
        self._number = _check(_libc.inotify_add_watch(self.fd, self._log_dir, _IN_MODIFY | _IN_ONLYDIR))
        self.rests = False
