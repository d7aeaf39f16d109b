"""The watchdog over a zygote: notices that it is silent while something is pending from it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_SILENT_S = 1.0
_LOOKS = 4
"""How often it is looked within that time: a supervisor that was itself held up must not take that for silence."""


class Watchdog:
    """One timer, which runs only while something is pending."""

    def __init__(self, is_pending: Callable[[], bool], on_silence: Callable[[], None]) -> None:
        self._is_pending = is_pending
        self._on_silence = on_silence
        self._looks_left = _LOOKS
        self._timer: asyncio.TimerHandle | None = None

    def heard(self) -> None:
        """It has said something."""
        self._looks_left = _LOOKS

    def watch(self) -> None:
        """Something is pending from now on."""
        if self._timer is None:
            self._looks_left = _LOOKS
            self._wait()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_SILENT_S / _LOOKS, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._is_pending():
            return
        if self._looks_left == 0:
            self._on_silence()
            return
        self._looks_left -= 1
        self._wait()
