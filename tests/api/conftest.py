"""A real server on a real port, in a thread of its own, with a fleet in memory behind it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import httpx
import pytest

from supervisor import settings
from supervisor.api import application, listener, server
from supervisor.fleet.fleet import Fleet
from tests.api.fake_fleet import FakeFleet


class Api:
    """A served fleet, and a client of it."""

    def __init__(self, chosen: settings.Settings, *, max_connections: int = 100) -> None:
        self.fleet = FakeFleet()
        self._sock = listener.listen("127.0.0.1", 0)
        self.port: int = self._sock.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.app = application.create(cast(Fleet, self.fleet), chosen)
        self.server = server.Server(self.app, max_connections=max_connections)
        self._thread = threading.Thread(target=self._run, name="api")
        self.client = httpx.Client(base_url=self.url, timeout=10)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self.server.serve(sockets=[self._sock])

    def __enter__(self) -> Api:
        # The socket listens already: calls wait until it is served.
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.client.close()
        self._loop.call_soon_threadsafe(self.server.stop)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def raw(self, request: bytes) -> bytes:
        """Send bytes as they are, and read the answer until the server closes or has sent its body."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(request)
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
                head, found, body = answer.partition(b"\r\n\r\n")
                length = next(
                    (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b""
                )
                if found and length and len(body) >= int(length.partition(b":")[2]):
                    break
            return answer

    def start(self, **fields: Any) -> int:
        """POST /start; the bot's id."""
        response = self.client.post("/start", json=fields)
        assert response.status_code == 200, response.text
        return int(response.json()["bot_id"])


@pytest.fixture(scope="package")
def served() -> Iterator[Api]:
    """No longer than its tests: other tests count what this process has, and it closes what was kept alive for them."""
    with Api(settings.Settings()) as api:
        yield api


@pytest.fixture
def api(served: Api) -> Api:
    """Open to everybody on loopback, with an empty fleet."""
    served.fleet.reset()
    return served


@pytest.fixture
def serve() -> Iterator[Callable[..., Api]]:
    """Serves with other settings; further arguments are the server's."""
    with contextlib.ExitStack() as stack:

        def make(max_connections: int = 100, **fields: Any) -> Api:
            return stack.enter_context(Api(settings.Settings(**fields), max_connections=max_connections))

        yield make
