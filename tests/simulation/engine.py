"""The fake engine as a story wants it: imports and forks that are slow or fail, and processes with manners."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from supervisor.core import errors
from supervisor.core.model import Identity, Run
from supervisor.engine.protocol import KindParams, Order
from tests.fakes import Behaviour, FakeEngine, FakeProcess
from tests.simulation.memory_ledger import Disk
from tests.simulation.stories import Broken

MANNERS: Mapping[str, Mapping[str, Any]] = {
    "polite": {},
    "deaf": {"deaf": True},
    "immortal": {"deaf": True, "immortal": True},
    "silent": {"ready": False},
    "crashing": {"exit": lambda params: (1, None)},
    "finishing": {"exit": lambda params: (0, None)},
    "fertile": {"descendants": 2},
}


class SimulatedProcess(FakeProcess):
    """A process that knows whether its end is on the disk. `forked_at`: on the wall clock."""

    def __init__(self, order: Order, identity: Identity, behaviour: Behaviour, disk: Disk, forked_at: int) -> None:
        super().__init__(order, identity, behaviour)
        self.forked_at = forked_at
        self.disowned = False
        self.refuses: str | None = None
        """The signal that it cannot be sent, once."""
        self.unsent = False
        self.status: str | None = None
        self.said_ready = False
        self._disk = disk

    @property
    def swept(self) -> bool:
        """Whether nothing is left of it."""
        return self._swept.done()

    def terminate(self) -> None:
        self._refuse("terminate")
        super().terminate()

    def kill(self) -> None:
        self._refuse("kill")
        super().kill()

    def dump(self) -> None:
        self._refuse("dump")
        super().dump()

    def _refuse(self, what: str) -> None:
        if self.alive and self.refuses == what:
            self.refuses, self.unsent = None, True
            raise OSError(f"cannot {what}")

    def acknowledge(self) -> None:
        if self.acknowledged and not self.disowned:
            raise Broken(f"run {self.order.run_id} is acknowledged twice")
        run = self._disk.runs.get(self.order.run_id)
        if not self.disowned and run is not None and run.cause is None:
            raise Broken(f"run {run.run_id} is acknowledged before its end is durable")
        super().acknowledge()


@dataclass(slots=True)
class _Gate:
    """What happens to the next forks and imports. `how` is "ok", "slow", "error" or "permanent"."""

    how: str = "ok"
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    def set(self, how: str) -> None:
        self.how = how
        if how != "slow":
            # Those that wait go on; those that come find another event.
            self.opened.set()
            self.opened = asyncio.Event()

    async def passed(self, what: str) -> None:
        """Return when this can go on. Raises SpawnFailed."""
        if self.how == "slow":
            await self.opened.wait()
        if self.how in ("error", "permanent"):
            raise errors.SpawnFailed(f"{what} fails", permanent=self.how == "permanent")


class SimulatedEngine(FakeEngine):
    """Outlives the supervisors of a story, as processes do."""

    def __init__(
        self, kinds: Collection[str], disk: Disk, wall: Callable[[], int], on_notify: Callable[..., None]
    ) -> None:
        super().__init__({kind: Behaviour() for kind in kinds}, on_notify)
        self.forks = _Gate()
        self.imports = {kind: _Gate() for kind in kinds}
        self.manners = dict.fromkeys(kinds, "polite")
        self.made: list[SimulatedProcess] = []
        self.early = False
        """Whether a process says that it is ready before its fork is answered."""
        self._disk = disk
        self._wall = wall
        self._ordered: dict[int, Order] = {}

    @property
    def present(self) -> list[SimulatedProcess]:
        """The processes of which something is left."""
        return [process for process in self.made if not process.swept]

    def fork_orphans(self) -> None:
        """The supervisor dies; the forks that it has ordered come to be all the same."""
        orders, self._ordered = self._ordered, {}
        for order in orders.values():
            self.fork(order)

    def lose_zygote(self, kind: str) -> None:
        """The zygote of a kind dies, and with it the forks that it was about to make. Its bots run on."""
        self._warm.discard(kind)
        if self.forks.how == "slow":
            self.forks.set("error")
            self.forks.how = "ok"

    async def warm(self, kind: str) -> KindParams:
        if kind not in self._warm:
            await self.imports[kind].passed(f"the import of {kind}")
        return await super().warm(kind)

    async def spawn(self, order: Order) -> SimulatedProcess:
        if any(p.order.bot_id == order.bot_id for p in self.present) or order.bot_id in self._ordered:
            raise Broken(f"bot {order.bot_id} is started twice: run {order.run_id}")
        self._ordered[order.bot_id] = order
        try:
            # No zygote answers at once.
            await asyncio.sleep(0)
            await self.forks.passed("the fork")
        finally:
            self._ordered.pop(order.bot_id, None)
        # A zygote that died meanwhile is made again, and what it was asked for as well.
        self._warm.add(order.kind)
        return self.fork(order)

    def fork(self, order: Order) -> SimulatedProcess:
        """The process is there, whoever may still wait for it."""
        pid = next(self._pids)
        identity = Identity(pid=pid, start_ticks=pid * 100, inode=pid * 10_000, boot_id="fake")
        behaviour = Behaviour(**MANNERS[self.manners[order.kind]])
        process = SimulatedProcess(order, identity, behaviour, self._disk, self._wall())
        self.made.append(process)
        self.processes.append(process)
        loop = asyncio.get_running_loop()
        if behaviour.ready and self.early:
            self._say_ready(process)
        elif behaviour.ready:
            loop.call_soon(self._say_ready, process)
        if behaviour.exit is not None:
            exit_code, signum = behaviour.exit(order.params)
            loop.call_soon(lambda: process.end(exit_code, signum=signum))
        return process

    def _say_ready(self, process: SimulatedProcess) -> None:
        if process.alive:
            process.status, process.said_ready = "fine", True
            self._on_notify(process.order.bot_id, process.order.run_id, {"READY": "1", "STATUS": process.status})

    def adopt(self, run: Run) -> SimulatedProcess | None:
        return next((p for p in self.made if p.order.run_id == run.run_id and not p.acknowledged), None)

    def disown(self, claimed: Collection[int]) -> None:
        for process in self.made:
            if process.order.run_id not in claimed and not process.acknowledged:
                if process.alive:
                    raise Broken(f"the process of run {process.order.run_id} is found, and nobody claims it")
                process.disowned = True
                if not process.swept:
                    process.end_descendants()
                process.acknowledge()
