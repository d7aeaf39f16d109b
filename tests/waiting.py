"""The only two ways in which a test waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(predicate: Callable[[], T], limit_s: float = 10.0, what: str = "") -> T:
    """The first true answer of the predicate, asked again and again. Fails after `limit_s` seconds."""
    deadline = time.monotonic() + limit_s
    while True:
        answer = predicate()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {limit_s:g} s: {what or predicate}")
        time.sleep(0.005)


async def eventually(read: Callable[[], Awaitable[T]], held: Callable[[T], object], limit_s: float = 10.0) -> T:
    """The first of what is read that fulfils the condition; it is read again and again. Fails after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while True:
        found = await read()
        if held(found):
            return found
        assert time.monotonic() < deadline, f"not within {limit_s:g} s: {found}"
        await asyncio.sleep(0.005)
