"""An engine without processes: what they do is said by the test. It passes the same contract as the real one."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from supervisor import settings
from supervisor.core import errors, params
from supervisor.core.model import Exit, Identity, Params, Run, Usage, now_us
from supervisor.engine.protocol import KindParams, KindStatus, LogReader, OnNotify, Order


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What the processes of a kind do unless the test says otherwise.

    `exit` gives exit code and signal of a process that ends at once. A deaf one ignores SIGTERM, an immortal one
    SIGKILL as well. `descendants` are left when it ends.
    """

    import_error: str = ""
    description: str = ""
    params: Sequence[Mapping[str, Any]] = ()
    ready: bool = True
    exit: Callable[[Params], tuple[int | None, int | None]] | None = None
    deaf: bool = False
    immortal: bool = False
    descendants: int = 0


class FakeProcess:
    """A process of which everything can be seen. `received` are the signals that it was sent."""

    def __init__(self, order: Order, identity: Identity, behaviour: Behaviour) -> None:
        self.order = order
        self.received: list[int] = []
        self.acknowledged = False
        self.dumps = 0
        self.deaf = behaviour.deaf
        self.immortal = behaviour.immortal
        self.descendants = behaviour.descendants
        self.keeps_descendants = False
        self.stacks: tuple[str, ...] = ()
        self._identity = identity
        loop = asyncio.get_running_loop()
        self._began = loop.time()
        self._ended: asyncio.Future[Exit] = loop.create_future()
        self._swept: asyncio.Future[Exit] = loop.create_future()

    # ---- for the test

    @property
    def alive(self) -> bool:
        return not self._ended.done()

    def end(self, exit_code: int | None = None, *, signum: int | None = None, **more: Any) -> None:
        """It ends, and what it had started too, unless `keeps_descendants`. `more`: other fields of its exit."""
        if self.alive:
            swept = not self.descendants and not self.keeps_descendants
            exit_ = Exit(
                exit_code=exit_code,
                signal=signum,
                ended_at=now_us(),
                cpu_seconds=0.25,
                max_rss_bytes=2 << 20,
                swept=swept,
                **{"log_end": 0, "stacks": self.stacks, **more},
            )
            self._ended.set_result(exit_)
            if not self.keeps_descendants:
                self.end_descendants()

    def age(self, seconds: float) -> None:
        """It has lived for longer."""
        self._began -= seconds

    def end_descendants(self) -> None:
        """What it had started is gone at last."""
        exit_ = self._ended.result()
        values = {f: getattr(exit_, f) for f in exit_.__slots__}
        self._swept.set_result(Exit(**values | {"descendants_killed": self.descendants, "swept": True}))

    # ---- the protocol

    @property
    def identity(self) -> Identity:
        return self._identity

    @property
    def log_start(self) -> int:
        return 0

    @property
    def age_s(self) -> float:
        return asyncio.get_running_loop().time() - self._began

    async def wait(self) -> Exit:
        return await asyncio.shield(self._ended)

    async def sweep(self) -> Exit:
        return await asyncio.shield(self._swept)

    def terminate(self) -> None:
        if self.alive:
            self.received.append(signal.SIGTERM)
            if not self.deaf:
                self.end(0)

    def kill(self) -> None:
        if self.alive:
            self.received.append(signal.SIGKILL)
            if not self.immortal:
                self.end(signum=signal.SIGKILL)

    def signal(self, signum: int) -> None:
        if not self.alive:
            raise ProcessLookupError
        self.received.append(signum)
        if signum not in (signal.SIGSTOP, signal.SIGCONT):
            self.end(signum=signum)

    def dump(self) -> None:
        self.dumps += 1

    def usage(self) -> Usage | None:
        if not self.alive:
            return None
        return Usage(cpu_seconds=0.1, rss_bytes=2 << 20, threads=1, descendants=self.descendants)

    def acknowledge(self) -> None:
        self.acknowledged = True


