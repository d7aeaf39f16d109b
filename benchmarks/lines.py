"""Sees the first line of each bot in the moment in which it is in the log."""

from __future__ import annotations

import select
import time
from pathlib import Path

from supervisor.logs import inotify

LIMIT_S = 60.0


class FirstLines:
    """Waits for logs that grow for the first time: by inotify, since a loop that polls would take one of few cores."""

    def __init__(self, log_dir: Path) -> None:
        self._watch = inotify.Watch(log_dir)
        self._seen: set[int] = set()

    def wait(self, count: int = 1) -> float:
        """The time (`time.monotonic()`) at which `count` more logs had their first line. Raises TimeoutError."""
        deadline = time.monotonic() + LIMIT_S
        target = len(self._seen) + count
        poll = select.poll()
        poll.register(self._watch.fd, select.POLLIN)
        while len(self._seen) < target:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError(f"{target - len(self._seen)} bots have not printed within {LIMIT_S:g} s")
            changed = self._watch.changed()
            if changed is None:
                raise RuntimeError("the kernel dropped events: the first line was not seen")
            self._seen |= changed
        return time.monotonic()

    def close(self) -> None:
        self._watch.close()
