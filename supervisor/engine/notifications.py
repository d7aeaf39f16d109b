"""The receiving end of sd_notify: datagrams with the sender's pid, vouched for by the kernel."""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import secrets
import socket
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

_UCRED = struct.Struct("3i")
_MAX_PATH = 107
_AT_ONCE = 64


class Notifications:
    """Binds the address that bots find in NOTIFY_SOCKET; the same one after a restart."""

    def __init__(self, run_dir: Path, receive: Callable[[int, Mapping[str, str]], None]) -> None:
        self._receive = receive
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        path = run_dir / "notify.sock"
        if len(os.fsencode(path)) <= _MAX_PATH:
            path.unlink(missing_ok=True)
            self.address = str(path)
            self._socket.bind(self.address)
            path.chmod(0o600)
        else:
            # A path of that length fits no socket address; an abstract one with a name of its own does.
            name = run_dir / "notify.name"
            if not name.exists():
                name.write_text(f"bot-supervisor-{secrets.token_hex(16)}")
            self.address = "@" + name.read_text()
            self._socket.bind("\0" + self.address[1:])
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _read(self) -> None:
        # A bounded number at once: a bot that floods this socket must not keep the loop from the others.
        for _ in range(_AT_ONCE):
            try:
                data, ancillary, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(_UCRED.size) + 256)
            except BlockingIOError:
                return
            pid = 0
            for level, kind, value in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                    pid = _UCRED.unpack(value[: _UCRED.size])[0]
                elif level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    for fd in array.array("i", value[: len(value) - len(value) % 4]):
                        with contextlib.suppress(OSError):
                            os.close(fd)
            lines = data.decode(errors="backslashreplace").split("\n")
            self._receive(pid, dict(line.split("=", 1) for line in lines if "=" in line))
