"""The one way to the supervisor's own stdout."""

from __future__ import annotations

import collections
import logging
import os
import select
import threading
from collections.abc import Callable

from supervisor.logs import text

_WRITE_BYTES = 64 * 1024
_OWN_PREFIX = text.prefix_of("supervisor")


class Console:
    """A bounded queue before a descriptor that may be slow, stuck or closed, and a thread that empties it.

    Nobody who prints ever waits. The thread's writes block, for the descriptor may be shared with other programs, and
    O_NONBLOCK would hit these too. What cannot be written (nobody will read it, the disk is full) is dropped, and what
    comes next is tried afresh.
    """

    def __init__(self, fd: int = 1, *, limit_bytes: int = 1024 * 1024) -> None:
        self.on_room: Callable[[], None] | None = None
        """Called in the console's thread after `write` refused something, as soon as half of the queue is free."""
        self._limit_bytes = limit_bytes
        try:
            self._fd = os.dup(fd)  # our own: when `fd` is closed, whatever gets its number next is not written to
        except OSError:
            self._fd = -1  # it was closed before we began: every write fails
        self._queue: collections.deque[bytes] = collections.deque()
        self._waiting_bytes = 0
        self._refused = False
        self._dropped_lines = 0
        self._closing = False
        self._changed = threading.Condition()
        self._within_line = False
        self._thread = threading.Thread(target=self._run, name="console", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> bool:
        """Queues whole lines. False: the queue is full, or the console closed, and nothing was queued."""
        with self._changed:
            if self._closing or self._waiting_bytes >= self._limit_bytes:
                self._refused = True
                return False
            self._put(data)
            return True

    def say(self, message: str) -> None:
        """Queues lines of the supervisor's own, for which there is a little more room.

        Those that find none are dropped, and afterwards a line says how many.
        """
        data = text.prefixed(_OWN_PREFIX, message.encode("utf-8", "backslashreplace"))
        with self._changed:
            if self._closing or self._waiting_bytes >= self._limit_bytes * 5 // 4:
                self._dropped_lines += data.count(b"\n")
            else:
                self._put(data)

    def close(self, timeout_s: float) -> bool:
        """Writes out what is queued and ends the thread. False: that took too long, and the rest is given up."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        with self._changed:
            self._queue.clear()
        return not self._thread.is_alive()

    def _put(self, data: bytes) -> None:
        self._queue.append(data)
        self._waiting_bytes += len(data)
        self._changed.notify()

    def _run(self) -> None:
        while data := self._next():
            self._write_out(data)
            self._make_room(len(data))
        if self._fd >= 0:
            os.close(self._fd)

    def _next(self) -> bytes:
        """The head of the queue, waited for; nothing when the console is closed and the queue empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            return self._queue.popleft() if self._queue else b""

    def _write_out(self, data: bytes) -> None:
        rest = memoryview(b"\n" + data if self._within_line else data)
        while rest:
            try:
                written = os.write(self._fd, rest[:_WRITE_BYTES])
            except BlockingIOError:  # somebody else made it non-blocking
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll()
                continue
            except OSError:
                return
            self._within_line = rest[written - 1] != 0x0A
            rest = rest[written:]

    def _make_room(self, written_bytes: int) -> None:
        with self._changed:
            self._waiting_bytes -= written_bytes
            if self._waiting_bytes > self._limit_bytes // 2:
                return
            if self._dropped_lines:
                self._put(text.prefixed(_OWN_PREFIX, f"… {self._dropped_lines} lines dropped".encode()))
                self._dropped_lines = 0
            refused, self._refused = self._refused, False
        if refused and self.on_room is not None:
            self.on_room()


class ConsoleHandler(logging.Handler):
    """Puts the supervisor's own log on the console, each line as `supervisor | message`."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._console.say(self.format(record))
        except Exception:  # a message that cannot be formatted is reported, as in every handler
            self.handleError(record)
