"""An engine on the bench, real or fake, with kinds of the same names."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from supervisor import logs, settings
from supervisor.core.model import Identity, Run
from supervisor.engine.local import LocalEngine
from supervisor.engine.protocol import Engine, Order, Process
from tests.fakes import Behaviour, FakeEngine
from tests.process.clients import BOTS, KINDS

TARGETS = {
    "counter": "botproc.counter:main",
    "sleeps": "misbehaving:sleeps",
    "exits": "misbehaving:exits",
    "dies": "misbehaving:dies",
    "deaf": "misbehaving:deaf",
    "family": "misbehaving:has_a_family",
    "broken": "raises_at_import:main",
}
BEHAVIOURS = {
    "counter": Behaviour(
        description="Prints a number each second, counting up from `start_number`.",
        params=[{"name": "start_number", "type": "int", "required": False, "default": 0}],
    ),
    "sleeps": Behaviour(),
    "exits": Behaviour(exit=lambda params: (params.get("code", 0), None)),
    "dies": Behaviour(exit=lambda params: (None, params["signum"])),
    "deaf": Behaviour(deaf=True),
    "family": Behaviour(descendants=4),
    "broken": Behaviour(import_error="RuntimeError: no configuration"),
}


def kinds(targets: Mapping[str, str], **values: Any) -> dict[str, settings.Kind]:
    return {name: settings.Kind(target=target, path=(KINDS, BOTS), **values) for name, target in targets.items()}


class Bench:
    """An engine, what its processes said, and orders with numbers of their own."""

    engine: Engine

    def __init__(self) -> None:
        self.notes: list[tuple[int, int, Mapping[str, str]]] = []
        self.run_ids = itertools.count(1)
        self._processes: list[Process] = []

    def note(self, bot_id: int, run_id: int, values: Mapping[str, str]) -> None:
        self.notes.append((bot_id, run_id, values))

    def order(self, kind: str, bot_id: int = 1, **params: Any) -> Order:
        return Order(run_id=next(self.run_ids), bot_id=bot_id, kind=kind, name=None, labels={}, params=params)

    async def start(self, kind: str, bot_id: int = 1, **params: Any) -> Process:
        """A process of a kind that is warmed before."""
        await self.engine.warm(kind)
        return await self.spawn(self.order(kind, bot_id, **params))

    async def spawn(self, order: Order) -> Process:
        process = await self.engine.spawn(order)
        self._processes.append(process)
        return process

    async def says(self, bot_id: int, text: str) -> None:
        """Waits until the bot has printed this."""

    async def close(self) -> None:
        """Ends all processes that were started here."""
        async with asyncio.timeout(10):
            for process in self._processes:
                process.kill()
                await process.sweep()
                process.acknowledge()


class FakeBench(Bench):
    def __init__(self) -> None:
        super().__init__()
        self.engine = FakeEngine(dict(BEHAVIOURS), self.note)


class LocalBench(Bench):
    """On a data directory, which may have been another engine's before."""

    engine: LocalEngine

    def __init__(self, data_dir: Path, kinds_: Mapping[str, settings.Kind] | None = None) -> None:
        super().__init__()
        self.data_dir = data_dir
        data_dir.mkdir(parents=True, exist_ok=True)
        # Kinds that the engine knows when it is opened are warmed at once; most tests need one of all.
        self._kinds = dict(kinds_ or {})
        log_dir = data_dir / "logs"
        log_dir.mkdir(mode=0o700, exist_ok=True)
        with open(os.devnull, "wb") as nowhere:
            self._console = logs.Console(nowhere.fileno())
        self._follower = logs.Follower(log_dir, self._console, limit_bytes=1 << 30)
        self.engine = LocalEngine(data_dir, self._kinds, self.note, logs.BotLogs(log_dir, self._follower))

    async def open(self) -> LocalBench:
        await self.engine.open()
        for name, kind in kinds(TARGETS).items():
            self._kinds.setdefault(name, kind)
        return self

    async def close(self) -> None:
        try:
            await super().close()
            await self.engine.close()
        finally:
            self._follower.close()
            self._console.close(1)

    def add(self, targets: Mapping[str, str], path: tuple[Path, ...]) -> None:
        for name, target in targets.items():
            self._kinds[name] = settings.Kind(target=target, path=path)

    def log(self, bot_id: int) -> str:
        path = self.data_dir / "logs" / f"{bot_id}.log"
        return path.read_text() if path.exists() else ""

    async def says(self, bot_id: int, text: str) -> None:
        await until(lambda: text in self.log(bot_id))


async def until(predicate: Callable[[], object], limit_s: float = 10.0) -> None:
    """Waits for the predicate without blocking the loop. Fails after `limit_s` seconds."""
    async with asyncio.timeout(limit_s):
        while not predicate():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def run_of(order: Order, identity: Identity | None) -> Run:
    """The open row of an order's run."""
    return Run(
        run_id=order.run_id,
        bot_id=order.bot_id,
        kind=order.kind,
        params=order.params,
        identity=identity,
        started_at=1,
        ready_at=None,
        ended_at=None,
        exit_code=None,
        signal=None,
        cause=None,
        detail="",
        cpu_seconds=None,
        max_rss_bytes=None,
        descendants_killed=0,
        log_start=0,
        log_end=None,
    )
