"""Connections: counted, and none is starved by idle ones."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from collections.abc import Callable

import pytest

from supervisor.api import listener, server
from tests.api.conftest import Api
from tests.waiting import wait_for

LIVEZ = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_idle_connections_give_way(serve: Callable[..., Api]) -> None:
    api = serve(max_connections=4)
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", api.port), timeout=5)) for _ in range(50)]
        for _ in range(20):
            assert api.raw(LIVEZ).startswith(b"HTTP/1.1 200 ")
        assert len(api.server.server_state.connections) <= 4
        with contextlib.suppress(ConnectionError):
            assert idle[0].recv(1) == b""


def test_busy_connections_do_not(serve: Callable[..., Api]) -> None:
    api = serve(max_connections=4)
    head = b"POST /start HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n"
    with contextlib.ExitStack() as stack:
        busy = [stack.enter_context(socket.create_connection(("127.0.0.1", api.port), timeout=5)) for _ in range(4)]
        for connection in busy:
            connection.sendall(head)
        wait_for(lambda: len(api.server.server_state.tasks) == 4)
        waiting = stack.enter_context(socket.create_connection(("127.0.0.1", api.port), timeout=5))
        waiting.sendall(LIVEZ)
        for connection in busy:
            connection.sendall(b"{}")
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert waiting.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_without_descriptors(
    serve: Callable[..., Api], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = iter([errno.EMFILE] * 3)
    accept = socket.socket.accept

    def failing(sock: socket.socket) -> tuple[socket.socket, object]:
        number = next(failures, None)
        if number is not None:
            raise OSError(number, "Too many open files")
        return accept(sock)

    monkeypatch.setattr(socket.socket, "accept", failing)
    with caplog.at_level(logging.ERROR):
        assert serve().client.get("/livez").status_code == 200
    assert [record.getMessage() for record in caplog.records] == ["cannot accept connections: Too many open files"]


def test_without_a_watch_of_the_socket(
    serve: Callable[..., Api], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def failing(_: socket.socket) -> None:
        raise OSError(errno.EEXIST, "File exists")

    monkeypatch.setattr(server, "_readable", failing)
    with caplog.at_level(logging.ERROR):
        api = serve()
        for _ in range(2):
            assert api.raw(LIVEZ).startswith(b"HTTP/1.1 200 ")
        # The answers may come before it is looked for the next connection.
        wait_for(lambda: caplog.records)
        assert api.raw(LIVEZ).startswith(b"HTTP/1.1 200 ")
    assert [r.message for r in caplog.records] == ["cannot wait for connections, looks now and then: File exists"]


def test_answers_are_not_held_back(api: Api) -> None:
    with socket.create_connection(("127.0.0.1", api.port), timeout=5) as client:
        client.sendall(LIVEZ)
        assert client.recv(1000)
        for connection in list(api.server.server_state.connections):
            served = connection.transport.get_extra_info("socket")
            assert served.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_reader_that_never_reads_is_dropped(serve: Callable[..., Api], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "UNREAD_S", 1.0)
    api = serve()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", api.port))
        client.sendall(b"GET /assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 8)
        wait_for(lambda: api.server.server_state.tasks, what="an answer is owed")
        wait_for(lambda: not api.server.server_state.connections, 15, "the connection is dropped")
        wait_for(lambda: not api.server.server_state.tasks)


def test_a_reader_that_never_reads_is_dropped_where_the_kernel_does_not(
    serve: Callable[..., Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a unix socket."""
    api = serve()
    monkeypatch.setattr(listener, "UNREAD_S", 0.2)  # the kernel has been told another limit
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", api.port))
        client.sendall(b"GET /assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 8)
        assert client.recv(15) == b"HTTP/1.1 200 OK"
        wait_for(lambda: not api.server.server_state.connections, 15, "the connection is dropped")
        wait_for(lambda: not api.server.server_state.tasks)
    assert api.client.get("/livez").status_code == 200
