"""A resolver that does not answer holds up nobody but who asked."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import pytest

from supervisor import event_loop
from tests.waiting import wait_for


def run(main: Any) -> Any:
    with asyncio.Runner(loop_factory=event_loop.Loop) as runner:
        return runner.run(main)


def test_names_are_found() -> None:
    async def look_up() -> list[Any]:
        return await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)

    assert [address for *_, address in run(look_up())] == [("127.0.0.1", 80)]


def test_names_that_are_not() -> None:
    async def look_up(name: str) -> None:
        await asyncio.get_running_loop().getaddrinfo(name, 80)

    for name in ("no-such-host.invalid", "a" * 64 + ".example"):
        with pytest.raises(socket.gaierror):
            run(look_up(name))


def test_a_resolver_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    answer, asked = threading.Event(), []

    def getaddrinfo(host: str, *_: Any) -> list[Any]:
        asked.append(host)
        answer.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def look_up() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await loop.getaddrinfo("dead.example", 80)
        await asyncio.to_thread(len, asked)

    before = threading.active_count()
    try:
        run(look_up())  # and it ends
        assert asked == ["dead.example"]
    finally:
        answer.set()
    wait_for(lambda: threading.active_count() <= before, what="its thread has ended")
