"""An event loop whose time is virtual: it goes on when its driver says so, and jumps from timer to timer."""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs everything that can run before it lets time go on. What is given to threads is done at once."""

    def __init__(self, began: float = 1000.0) -> None:
        self._now = began
        self._until = began
        self._driver: asyncio.Future[None] | None = None
        super().__init__(_NothingToWaitFor(self))

    def time(self) -> float:
        return self._now

    async def rest(self, seconds: float = 0.0) -> None:
        """Return when nothing is left that could happen within so many seconds from now."""
        self._until = self._now + seconds
        self._driver = self.create_future()
        await self._driver

    def sleep(self, seconds: float) -> None:
        """Nothing happens for so many seconds, and what was due comes late."""
        self._now += seconds

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done

    def nothing_to_do(self, timeout: float | None) -> None:
        """Jump to the next timer, or, if that is too late, wake the driver."""
        due = self._now + (math.inf if timeout is None else timeout)
        if due <= self._until:
            self._now = due
            return
        self._now = max(self._now, self._until)
        driver, self._driver = self._driver, None
        assert driver is not None, "the loop waits for ever"
        driver.set_result(None)


class _NothingToWaitFor(selectors.BaseSelector):
    """Selects among nothing, since nothing comes from outside."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self._keys[fileobj] = selectors.SelectorKey(fileobj, 0, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout > 0:
            self._loop.nothing_to_do(timeout)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys
