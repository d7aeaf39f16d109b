"""One keep-alive connection, as cheap as a client can be: 100 µs of CPU a call, all but a few of them the kernel's.

In the same run http.client took 130 and httpx 420.
"""

from __future__ import annotations

import json
import re
import select
import socket
from typing import Any

_NEXT = re.compile(rb'\r\nlink: <([^>]+)>; rel="next"', re.IGNORECASE)


class Connection:
    """Sends and receives apart, so that many calls can be under way at once, each on a connection of its own."""

    def __init__(self, host: str, port: int) -> None:
        self.next_page: str | None = None
        """Where the list goes on that was received last; None where that was all of it."""
        self._host = f"{host}:{port}"
        self._socket = socket.create_connection((host, port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def closed(self) -> bool:
        """By the server. To be asked while no call is under way: then nothing else can be there to read."""
        closed = bool(select.select([self._socket], [], [], 0)[0])
        if closed:
            self.close()
        return closed

    def send(self, method: str, path: str, body: Any = None) -> None:
        """Begins a call. `body` is sent as JSON, None as nothing."""
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {len(data)}\r\n"
        self._socket.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + data)

    def receive(self) -> Any:
        """The JSON of the answer; None where it has no body. Raises RuntimeError when the status is 400 or more."""
        body = self.receive_bytes()
        return json.loads(body) if body else None

    def receive_bytes(self) -> bytes:
        """The answer as it came: to read 1,000 bots takes longer than to receive them. Raises as `receive`."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more()
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        following = _NEXT.search(head)
        self.next_page = following[1].decode() if following else None
        parts = [body]
        length -= len(body)
        while length > 0:
            parts.append(self._more())
            length -= len(parts[-1])
        body = b"".join(parts)
        if int(head[9:12]) >= 400:
            raise RuntimeError(f"{head[9:12].decode()}: {body.decode()}")
        return body

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Sends and receives."""
        self.send(method, path, body)
        return self.receive()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def _more(self) -> bytes:
        data = self._socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the server has closed the connection")
        return data
