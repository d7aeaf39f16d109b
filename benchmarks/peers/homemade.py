"""What people write at home: FastAPI, a dict of `multiprocessing` processes made by spawn, and a loop that looks each
second who has died.

`python -m benchmarks.peers.homemade PORT LOG_DIR KIND` is that program.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import fastapi
import psutil
import uvicorn

from benchmarks import bots
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
                [sys.executable, "-m", "benchmarks.peers.homemade", str(port), name, kind],
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


def run(kind: str, path: str) -> None:
    """In the spawned process."""
    os.dup2(os.open(f"{path}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), 1)
    bots.main(kind, f"{path}.json")


def application(log_dir: str, kind: str) -> fastapi.FastAPI:
    """The manager."""
    spawn = multiprocessing.get_context("spawn")
    processes: dict[int, SpawnProcess] = {}
    seen: dict[int, psutil.Process] = {}
    lock = threading.Lock()

    def start_one(number: int) -> None:
        process = spawn.Process(target=run, args=(kind, f"{log_dir}/{number}"))
        process.start()
        assert process.pid is not None
        processes[number], seen[number] = process, psutil.Process(process.pid)

    def start_the_dead() -> None:
        with lock:
            for number, process in list(processes.items()):
                if not process.is_alive():
                    start_one(number)

    async def watch() -> None:
        while True:
            await asyncio.sleep(1)
            await asyncio.to_thread(start_the_dead)

    @contextlib.asynccontextmanager
    async def lifespan(_: fastapi.FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(watch())
        yield
        task.cancel()

    app = fastapi.FastAPI(lifespan=lifespan)
    numbers = iter(range(1, sys.maxsize))

    @app.post("/start")
    def start() -> dict[str, Any]:
        with lock:
            number = next(numbers)
            start_one(number)
            return {"number": number, "pid": processes[number].pid}

    @app.post("/stop/{number}")
    def stop(number: int) -> dict[str, Any]:
        with lock:
            process = processes.pop(number)
            del seen[number]
        process.terminate()
        process.join()
        return {"number": number, "exit_code": process.exitcode}

    @app.get("/bots")
    def listing() -> list[dict[str, Any]]:
        with lock:
            return [_shown(number, process, seen[number]) for number, process in processes.items()]

    return app


def _shown(number: int, process: SpawnProcess, seen: psutil.Process) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "number": number,
        "pid": process.pid,
        "alive": process.is_alive(),
        "cpu_percent": None,
        "rss_bytes": None,
    }
    with contextlib.suppress(psutil.NoSuchProcess):
        shown |= {"cpu_percent": seen.cpu_percent(), "rss_bytes": seen.memory_info().rss}
    return shown


def main(port: str, log_dir: str, kind: str) -> None:
    uvicorn.run(application(log_dir, kind), host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    main(*sys.argv[1:])
