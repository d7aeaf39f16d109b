"""The listening socket: at an address or at a path, a new one or that of the supervisor that we replace."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from supervisor.core import errors

BACKLOG = 1024
UNREAD_S = 30.0
"""A client that reads nothing for so long is dropped."""


def listen(host: str, port: int, handed: int | None = None) -> socket.socket:
    """A listening socket at an address: that of the descriptor `handed` if it fits, or a new one.

    Raises SettingsRefused when it cannot be had.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]

        def fits(kept: socket.socket) -> bool:
            own = kept.getsockname()
            return kept.family == family and own[0] == address[0] and port in (0, own[1])

        sock = _handed_over(handed, fits) or socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]
        raise errors.SettingsRefused(f"cannot listen on {host}, port {port}: {reason}") from None
    sock.setblocking(False)
    # Connections inherit both. Without the first, head and body of an answer wait for each other's ACK: 44 ms instead
    # of 1 ms. By the second the kernel drops a client that reads nothing for so long.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNREAD_S * 1000))
    return sock


@contextlib.contextmanager
def listen_locally(path: Path, handed: int | None = None) -> Iterator[socket.socket]:
    """A listening unix socket that only its owner can open. Its file goes with the block, unless somebody still
    listens there: who was given the socket, or another program that has taken the path.

    Raises SettingsRefused when it cannot be had; what a dead program has left there is replaced.
    """
    try:
        sock = _handed_over(handed, lambda kept: _address(kept) == path and path.is_socket()) or _at(path)
    except OSError as error:
        raise errors.SettingsRefused(f"cannot listen on {path}: {error.strerror or error}") from None
    try:
        with sock:
            yield sock
    finally:
        _remove_stale(path)


def url(sock: socket.socket) -> str:
    """Where it listens, for people."""
    if path := _address(sock):
        return f"unix:{path}"
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _address(sock: socket.socket) -> Path | None:
    return Path(sock.getsockname()) if sock.family == socket.AF_UNIX else None


def _at(path: Path) -> socket.socket:
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Linux makes the file with the mode that the socket has: at no moment can others open it.
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(str(path))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _remove_stale(path: Path) -> None:
    """Removes a socket on which nobody listens any more."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        if probe.connect_ex(str(path)) == errno.ECONNREFUSED:
            path.unlink(missing_ok=True)


def _handed_over(handed: int | None, fits: Callable[[socket.socket], bool]) -> socket.socket | None:
    """The socket that we were executed with, if there is one and it fits."""
    if handed is None:
        return None
    sock = socket.socket(fileno=handed)
    sock.setblocking(False)
    if fits(sock):
        return sock
    path = _address(sock)
    sock.close()
    if path:
        _remove_stale(path)
    return None
