"""What the process of a bot says and uses at this moment. The ledger has none of it, and no decision depends on it but
whether a heartbeat was heard."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from supervisor.core.model import Usage
from supervisor.engine.protocol import Process

STATUS_CHARACTERS = 1000
"""Maximum length of a bot's own status that is kept."""

SAMPLE_S = 1.0
"""Minimum time over which CPU usage is averaged."""


class Live:
    """The process of a bot, from its start until it is swept.

    Attributes:
        process: None while there is none.
        started: since when it lives, on the loop's clock.
        status: its own last words about itself.
        heard: when it last said that it is well, on the loop's clock.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.clear()

    def clear(self) -> None:
        """There is no process any more."""
        self.process: Process | None = None
        self.started = 0.0
        self.status: str | None = None
        self.heard: float | None = None
        self._sample: tuple[float, float, float | None] | None = None

    def begin(self, process: Process) -> None:
        """There is a process, which may have said something already."""
        self.process = process
        self.started = self._loop.time() - process.age_s

    def notified(self, values: Mapping[str, str]) -> None:
        """Take what the process said by sd_notify about itself."""
        if "STATUS" in values:
            self.status = values["STATUS"][:STATUS_CHARACTERS]
        if values.get("WATCHDOG") == "1":
            self.heard = self._loop.time()

    @property
    def uptime_s(self) -> float:
        """For how long it has lived."""
        return round(self._loop.time() - self.started, 3)

    @property
    def heartbeat_age_s(self) -> float | None:
        """Time since its last heartbeat; None before the first."""
        return None if self.heard is None else round(self._loop.time() - self.heard, 3)

    def cpu_percent(self, usage: Usage) -> float:
        """CPU usage since the last sample that is at least a second old; since the start before there is one."""
        now = self._loop.time()
        since, cpu_seconds, shown = self._sample or (self.started, 0.0, None)
        if now - since >= SAMPLE_S or shown is None:
            shown = max(0.0, round(100.0 * (usage.cpu_seconds - cpu_seconds) / max(now - since, 0.01), 1))
            if now - since >= SAMPLE_S:
                self._sample = (now, usage.cpu_seconds, shown)
        return shown
