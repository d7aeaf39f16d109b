"""uvicorn, with an acceptor that cannot be starved, and without its signal handlers.

asyncio's own acceptor takes up to a backlog of connections at once, and when descriptors run out it retries in a
tight loop. This one takes one after another, keeps their number below a limit, and closes the longest idle one for
a new one: clients that hold connections for nothing take no place from those that ask for something.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import resource
import socket
import sys
import termios
from collections.abc import Iterator
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from supervisor.api import listener, problems

log = logging.getLogger(__name__)

_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
HEAD_BYTES = 64 * 1024
"""Maximum size of the head of a request."""

_LENGTHS = {b"content-length", b"transfer-encoding"}
_RETRY_S = 0.2
_GRACE_S = 0.5
_ASK_S = 0.05


class Messages(h11.Connection):
    """h11, which also refuses a request with two statements of its length.

    h11 takes the chunks for true. A proxy in front may take `Content-Length`, and then what is left over is the next
    request: that of another client (RFC 9112, 6.1).
    """

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        event = super().next_event()
        if isinstance(event, h11.Request) and {name for name, _ in event.headers} >= _LENGTHS:
            raise h11.RemoteProtocolError("Content-Length with Transfer-Encoding")
        return event


class Protocol(H11Protocol):
    """One connection, which knows since when it waits for a request, and drops a client that does not read."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = Messages(h11.SERVER, HEAD_BYTES)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.since = self.idle_since = self.loop.time()
        self._unread: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wait_for_reader()

    def resume_writing(self) -> None:
        self._stop_waiting()
        super().resume_writing()

    def on_response_complete(self) -> None:
        self.idle_since = self.loop.time()
        super().on_response_complete()

    @property
    def is_idle(self) -> bool:
        """No answer is owed."""
        return self.cycle is None or self.cycle.response_complete

    def _wait_for_reader(self) -> None:
        # Over TCP the kernel does the same, also where less is unread; over a unix socket nobody else does.
        self._unread = self.loop.call_later(listener.UNREAD_S, self._drop_unless_read, self._unread_bytes())

    def _drop_unless_read(self, unread_bytes: int) -> None:
        if self._unread_bytes() < unread_bytes:
            self._wait_for_reader()
        else:
            self.transport.abort()

    def _unread_bytes(self) -> int:
        # With what the kernel holds: it takes more from us only once a third of that is read, which may take minutes.
        held = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        return self.transport.get_write_buffer_size() + int.from_bytes(held, sys.byteorder)

    def _stop_waiting(self) -> None:
        if self._unread is not None:
            self._unread.cancel()

    def send_400_response(self, msg: str) -> None:
        """Says what was wrong as a problem, unless an answer is on its way already."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            problem = problems.response(400, "this is not HTTP/1.1, or its head is too large")
            headers = [*problem.raw_headers, (b"connection", b"close")]
            for event in (
                h11.Response(status_code=400, headers=headers),
                h11.Data(data=bytes(problem.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        if self.cycle is not None:
            self.cycle.disconnected = True
        self.transport.close()


class Server(uvicorn.Server):
    """Serves on one socket until `stop`. Signals are left to the program."""

    def __init__(self, app: Any, *, max_connections: int) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Protocol,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                # What clients do wrong must not fill the log.
                log_level="error",
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
            )
        )
        self._max_connections = max_connections
        self._stopping = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        [sock] = sockets or []
        self.servers = []
        self._acceptor = asyncio.create_task(self._accept(sock))
        self.started = True
        log.info("listening on %s", listener.url(sock))

    def stop(self) -> None:
        """Ends `serve`, which takes about a second where clients are connected."""
        self.should_exit = True
        self._stopping.set()

    async def main_loop(self) -> None:
        # uvicorn's own loop wakes ten times a second, to look at `should_exit` and to make the Date header anew: 0.1 s
        # of CPU a minute for nothing. Ours sleeps as long as nobody asks, and `headers` dates each answer.
        await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._acceptor.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._acceptor
        for sock in sockets or ():
            sock.close()
        now = asyncio.get_running_loop().time()
        if any(connection.since > now - _ASK_S for connection in self._idle()):
            # Who was accepted just now has had no time to ask, and would not know whether he was heard.
            await asyncio.sleep(_ASK_S)
        # What is idle is closed now, and the rest once it is answered. Who waits for his client, to send the rest
        # of a body or to read a stream, is told then that it is gone: a task that is cancelled leaves a traceback.
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await self._until_answered()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await self._until_answered()

    async def _until_answered(self) -> None:
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=_GRACE_S)

    async def _accept(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        exhausted = blind = False
        while True:
            if self._is_full() and not self._idle():
                await asyncio.sleep(_RETRY_S)
                continue
            try:
                # Not `loop.sock_accept`, which drops what it has just accepted when it is cancelled.
                connection, _ = sock.accept()
            except BlockingIOError:
                try:
                    await _readable(sock)
                except OSError as error:
                    # No room in epoll, or a watch that could not be taken away: without it, look now and then.
                    if not blind:
                        log.error("cannot wait for connections, looks now and then: %s", error.strerror)
                    blind = True
                    await asyncio.sleep(_RETRY_S)
                continue
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    if not exhausted:
                        log.error("cannot accept connections: %s", error.strerror)
                    exhausted = True
                    self._close_an_idle_one()
                    await asyncio.sleep(_RETRY_S)
                continue
            exhausted = False
            if self._is_full():
                self._close_an_idle_one()
            connection.setblocking(False)
            connecting = asyncio.ensure_future(loop.connect_accepted_socket(self._protocol, connection))
            try:
                await asyncio.shield(connecting)
            except asyncio.CancelledError:
                await connecting
                raise

    def _protocol(self) -> Protocol:
        return Protocol(config=self.config, server_state=self.server_state, app_state={})

    def _is_full(self) -> bool:
        return len(self.server_state.connections) >= self._max_connections

    def _idle(self) -> list[Protocol]:
        return [c for c in self.server_state.connections if isinstance(c, Protocol) and c.is_idle]

    def _close_an_idle_one(self) -> None:
        if idle := self._idle():
            min(idle, key=lambda connection: connection.idle_since).transport.abort()


async def _readable(sock: socket.socket) -> None:
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sock, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(sock)


def raise_descriptor_limit() -> int:
    """Raises the soft limit of open files towards the hard one, and returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    raised = max(soft, min(hard, 65_536) if hard != resource.RLIM_INFINITY else 65_536)
    resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    return raised
