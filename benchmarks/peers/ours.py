"""Ours, asked in the same way as the others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import supervisor
from benchmarks import program, web
from benchmarks.peers.peer import Listed, Session

MOST = 1000
"""Of bots in one call: see `supervisor.api.requests`."""

KINDS = {
    "light": ("counter", ""),
    "web": ("web", web.KIND),
    # The others were told to keep all of a log, too.
    "flood": ("flood", f'log_limit_bytes = {2**34}\n[kinds.flood]\ntarget = "benchmarks.bots:flood"\n'),
}


class Ours:
    name = "ours"
    lists = "state, pid, CPU, memory"
    restarts = True

    def install(self) -> None:
        """It is here already."""

    def version(self) -> str:
        return supervisor.__version__

    @contextlib.contextmanager
    def running(self, kind: str, capacity: int) -> Iterator[Session]:
        name, config = KINDS[kind]
        with program.running(name, config) as ours:
            yield _Running(ours, name)


class _Running:
    def __init__(self, ours: program.Ours, kind: str) -> None:
        self.root_pid = ours.pid
        self.first_lines = ours.first_lines
        self._ours = ours
        self._directory = ours.ledger.parent
        self._started: set[int] = set()
        restart = {"policy": "always", "delay_s": 0.0, "max_restarts": 1_000_000}
        self._fields: dict[str, Any] = {"kind": kind, "restart": restart}
        if kind == "flood":
            self._fields["params"] = {"report": str(self.report(0))}

    def start(self, count: int) -> list[int]:
        connection = self._ours.connection
        if count == 1:
            bots = [connection.call("POST", "/start", self._fields)]
        else:
            bots = []
            for first in range(0, count, MOST):
                many = {"count": min(MOST, count - first), **self._fields}
                bots += connection.call("POST", "/bots/batch", many)["bots"]
        numbers = [bot["bot_id"] for bot in bots]
        self._started.update(numbers)
        return numbers

    def stop(self, numbers: Sequence[int]) -> None:
        if len(numbers) > 1 and self._started == set(numbers):
            self._ours.connection.call("POST", "/bots/stop?all=true")
        else:
            self._ours.stop(numbers)
        self._started.difference_update(numbers)

    def listing(self) -> list[Listed]:
        connection = self._ours.connection
        page: str | None = "/bots?limit=1000"
        bots: list[dict[str, Any]] = []
        while page:
            bots += connection.call("GET", page)
            page = connection.next_page
        return [
            Listed(number=bot["bot_id"], pid=bot["pid"], cpu_percent=bot["cpu_percent"], rss_bytes=bot["rss_bytes"])
            for bot in bots
            if bot["pid"]
        ]

    def log(self, number: int) -> Path:
        return self._directory / "logs" / f"{number}.log"

    def report(self, number: int) -> Path:
        """One for all: the path is told before there is a number, and there is but one bot that floods."""
        return self._directory / "flood.json"
