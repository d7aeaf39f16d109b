"""Ours, asked in the same way as the others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import supervisor
from benchmarks import program, web
from benchmarks.peers.peer import Listed, Session

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
            yield _Running(ours, kind)


class _Running:
    def __init__(self, ours: program.Ours, kind: str) -> None:
        self.root_pid = ours.pid
        self.first_lines = ours.first_lines
        self._ours = ours
        self._directory = ours.ledger.parent
        restart = {"policy": "always", "delay_s": 0.0, "max_restarts": 1_000_000}
        self._fields: dict[str, Any] = {"restart": restart}
        if kind == "flood":
            self._fields["params"] = {"report": str(self.report(0))}

    def start(self, count: int) -> list[int]:
        return self._ours.ask_many(count, **self._fields)

    def stop(self, numbers: Sequence[int]) -> None:
        self._ours.stop(numbers)

    def listing(self) -> list[Listed]:
        return [
            Listed(number=bot["bot_id"], pid=bot["pid"], cpu_percent=bot["cpu_percent"], rss_bytes=bot["rss_bytes"])
            for bot in self._ours.connection.call("GET", "/bots?limit=1000")
            if bot["pid"]
        ]

    def log(self, number: int) -> Path:
        return self._directory / "logs" / f"{number}.log"

    def report(self, number: int) -> Path:
        """One for all: the path is told before there is a number, and there is but one bot that floods."""
        return self._directory / "flood.json"