class FakeEngine:
    """Processes that exist in memory alone. `processes` has all that were made, `forgotten` the bots forgotten."""

    def __init__(self, kinds: dict[str, Behaviour], on_notify: OnNotify) -> None:
        """`kinds` stays the test's: what it says holds from then on."""
        self.processes: list[FakeProcess] = []
        self.forgotten: list[int] = []
        self.reloaded: list[str] = []
        self._kinds = kinds
        self._on_notify = on_notify
        self._warm: set[str] = set()
        self._errors: deque[errors.SpawnFailed] = deque()
        self._imports = asyncio.Event()
        self._imports.set()
        self._forks = asyncio.Event()
        self._forks.set()
        self._pids = itertools.count(1000)

    # ---- for the test

    def of(self, bot_id: int) -> FakeProcess:
        """The latest process of a bot."""
        return next(p for p in reversed(self.processes) if p.order.bot_id == bot_id)

    def import_slowly(self, slowly: bool = True) -> None:
        """While this holds, no kind gets warm."""
        self._imports.clear() if slowly else self._imports.set()

    def fork_slowly(self, slowly: bool = True) -> None:
        """While this holds, no process is made."""
        self._forks.clear() if slowly else self._forks.set()

    def fail_next(self, *failures: errors.SpawnFailed) -> None:
        """The next spawns fail with these."""
        self._errors.extend(failures)

    def notify(self, bot_id: int, **values: str) -> None:
        """The bot's latest process says something."""
        self._on_notify(bot_id, self.of(bot_id).order.run_id, values)

    # ---- the protocol

    async def warm(self, kind: str) -> KindParams:
        if kind not in self._kinds:
            raise errors.SpawnFailed(f"there is no kind {kind!r}", permanent=True)
        await self._imports.wait()
        if error := self._kinds[kind].import_error:
            raise errors.SpawnFailed(f"cannot import the kind {kind}: {error}", permanent=True)
        self._warm.add(kind)
        return KindParams(params=self._kinds[kind].params, schema=None)

    async def check(self, kind: str, given: Params) -> Params:
        await self.warm(kind)
        return params.check(kind, self._kinds[kind].params, given)

    def set_kinds(self, kinds: Mapping[str, settings.Kind]) -> None:
        for gone in self._kinds.keys() - kinds.keys():
            del self._kinds[gone]
        for name in kinds:
            self._kinds.setdefault(name, Behaviour())
        self._warm &= kinds.keys()

    async def reload(self, kind: str) -> None:
        self.reloaded.append(kind)
        await self.warm(kind)

    async def spawn(self, order: Order) -> FakeProcess:
        await self._forks.wait()
        if self._errors:
            raise self._errors.popleft()
        if order.kind not in self._warm:
            raise errors.SpawnFailed(f"the kind {order.kind} is not warm")
        behaviour = self._kinds[order.kind]
        pid = next(self._pids)
        identity = Identity(pid=pid, start_ticks=pid * 100, inode=pid * 10_000, boot_id="fake")
        process = FakeProcess(order, identity, behaviour)
        self.processes.append(process)
        loop = asyncio.get_running_loop()
        if behaviour.ready:
            loop.call_soon(self._on_notify, order.bot_id, order.run_id, {"READY": "1"})
        if behaviour.exit is not None:
            exit_code, signum = behaviour.exit(order.params)
            loop.call_soon(lambda: process.end(exit_code, signum=signum))
        return process

    def adopt(self, run: Run) -> FakeProcess | None:
        return next((p for p in self.processes if p.order.run_id == run.run_id and not p.acknowledged), None)

    def lost(self, run: Run) -> Exit:
        return Exit(exit_code=None, signal=None, ended_at=now_us(), cpu_seconds=None, max_rss_bytes=None)

    def disown(self, claimed: Collection[int]) -> None:
        for process in self.processes:
            if process.order.run_id not in claimed:
                process.kill()
                process.acknowledge()

    def forget(self, bot_id: int) -> None:
        self.forgotten.append(bot_id)

    def kind_status(self, kind: str) -> KindStatus:
        behaviour = self._kinds.get(kind, Behaviour())
        warm = kind in self._warm
        return KindStatus(
            warm=warm,
            reason="warm" if warm else behaviour.import_error or "no zygote yet",
            description=behaviour.description if warm else "",
            params=behaviour.params if warm else None,
            schema=None,
            start_method="fork" if warm else "",
            limits_note="",
            pid=999 if warm else None,
            import_s=0.1 if warm else None,
            rss_bytes=20 << 20 if warm else None,
        )


class NoLogs:
    """Logs that nobody writes."""

    fault = None

    def __init__(self, bots: Collection[int] = ()) -> None:
        self.deleted: list[int] = []
        self._bots = set(bots)

    async def tail(self, bot_id: int, lines: int, *, start: int = 0, end: int | None = None) -> bytes:
        return b""

    async def size(self, bot_id: int) -> int:
        return 0

    def reader(self, bot_id: int, offset: int) -> LogReader:
        raise NotImplementedError

    def watch(self, bot_id: int, on_change: Callable[[], None], on_end: Callable[[int], None]) -> Callable[[], None]:
        return lambda: None

    def delete(self, bot_id: int) -> None:
        self.deleted.append(bot_id)

    def bots(self) -> set[int]:
        return self._bots
