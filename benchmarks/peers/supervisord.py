"""supervisord, by XML-RPC over its unix socket.

Its programs are declared beforehand, since that is faster than a new configuration for each: a bot that starts is a
declared process that is told to. Many are told in one call, which was faster than a call for each.
"""

from __future__ import annotations

import contextlib
import http.client
import shlex
import socket
import subprocess
import tempfile
import xmlrpc.client
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import lines
from benchmarks.peers import environment, peer
from benchmarks.peers.peer import Listed, Session

CONFIG = """
[supervisord]
nodaemon = true
logfile = {directory}/supervisord.log
pidfile = {directory}/supervisord.pid
minfds = {descriptors}
minprocs = 200

[unix_http_server]
file = {socket}

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[program:bots]
command = {command}
process_name = %(process_num)d
numprocs = {capacity}
autostart = false
autorestart = true
startsecs = 0
redirect_stderr = true
stdout_logfile = {logs}/%(process_num)d.log
stdout_logfile_maxbytes = 0
"""


class Supervisord:
    name = "supervisord"
    lists = "state, pid"
    restarts = True

    def install(self) -> None:
        environment.install_from_pypi("supervisor")

    def version(self) -> str:
        return environment.pypi_version("supervisor")

    @contextlib.contextmanager
    def running(self, kind: str, capacity: int) -> Iterator[Session]:
        program = environment.program_of("supervisor", "supervisord")
        with tempfile.TemporaryDirectory(prefix="benchmark-supervisord-") as name:
            directory = Path(name)
            (directory / "logs").mkdir()
            logs = peer.Logs(directory / "logs")
            command = f"{shlex.join(peer.command(kind, logs.directory))}/%(process_num)d.json"
            config = directory / "supervisord.conf"
            address = str(directory / "socket")
            config.write_text(
                CONFIG.format(
                    directory=directory,
                    socket=address,
                    command=command,
                    capacity=capacity,
                    logs=logs.directory,
                    descriptors=max(1024, 4 * capacity),
                )
            )
            process = subprocess.Popen(
                [str(program), "--configuration", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environment.VARIABLES,
            )
            running = _Running(process.pid, address, logs, capacity)
            try:
                peer.wait_until(running.answers, "supervisord answers")
                yield running
            finally:
                running.close()
                peer.end(process.pid)
                process.wait()
                logs.first_lines.close()


class _Running:
    def __init__(self, pid: int, address: str, logs: peer.Logs, capacity: int) -> None:
        self.root_pid = pid
        self.first_lines = logs.first_lines
        self.log = logs.log
        self.report = logs.report
        self._free = list(range(capacity))
        self._server = xmlrpc.client.ServerProxy("http://socket/RPC2", _Transport(address))

    def answers(self) -> bool:
        try:
            return bool(self._server.supervisor.getState())
        except OSError:
            return False

    def start(self, count: int) -> list[int]:
        numbers, self._free = self._free[:count], self._free[count:]
        self.first_lines.forget(numbers)
        self._tell("supervisor.startProcess", numbers)
        return numbers

    def stop(self, numbers: Sequence[int]) -> None:
        self._tell("supervisor.stopProcess", numbers)
        self._free += numbers

    def listing(self) -> list[Listed]:
        processes: Any = self._server.supervisor.getAllProcessInfo()
        return [Listed(number=int(one["name"]), pid=one["pid"]) for one in processes if one["pid"]]

    def close(self) -> None:
        self._server("close")()

    def _tell(self, method: str, numbers: Sequence[int]) -> None:
        # The last parameter: it need not hold its answer until it has seen how that went.
        calls = [{"methodName": method, "params": [f"bots:{number}", False]} for number in numbers]
        answers: Any = self._server.system.multicall(calls)
        if refused := [answer for answer in answers if answer is not True]:
            raise RuntimeError(f"{method}: {refused[0]}")


class _Transport(xmlrpc.client.Transport):
    """HTTP over a unix socket, kept open."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address = address
        self._kept: _Connection | None = None

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        if self._kept is None:
            self._kept = _Connection(self._address)
        return self._kept

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None


class _Connection(http.client.HTTPConnection):
    def __init__(self, address: str) -> None:
        super().__init__("localhost")
        self._address = address

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(lines.LIMIT_S)
        self.sock.connect(self._address)
