"""Sees the first line of each bot in the moment in which it is in the log."""

from __future__ import annotations

import select
import time
from collections.abc import Iterable
from pathlib import Path

from supervisor.logs import inotify

LIMIT_S = 180.0


class FirstLines:
    """Waits for logs that grow for the first time: by inotify, since a loop that polls would take one of few cores."""

    def __init__(self, log_dir: Path) -> None:
        self._watch = inotify.Watch(log_dir)
        self._seen: set[int] = set()

    def wait(self, count: int = 1) -> float:
        """The time (`time.monotonic()`) at which `count` more logs had their first line. Raises TimeoutError."""
        deadline = time.monotonic() + LIMIT_S
        while count > 0:
            new = self._changed(deadline, f"{count} bots have not printed") - self._seen
            self._seen |= new
            count -= len(new)
        return time.monotonic()

    def wait_next(self, number: int) -> float:
        """The time at which a bot printed, that had printed before. Raises TimeoutError."""
        self.drain()
        deadline = time.monotonic() + LIMIT_S
        while number not in self._changed(deadline, f"bot {number} has not printed"):
            pass
        return time.monotonic()

    def drain(self) -> None:
        """Passes over all that has been printed, however much it is, while nobody waited."""
        self._watch.changed()

    def forget(self, numbers: Iterable[int]) -> None:
        """Bots that are gone: others are about to have their numbers, and first lines again."""
        self._seen.difference_update(numbers)

    def close(self) -> None:
        self._watch.close()

    def _changed(self, deadline: float, otherwise: str) -> set[int]:
        poll = select.poll()
        poll.register(self._watch.fd, select.POLLIN)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError(f"{otherwise} within {LIMIT_S:g} s")
        changed = self._watch.changed()
        if changed is None:
            raise RuntimeError("the kernel dropped events: the first line was not seen")
        return changed
