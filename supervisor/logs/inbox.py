"""Commands for a thread that sleeps in poll()."""

from __future__ import annotations

import collections
import contextlib
import os
import select
import threading
import time
from collections.abc import Callable, Iterator

Command = Callable[[], None]


class Inbox:
    """A queue of commands. `fd` is readable when there is one, and after `wake`, until somebody waits here."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._commands: collections.deque[Command] = collections.deque()
        self._poll = select.poll()
        self._poll.register(self.fd, select.POLLIN)
        self._lock = threading.Lock()
        self._closed = False

    def post(self, command: Command) -> None:
        """Queues a command, from any thread; after `close` it is ignored."""
        self._commands.append(command)
        self.wake()

    def wake(self) -> None:
        """Makes `fd` readable, from any thread."""
        with self._lock:
            if not self._closed:
                os.eventfd_write(self.fd, 1)

    def wait(self, timeout_s: float) -> None:
        """Until there is a command, or the time is over; `wake` alone does not end it."""
        until = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self.fd)
            left_s = until - time.monotonic()
            if self._commands or left_s <= 0:
                return
            self._poll.poll(left_s * 1000)

    def take(self) -> Iterator[Command]:
        """The commands that wait, oldest first."""
        while self._commands:
            yield self._commands.popleft()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            os.close(self.fd)
