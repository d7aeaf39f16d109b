"""The manager that people write at home, by its HTTP: see `benchmarks.peers.homemade_manager`."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fastapi

from benchmarks.client import Connection
from benchmarks.peers import environment, peer
from benchmarks.peers.peer import Listed, Session

CONNECTIONS = 20


class Homemade:
    name = "homemade"
    lists = "state, pid, CPU, memory"
    restarts = True

    def install(self) -> None:
        """It is here already."""

    def version(self) -> str:
        return f"FastAPI {fastapi.__version__}"

    @contextlib.contextmanager
    def running(self, kind: str, capacity: int) -> Iterator[Session]:
        with tempfile.TemporaryDirectory(prefix="benchmark-homemade-") as name:
            logs = peer.Logs(Path(name))
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.peers.homemade_manager", str(port), name, kind],
                stdin=subprocess.DEVNULL,
                cwd=environment.ROOT,
            )
            try:
                running = _Running(process.pid, port, logs)
                peer.wait_until(running.answers, "the homemade manager answers")
                yield running
                running.close()
            finally:
                peer.end(process.pid)
                process.wait()
                logs.first_lines.close()


class _Running:
    def __init__(self, pid: int, port: int, logs: peer.Logs) -> None:
        self.root_pid = pid
        self.first_lines = logs.first_lines
        self.log = logs.log
        self.report = logs.report
        self._port = port
        self._local = threading.local()
        self._connections: list[Connection] = []
        self._threads = ThreadPoolExecutor(CONNECTIONS)

    def answers(self) -> bool:
        try:
            return isinstance(self._call("GET", "/bots"), list)
        except OSError:
            return False

    def start(self, count: int) -> list[int]:
        return [bot["number"] for bot in self._together([("POST", "/start")] * count)]

    def stop(self, numbers: Sequence[int]) -> None:
        self._together([("POST", f"/stop/{number}") for number in numbers])

    def listing(self) -> list[Listed]:
        return [
            Listed(number=bot["number"], pid=bot["pid"], cpu_percent=bot["cpu_percent"], rss_bytes=bot["rss_bytes"])
            for bot in self._call("GET", "/bots")
            if bot["alive"]
        ]

    def close(self) -> None:
        self._threads.shutdown()
        for connection in self._connections:
            connection.close()

    def _together(self, calls: Sequence[tuple[str, str]]) -> list[Any]:
        if len(calls) == 1:
            return [self._call(*calls[0])]
        return list(self._threads.map(lambda call: self._call(*call), calls))

    def _call(self, method: str, path: str) -> Any:
        kept: Connection | None = getattr(self._local, "connection", None)
        if kept is None or kept.closed:
            self._local.connection = kept = Connection("127.0.0.1", self._port)
            self._connections.append(kept)
        return kept.call(method, path)
