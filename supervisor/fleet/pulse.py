"""Whether this process itself was awake: one that was not has no right to call others silent.

What bots say while the supervisor is stopped, starved or swapped out is partly lost: the kernel keeps ten messages.
So a silence counts only from the moment on at which the supervisor listened again.
"""

from __future__ import annotations

import asyncio

EVERY_S = 0.25


class Pulse:
    """Ticks while somebody needs it, and notices when a tick comes late. In the event loop's thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._needs = 0
        self._timer: asyncio.TimerHandle | None = None
        self._ticked = self._awake_since = self._loop.time()

    def need(self) -> None:
        """From now on until `release`, `awake_since` has to be right."""
        self._needs += 1
        if self._timer is None:
            self._ticked = self._awake_since = self._loop.time()
            self._timer = self._loop.call_later(EVERY_S, self._tick)

    def release(self) -> None:
        self._needs -= 1
        if self._needs == 0 and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def awake_since(self) -> float:
        """Since when, on the loop's clock, there was no interruption of twice `EVERY_S` or more."""
        now = self._loop.time()
        if now - self._ticked >= 2 * EVERY_S:
            self._awake_since = now
        self._ticked = now
        return self._awake_since

    def _tick(self) -> None:
        self.awake_since()
        self._timer = self._loop.call_later(EVERY_S, self._tick)
