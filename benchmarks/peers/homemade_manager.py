"""What people write at home: FastAPI, a dict of `multiprocessing` processes made by spawn, and a loop that looks each
second who has died.

`python -m benchmarks.peers.homemade_manager PORT LOG_DIR KIND`. It imports no more than that, since each bot does too.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import sys
import threading
from collections.abc import AsyncIterator
from multiprocessing.context import SpawnProcess
from typing import Any

import fastapi
import psutil
import uvicorn

from benchmarks import bots


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
