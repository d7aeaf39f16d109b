"""The receiving end of sd_notify: datagrams with the sender's pid, vouched for by the kernel."""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import re
import secrets
import socket
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from botproc import kernel
from supervisor.engine.process import LocalProcess
from supervisor.engine.protocol import OnNotify

_UCRED = struct.Struct("3i")
_MAX_PATH = 107
_OLD_NAME = re.compile("bot-supervisor-[0-9a-f]{32}")
_AT_ONCE = 64
_MOST_EARLY = 1000


class Notifications:
    """Binds the address that bots find in NOTIFY_SOCKET; the same one after a restart.

    A bot may be ready before the answer of its zygote is read, or before the caller of `spawn` has its process. What it
    says by then is held, and delivered when the caller can tell what it is about.
    """

    def __init__(self, run_dir: Path, on_notify: OnNotify) -> None:
        self._run_dir = run_dir
        self._on_notify = on_notify
        self._by_pid: dict[int, LocalProcess] = {}
        self._forking: set[int] = set()
        """The runs whose processes are being made."""
        self._early: dict[int, list[Mapping[str, str]]] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.address = ""

    def open(self) -> None:
        """Bind the address, and hear what is said there from now on. Raises OSError."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        path = self._run_dir / "notify.sock"
        if len(os.fsencode(path)) <= _MAX_PATH:
            path.unlink(missing_ok=True)
            self.address = str(path)
            self._socket.bind(self.address)
            path.chmod(0o600)
        else:
            # A path of that length fits no socket address; an abstract one with a name of its own does.
            self.address = self._bind_abstract()
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def _bind_abstract(self) -> str:
        """A name for this very directory, the same one after a restart. A copy of it gets another: its bots are
        others. An older name does not say which directory it is of."""
        file, prefix = self._run_dir / "notify.name", f"bot-supervisor-{self._run_dir.stat().st_ino:x}-"
        with contextlib.suppress(FileNotFoundError):
            name = file.read_text()
            if name.startswith(prefix) or _OLD_NAME.fullmatch(name):
                with contextlib.suppress(OSError):
                    self._socket.bind(f"\0{name}")
                    return f"@{name}"
        name = prefix + secrets.token_hex(16)
        self._socket.bind(f"\0{name}")
        file.write_text(name)
        return f"@{name}"

    def know(self, process: LocalProcess) -> None:
        """The process is a bot's, and may speak for it."""
        self._by_pid[process.pid] = process

    def forget(self, process: LocalProcess) -> None:
        """The process has ended. Its number may be another's by now."""
        if self._by_pid.get(process.pid) is process:
            del self._by_pid[process.pid]

    @contextlib.contextmanager
    def held(self, run_id: int) -> Iterator[None]:
        """Hold what the process of this run says, in the block that makes it."""
        self._forking.add(run_id)
        try:
            yield
        finally:
            self._forking.remove(run_id)
            if not self._forking:
                self._early.clear()

    def deliver(self, process: LocalProcess) -> None:
        """Tell what was held of the process."""
        for values in self._early.pop(process.pid, ()):
            self._on_notify(process.bot_id, process.run_id, values)

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

    def _receive(self, pid: int, values: Mapping[str, str]) -> None:
        # A bot's own child may speak for it, such as the systemd-notify of a shell script.
        leader = kernel.session(pid) or pid
        process = self._by_pid.get(pid) or self._by_pid.get(leader)
        if process is not None and process.run_id not in self._forking:
            self._on_notify(process.bot_id, process.run_id, values)
        elif self._forking and len(self._early) < _MOST_EARLY:
            # All others are no bots.
            self._early.setdefault(process.pid if process else leader, []).append(values)
