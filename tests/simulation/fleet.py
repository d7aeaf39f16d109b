"""The real fleet in a world without time and files: all rooms above the engine, on an event loop with a virtual clock.

Real are the fleet, its actors, machines and launches, the turns, budgets, credentials, schedules and instances, and
retention. Simulated are the engine (`engine`), the ledger's file (`memory_ledger`), the clocks and the threads. A
step begins something, or lets time pass; after it everything happens that can happen without time, and then what the
API tells, what the disk has and what the engine runs must agree.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from supervisor import settings
from supervisor.core import errors, model
from supervisor.core.attempt import Phase
from supervisor.core.model import SETTLED, Bot, BotQuery, Cause, Goal, Idempotency, NewBot, Params, Raised, State
from supervisor.fleet import actor as actor_module
from supervisor.fleet.actor import Actor
from supervisor.fleet.catalogue import Catalogue
from supervisor.fleet.fleet import Fleet, Wait
from supervisor.fleet.retention import Retention
from supervisor.fleet.starts import Rate
from supervisor.metrics import Metrics
from supervisor.store.secrets import Secrets
from tests.fakes import NoLogs
from tests.simulation.engine import MANNERS, SimulatedEngine, SimulatedProcess
from tests.simulation.loop import VirtualLoop
from tests.simulation.memory_ledger import COMMIT_S, Disk, MemoryLedger
from tests.simulation.rules import require
from tests.simulation.stories import Broken, Step

_EPOCH_US = 1_780_000_000_000_000
_AT_ONCE = 3
_KEEP_DAYS, _KEEP_RUNS = 0.01, 5
_NOWHERE = Path("/nonexistent/bots")
_MOST_BOTS = 12
"""Maximum number of bots of a story, so that things happen to the same ones."""


def _kind(**fields: Any) -> settings.Kind:
    return settings.Kind(
        **{"target": "any:main", "start_timeout_s": 5.0, "grace_s": 2.0, "restart": {"jitter": 0.5}, **fields}
    )


_KINDS: Mapping[str, settings.Kind] = {
    "plain": _kind(),
    "notify": _kind(ready="notify", restart={"max_restarts": 2}),
    "alive": _kind(ready=2.0, restart={"policy": "always", "delay_s": 0.1}),
    "heart": _kind(heartbeat_s=3.0),
    "once": _kind(restart={"policy": "never"}, grace_s=0.0),
    "single": _kind(starts_at_once=1, restart={"retry_after_s": 20.0, "max_restarts": 1}),
    "paced": _kind(starts_per_s=0.5),
    "login": _kind(exclusive="login:{account}"),
    "budget": _kind(budget={"key": "budget:{account}", "starts": 2, "per_s": 60.0}),
    "cron": _kind(schedule={"cron": "*/2 * * * *", "overlap": "restart", "missed": "run"}),
    "cronlogin": _kind(schedule={"cron": "* * * * *"}, exclusive="cron:{account}"),
    "twin": _kind(instances=2),
}
_OTHER_KINDS: Mapping[str, settings.Kind] = {
    **{name: spec for name, spec in _KINDS.items() if name != "notify"},
    "plain": _kind(heartbeat_s=3.0, ready=2.0),
    "twin": _kind(instances=3, grace_s=1.0),
    "cron": _kind(),
}
"""What the settings say after a reload: a kind is gone, others have other terms."""

_NAMES = sorted(_KINDS)

_ENDS: tuple[dict[str, Any], ...] = (
    {"exit_code": 0},
    {"exit_code": 1},
    {"exit_code": 1, "raised": Raised(type="ValueError", message="no such town", fingerprint="f")},
    {"exit_code": 1, "log_end": None, "last_lines": ()},
    {"signum": 11},
    {"signum": 9, "oom": True},
    {"exit_code": 125},
    {"exit_code": 0, "asked": Cause.STOPPED},
    {},
)

_CHANGING = frozenset({State.STARTING, State.STOPPING, State.KILLING})


class _NoSecrets(Secrets):
    """Secrets of bots that have none."""

    def __init__(self) -> None: ...

    @contextlib.contextmanager
    def kept(self, params: Params, names: Any) -> Iterator[Params]:
        yield params

    async def sweep(self, remembered: Any) -> None: ...


@dataclass(slots=True)
class _Call:
    """A command that somebody gave, and what it must not leave when it is answered."""

    verb: str
    number: int
    bot_id: int | None
    before: list[SimulatedProcess]


class _Heard(logging.Handler):
    """Makes an error in the log a broken rule: there are none but for bugs."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.errors: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        # A signal that cannot be sent is one that the story wants.
        if record.exc_info is None or not isinstance(record.exc_info[1], OSError):
            self.errors.append(self.format(record))


class _Supervisor:
    """One life of the supervisor: what dies together."""

    def __init__(self, stage: FleetStage) -> None:
        self.ledger = MemoryLedger(stage.disk)
        self.ledger.watch(stage.told)
        self.catalogue = Catalogue(
            stage.kinds,
            engine=stage.engine,
            secrets=_NoSecrets(),
            rate=Rate(at_once=_AT_ONCE),
            read=lambda: stage.kinds,
        )
        self.fleet = Fleet(
            engine=stage.engine,
            ledger=self.ledger,
            logs=NoLogs(),
            bots_dir=_NOWHERE,
            catalogue=self.catalogue,
            secrets=_NoSecrets(),
            metrics=stage.metrics,
        )
        self.retention = Retention(
            ledger=self.ledger, logs=NoLogs(), bots_dir=_NOWHERE, keep_runs_days=_KEEP_DAYS, keep_runs=_KEEP_RUNS
        )
        self.tasks: set[asyncio.Task[Any]] = set()
        self.shutting_down = False

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def run(self) -> None:
        await self.fleet.boot()
        await self.retention.run()

    async def follow(self, followed: list[int]) -> None:
        """Be a reader of the feed that goes on after what it has read."""
        async for entry in self.fleet.feeds.entries(since=followed[-1] if followed else 0, bot_id=None):
            if entry is not None:
                followed.append(entry.event.event_id)

    def die(self) -> None:
        """Nothing of it is left; the processes are."""
        self.ledger.die()
        for task in self.tasks:
            task.cancel()
        self.fleet.close()

    @property
    def actors(self) -> list[Actor]:
        return list(self.fleet._roster)


class FleetStage:
    """A fleet, its supervisors one after another, and all that happens to them."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.loop = VirtualLoop()
        self.disk = Disk()
        self.kinds = _KINDS
        self.metrics = _METRICS
        self._offset_us = self._set_by_us = 0
        self._noise = random.Random(seed)
        self._heard = _Heard()
        self._broken: list[Broken] = []
        self.loop.set_exception_handler(
            lambda _, context: self._broken.append(Broken(f"nothing fails unseen: {context}"))
        )
        self._calls = 0
        self._events: list[int] = []
        self._followed: list[int] = []
        self._looked = 0
        self._given: Counter[int] = Counter()
        self._answered: Counter[int] = Counter()
        self._steps: dict[str, tuple[Callable[..., Any], Callable[[random.Random], Step | None], float]] = {
            "create": (self._create, self._draw_create, 2.0),
            "many": (self._create_many, self._draw_many, 0.3),
            "start": (self._start, lambda rng: ("start", rng.randrange(99), rng.random() < 0.5), 1.5),
            "stop": (self._stop, self._draw_stop, 1.5),
            "restart": (self._restart, self._draw_restart, 1.0),
            "delete": (self._delete, lambda rng: ("delete", rng.randrange(99)), 0.7),
            "pass": (self._pass, self._draw_pass, 10.0),
            "end": (
                self._end,
                lambda rng: ("end", rng.randrange(99), rng.randrange(len(_ENDS)), rng.random() < 0.2),
                3.0,
            ),
            "refuse": (self._refuse, self._draw_refuse, 0.3),
            "sweep": (self._sweep, lambda rng: ("sweep",), 1.0),
            "look": (self._look, lambda rng: ("look",), 0.3),
            "say": (self._say, lambda rng: ("say", rng.randrange(99), rng.choice(("READY", "WATCHDOG"))), 2.0),
            "manners": (self._set_manners, self._draw_manners, 1.5),
            "import": (self._import, self._draw_import, 0.7),
            "fork": (self._fork, lambda rng: ("fork", rng.choice(("ok", "ok", "slow", "error", "permanent"))), 0.7),
            "early": (self._set_early, lambda rng: ("early", rng.random() < 0.5), 0.2),
            "zygote": (self._lose_zygote, lambda rng: ("zygote", rng.choice(_NAMES)), 0.3),
            "outage": (self._set_outage, lambda rng: ("outage", rng.random() < 0.3), 0.5),
            "disk": (self._set_commit, lambda rng: ("disk", rng.choice((COMMIT_S, COMMIT_S, 0.05, 0.5))), 0.3),
            "sleep": (self._sleep, lambda rng: ("sleep", round(rng.uniform(0.0, 20.0), 3)), 0.2),
            "clock": (self._set_clock, lambda rng: ("clock", rng.choice((-3600, -60, -1, 1, 60, 3600))), 0.3),
            "reload": (self._reload, lambda rng: ("reload", rng.random() < 0.5), 0.2),
            "die": (self._die, lambda rng: ("die", round(rng.uniform(0, 10), 3), rng.random() < 0.5), 0.3),
            "shutdown": (self._shut_down, lambda rng: ("shutdown", round(rng.uniform(0, 4), 3)), 0.15),
        }
        weights = [weight * rng.choice((0.3, 1.0, 1.0, 2.0)) for _, _, weight in self._steps.values()]
        self._names = list(self._steps)
        self._weights = list(accumulate(weights))
        self._within(self._begin)

    # ---- the stage

    def draw(self, rng: random.Random) -> Step:
        while True:
            name = self._names[bisect(self._weights, rng.random() * self._weights[-1])]
            step = self._steps[name][1](rng)
            if step is not None:
                return step

    def play(self, step: Step) -> None:
        self._within(lambda: self._steps[step[0]][0](*step[1:]))

    def finish(self) -> None:
        self._within(self._wind_up)

    def picture(self) -> str:
        actors = [f"{a.bot.bot_id} {a.bot.kind} {a.state}{_phase(a)}" for a in self._supervisor.actors]
        told = f"{self.loop.time():.3f}: {'; '.join(actors)}"
        if self.disk.outage:
            told += " (outage)"
        return told

    def close(self) -> None:
        self._within(self._cancel_all, check=False)
        self.loop.close()
        # Loggers remember what they need not say; while steps are played, this is not cleared each time.
        supervisor_log = logging.getLogger("supervisor")
        supervisor_log.setLevel(supervisor_log.level)

    # ---- how it is played

    def _within(self, act: Callable[[], Coroutine[Any, Any, None] | None], *, check: bool = True) -> None:
        """Act under the virtual clocks, let happen what then happens by itself, and check."""
        supervisor_log = logging.getLogger("supervisor")
        real_clock, real_noise, level = _CLOCK["time"], _NOISE["random"], supervisor_log.level
        _CLOCK["time"], _NOISE["random"] = self, self._noise
        supervisor_log.addHandler(self._heard)
        supervisor_log.propagate, supervisor_log.level = False, logging.ERROR
        try:
            self.loop.run_until_complete(self._act(act))
            if check:
                self._check()
        finally:
            _CLOCK["time"], _NOISE["random"] = real_clock, real_noise
            supervisor_log.removeHandler(self._heard)
            supervisor_log.propagate, supervisor_log.level = True, level

    def time_ns(self) -> int:
        """The wall clock, for what asks `time.time_ns()`."""
        return (_EPOCH_US + self._offset_us + round((self.loop.time() - 1000.0) * 1e6)) * 1000

    async def _act(self, act: Callable[[], Coroutine[Any, Any, None] | None]) -> None:
        if (more := act()) is not None:
            await more
        await self.loop.rest()

    async def _begin(self) -> None:
        self.engine = SimulatedEngine(_NAMES, self.disk, lambda: self.time_ns() // 1000, self._notified)
        await self._boot()

    def _notified(self, bot_id: int, run_id: int, values: Mapping[str, str]) -> None:
        self._supervisor.fleet.notified(bot_id, run_id, values)

    async def _boot(self) -> None:
        self._supervisor = _Supervisor(self)
        for process in self.engine.made:
            # What it told an earlier supervisor is gone, and what is found running is ready.
            process.status, process.said_ready = None, True
        self._supervisor.start(self._supervisor.run())
        self._supervisor.start(self._supervisor.follow(self._followed))
        await self.loop.rest(0.01)

    def told(self, event: model.Event, last_exit: model.LastExit | None) -> None:
        """The ledger tells of an event."""
        self._events.append(event.event_id)

    async def _cancel_all(self) -> None:
        self._supervisor.die()
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()

    # ---- commands

    def _draw_create(self, rng: random.Random) -> Step | None:
        if len(self.disk.bots()) >= _MOST_BOTS:
            return None
        name, key = rng.choice((None, None, "eve")), rng.choice((None, None, f"key-{rng.randrange(3)}"))
        return ("create", rng.choice(_NAMES), rng.choice("ab"), name, key, rng.choice(tuple(Wait)))

    def _draw_many(self, rng: random.Random) -> Step | None:
        if len(self.disk.bots()) >= _MOST_BOTS:
            return None
        return ("many", rng.choice(_NAMES), rng.choice("ab"), rng.choice((2, 3)), rng.choice(tuple(Wait)))

    def _new(self, kind: str, account: str, name: str | None) -> NewBot | None:
        self._calls += 1
        if kind not in self.kinds:
            return None
        terms = self.kinds[kind].terms
        return NewBot(
            kind=kind,
            params={"account": account},
            name=name,
            labels={"call": str(self._calls)},
            restart=terms.restart,
            grace_s=terms.grace_s,
            limits=terms.limits,
            schedule=terms.schedule,
        )

    def _create(self, kind: str, account: str, name: str | None, key: str | None, wait: Wait) -> None:
        if (new := self._new(kind, account, name)) is not None:
            verb = "create" if key is None else "create with a key"
            idempotency = None if key is None else Idempotency(key=key)
            self._call(verb, None, lambda fleet: fleet.create(new, idempotency=idempotency, wait=wait))

    def _create_many(self, kind: str, account: str, count: int, wait: Wait) -> None:
        if (new := self._new(kind, account, None)) is not None:
            self._call("create", None, lambda fleet: fleet.create_many(new, count, wait=wait))

    def _start(self, which: int, wait: bool) -> None:
        if (bot_id := self._some_bot(which)) is not None:
            self._call("start", bot_id, lambda fleet: fleet.start(bot_id, wait=wait))

    def _draw_stop(self, rng: random.Random) -> Step:
        return ("stop", rng.randrange(99), rng.choice((None, 0.0, 1.0, 10.0)), rng.random() < 0.7)

    def _stop(self, which: int, grace_s: float | None, wait: bool) -> None:
        if (bot_id := self._some_bot(which)) is not None:
            verb = "stop" if wait else "ask to stop"
            self._call(verb, bot_id, lambda fleet: fleet.stop(bot_id, grace_s=grace_s, wait=wait))

    def _draw_restart(self, rng: random.Random) -> Step:
        return ("restart", rng.randrange(99), rng.choice((None, 0.0, 1.0)), rng.random() < 0.5)

    def _restart(self, which: int, grace_s: float | None, wait: bool) -> None:
        if (bot_id := self._some_bot(which)) is not None:
            self._call("restart", bot_id, lambda fleet: fleet.restart(bot_id, grace_s=grace_s, wait=wait))

    def _delete(self, which: int) -> None:
        if (bot_id := self._some_bot(which)) is not None:
            self._call("delete", bot_id, lambda fleet: fleet.delete(bot_id))

    def _some_bot(self, which: int) -> int | None:
        bots = self.disk.bots()
        return bots[which % len(bots)].bot_id if bots else None

    def _call(self, verb: str, bot_id: int | None, work: Callable[[Fleet], Coroutine[Any, Any, Any]]) -> None:
        """Give a command as a client does, and look at what it says when it is answered."""
        before = [process for process in self.engine.present if process.order.bot_id == bot_id]
        call = _Call(verb, self._calls, bot_id, before)
        key = bot_id or -self._calls
        given, others = self._given[key], self._given[key] - self._answered[key]
        self._given[key] += 1

        async def answer() -> None:
            error: errors.Problem | None = None
            try:
                await work(self._supervisor.fleet)
            except errors.Problem as problem:
                error = problem
            except Exception as bug:
                self._broken.append(Broken(f"{verb} of bot {bot_id} is answered with {type(bug).__name__}: {bug}"))
                return
            self._answered[key] += 1
            try:
                self._check_answer(call, error, alone=not others and self._given[key] == given + 1)
            except Broken as broken:
                self._broken.append(broken)

        self._supervisor.start(answer())

    def _check_answer(self, call: _Call, error: errors.Problem | None, *, alone: bool) -> None:
        """Check what a command that was answered has left. `alone`: no other went on for its bot meanwhile."""
        disk = self.disk
        if call.verb.startswith("create"):
            made = [bot for bot in disk.bots() if bot.labels.get("call") == str(call.number)]
            excused = isinstance(error, errors.LedgerUnavailable | errors.StillAlive | errors.UnknownBot)
            if error is not None and error.bot_id is None and not excused:
                require(
                    not made, "nothing is left of a bot that could not be made:", type(error).__name__, error.detail
                )
            if error is None and call.verb == "create":
                require(made or self._deleted(call.number), "a bot that was made is on the disk")
            return
        assert call.bot_id is not None
        bot = disk.bot(call.bot_id)
        if error is not None or call.verb not in ("stop", "delete"):
            return
        alive = [process.order.run_id for process in call.before if not process.swept]
        require(not alive, f"after a {call.verb} nothing of the bot is left, but runs", alive)
        if call.verb == "delete":
            require(bot is None, "what was deleted is gone")
        elif alone and bot is not None:
            down = bot.goal is Goal.DOWN and bot.state is State.STOPPED
            require(down, f"a stop of bot {bot.bot_id} is durable when it is answered, and not", *_said(bot))

    def _deleted(self, number: int) -> bool:
        return any(row.forgotten and row.bot.labels.get("call") == str(number) for row in self.disk.rows.values())

    def _look(self) -> None:
        """Somebody lists all bots, while things happen to them."""
        before = {bot.bot_id for bot in self.disk.bots()}

        async def look() -> None:
            page = await self._supervisor.fleet.listing.list(BotQuery(states=frozenset(State), limit=1000))
            listed = [view.bot.bot_id for view in page.items]
            there = before & {bot.bot_id for bot in self.disk.bots()}
            if listed != sorted(set(listed)) or not there <= set(listed):
                self._broken.append(Broken(f"every bot is listed once: {sorted(there)}, {listed}"))

        self._supervisor.start(look())

    # ---- time and clocks

    def _draw_pass(self, rng: random.Random) -> Step:
        return ("pass", round(rng.choice((0.0005, 0.002, 0.05, 0.5, 2.0, 10.0, 60.0)) * rng.random(), 5))

    async def _pass(self, seconds: float) -> None:
        await self.loop.rest(seconds)

    def _sleep(self, seconds: float) -> None:
        self.loop.sleep(seconds)

    def _set_clock(self, seconds: int) -> None:
        self._offset_us += seconds * 1_000_000
        self._set_by_us += abs(seconds) * 1_000_000

    # ---- processes

    def _end(self, which: int, how: int, keeps_descendants: bool) -> None:
        living = [process for process in self.engine.made if process.alive]
        if living:
            process = living[which % len(living)]
            process.keeps_descendants = process.keeps_descendants or keeps_descendants
            process.end(**{"exit_code": None, **_ENDS[how]})

    def _draw_refuse(self, rng: random.Random) -> Step:
        return ("refuse", rng.randrange(99), rng.choice(("terminate", "kill", "dump")))

    def _refuse(self, which: int, what: str) -> None:
        """A process cannot be sent a signal, once."""
        living = [process for process in self.engine.made if process.alive]
        if living:
            living[which % len(living)].refuses = what

    def _sweep(self) -> None:
        for process in self.engine.present:
            if not process.alive:
                process.end_descendants()

    def _say(self, which: int, what: str) -> None:
        if self.engine.made:
            process = self.engine.made[-1 - which % len(self.engine.made)]
            process.said_ready = process.said_ready or what == "READY"
            self._notified(process.order.bot_id, process.order.run_id, {what: "1"})

    def _draw_manners(self, rng: random.Random) -> Step:
        return ("manners", rng.choice(_NAMES), rng.choice(("polite", *MANNERS)))

    def _set_manners(self, kind: str, manners: str) -> None:
        self.engine.manners[kind] = manners

    # ---- the engine, the disk, the supervisor

    def _draw_import(self, rng: random.Random) -> Step:
        return ("import", rng.choice(_NAMES), rng.choice(("ok", "ok", "slow", "error", "permanent")))

    def _import(self, kind: str, how: str) -> None:
        self.engine.imports[kind].set(how)

    def _fork(self, how: str) -> None:
        self.engine.forks.set(how)

    def _set_early(self, early: bool) -> None:
        self.engine.early = early

    def _lose_zygote(self, kind: str) -> None:
        self.engine.lose_zygote(kind)

    def _set_outage(self, outage: bool) -> None:
        self.disk.outage = "the disk is full" if outage else None

    def _set_commit(self, seconds: float) -> None:
        self.disk.commit_s = seconds

    def _reload(self, other: bool) -> None:
        self.kinds = _OTHER_KINDS if other else _KINDS
        self._supervisor.start(self._reloaded())

    async def _reloaded(self) -> None:
        with contextlib.suppress(errors.Problem):
            await self._supervisor.fleet.reload_kinds()

    async def _die(self, away_s: float, forks: bool) -> None:
        if forks:
            self.engine.fork_orphans()
        await self._next_supervisor(away_s)

    async def _next_supervisor(self, away_s: float) -> None:
        self._supervisor.die()
        await self.loop.rest(away_s)
        self._events.clear()
        self._looked = 0
        self._given.clear()
        self._answered.clear()
        self.disk.outage = None
        await self._boot()

    async def _shut_down(self, grace_s: float) -> None:
        """The supervisor stops all bots, and another one comes."""
        supervisor = self._supervisor
        supervisor.shutting_down = True
        stopping = supervisor.start(supervisor.fleet.shutdown(grace_s))
        await self.loop.rest(grace_s + 2.0)
        require(stopping.done(), "a shutdown is over after its grace")
        for process in self.engine.present:
            may_live = process.immortal or not process.alive or self.engine.forks.how == "slow"
            require(may_live, "a shutdown leaves no process, but that of run", process.order.run_id)
        self._heard.errors = [told for told in self._heard.errors if "would not die" not in told]
        supervisor.start(supervisor.ledger.close())
        await self.loop.rest(0.01)
        await self._next_supervisor(0.0)

    # ---- what must hold

    def _check(self) -> None:
        if self._broken:
            raise self._broken[0]
        require(not self._heard.errors, "nothing is logged as an error:", "\n".join(self._heard.errors))
        present: dict[int, SimulatedProcess] = {}
        for process in self.engine.present:
            other = present.setdefault(process.order.bot_id, process)
            require(other is process, "a bot has one process:", process.order.bot_id)
        actors = {actor.bot.bot_id: actor for actor in self._supervisor.actors}
        self._check_credentials(present, actors)
        for bot_id in present:
            require(bot_id in actors, "somebody watches a process of bot", bot_id)
        for actor in actors.values():
            self._check_actor(actor, present.get(actor.bot.bot_id))
        self._check_turns(actors)
        self._check_events()
        if not self._supervisor.ledger.queued and self.disk.outage is None:
            self._check_disk(actors)

    def _check_actor(self, actor: Actor, process: SimulatedProcess | None) -> None:
        bot, attempt, due = actor.bot, actor.machine.attempt, actor.machine.deadline
        if attempt is None:
            require(process is None, f"bot {bot.bot_id} is {bot.state} and has no process")
        elif process is not None:
            require(attempt.run_id == process.order.run_id, "the process is that of the run:", attempt, process.order)
            require(attempt.phase in (Phase.ALIVE, Phase.DUMPING, Phase.SWEEPING), "a process is there:", attempt.phase)
            require(process.alive == (attempt.phase is not Phase.SWEEPING), "the end is noticed:", attempt.phase)
            if bot.state is State.RUNNING and not isinstance(attempt.terms.ready, float):
                require(process.said_ready, f"bot {bot.bot_id} is running, and did not say that it is ready")
            if self._supervisor.fleet._roster.find(bot.bot_id) is not actor:
                # Nobody listens to a bot that is being deleted.
                process.status = None
            if process.alive and process.status is not None:
                require(actor.live.status == process.status, "what a process says of itself is shown")
            if bot.state in (State.STOPPING, State.KILLING) and process.alive:
                dumped = process.dumps and attempt.phase is Phase.DUMPING
                require(
                    process.received or dumped or process.unsent,
                    f"bot {bot.bot_id} is {bot.state} and has got a signal",
                )
        if bot.state in (State.STOPPING, State.KILLING):
            assert attempt is not None
            waits = attempt.phase in (Phase.QUEUED, Phase.IMPORTING)
            require(not waits, f"bot {bot.bot_id} is {bot.state} and still waits:", attempt.phase)
        late = due is not None and self.loop.time() > due + 1e-6
        require(not late, f"the deadline of bot {bot.bot_id} has passed:", due)
        if bot.goal is Goal.DOWN:
            require(bot.state in (State.STOPPING, State.KILLING, State.STOPPED), "down, but", bot.state)
        elif bot.state is State.STOPPED:
            require(self._supervisor.shutting_down, f"bot {bot.bot_id} is to be up, but stopped")

    def _check_turns(self, actors: Mapping[int, Actor]) -> None:
        """Check that no more bots start at once than may, and that none waits for nothing."""
        starting: Counter[str] = Counter()
        queued: set[str] = set()
        for actor in actors.values():
            if actor.state is State.STARTING:
                assert actor.machine.attempt is not None
                if actor.machine.attempt.phase is Phase.QUEUED:
                    queued.add(actor.bot.kind)
                else:
                    starting[actor.bot.kind] += 1
        require(starting.total() <= _AT_ONCE, "so many start at once:", starting)
        require(starting["single"] <= 1, "one of the kind starts at once, not", starting["single"])
        for kind in queued - {"paced"}:
            full = starting.total() == _AT_ONCE or (kind == "single" and starting[kind] == 1)
            require(full, f"a bot of the kind {kind} waits for its turn while only these start:", starting)

    def _check_credentials(self, present: Mapping[int, SimulatedProcess], actors: Mapping[int, Actor]) -> None:
        for actor in actors.values():
            # One that starts later may find its credential held by another one.
            if actor.state not in SETTLED and actor.bot.kind == "login":
                credential = f"login:{actor.bot.params['account']}"
                holder = self._holders.get(credential)
                other = actors.get(holder or 0)
                goes_on = other is not None and other.state not in SETTLED
                require(goes_on, f"{credential} is held by a bot that goes on, not by", holder)
        held = Counter(
            (process.order.kind, process.order.params["account"])
            for process in present.values()
            if process.order.kind in ("login", "cronlogin")
        )
        require(all(number == 1 for number in held.values()), "a credential is used by one bot:", held)

    def _check_events(self) -> None:
        for event_id, later in zip(self._events[self._looked :], self._events[self._looked + 1 :], strict=False):
            require(event_id < later, "the numbers of events grow:", event_id, later)
        self._looked = max(0, len(self._events) - 1)

    def _check_disk(self, actors: Mapping[int, Actor]) -> None:
        """Check that the disk has what is."""
        attempts = [actor.machine.attempt for actor in actors.values()]
        of_attempts = {attempt.run_id for attempt in attempts if attempt is not None and attempt.run_id is not None}
        for row in self.disk.rows.values():
            bot_id = row.bot.bot_id
            actor = actors.get(bot_id)
            if actor is None:
                settled = row.forgotten or row.bot.state in SETTLED
                require(settled, f"bot {bot_id} is {row.bot.state} on the disk, and nobody sees to it")
            elif not row.forgotten:
                require(_said(row.bot) == _said(actor.bot), "the disk has what is:", _said(row.bot), _said(actor.bot))
        for run in self.disk.runs.values():
            if run.cause is None:
                require(run.run_id in of_attempts, f"run {run.run_id} of bot {run.bot_id} is open, and nobody's")
        for run_id, closed in self.disk.closed.items():
            require(closed == 1, f"run {run_id} ends once, not", closed)
        for run_id in of_attempts:
            require(run_id in self.disk.runs, f"run {run_id} goes on, and was deleted")
        for deleted in self.disk.deleted:
            assert deleted.run.ended_at is not None
            # By the latest clock that retention may have looked at.
            old = deleted.run.ended_at < deleted.at + self._set_by_us - round(_KEEP_DAYS * 86_400e6)
            require(old or deleted.newer >= _KEEP_RUNS, "what is deleted need not be kept:", deleted)
        self.disk.deleted.clear()
        counted = Counter(key for key, _ in self.disk.starts)
        made = Counter(p.order.params["account"] for p in self.engine.made if p.order.kind == "budget")
        for account, number in made.items():
            require(number <= counted[f"budget:{account}"], "each start counts for the budget of", account)

    # ---- the end of the story

    async def _wind_up(self) -> None:
        """Nothing fails any more: every call is answered, every bot stops, and what was held is free."""
        self.disk.outage, self.disk.commit_s = None, COMMIT_S
        self.engine.forks.set("ok")
        for kind in _NAMES:
            self.engine.imports[kind].set("ok")
            self.engine.manners[kind] = "polite"
        for process in self.engine.present:
            process.immortal, process.refuses = False, None
            if not process.alive:
                process.end_descendants()
        calls = [task for task in self._supervisor.tasks if "answer" in repr(task.get_coro())]
        await self._rest_with_sweeps(60.0)
        self._check()
        require(all(call.done() for call in calls), "every call is answered:", calls)
        for bot in self.disk.bots():
            self._supervisor.start(self._supervisor.fleet.stop(bot.bot_id, grace_s=1.0))
        await self._rest_with_sweeps(10.0)
        require(not self.engine.present, "a stop ends all of a bot")
        require(all(bot.state is State.STOPPED for bot in self.disk.bots()), "every bot is stopped")
        unacknowledged = [p.order.run_id for p in self.engine.made if not p.acknowledged]
        require(not unacknowledged, "what has ended is forgotten, but not runs", unacknowledged)
        events = [event.event_id for event in self.disk.events]
        require(self._followed == events, "a reader of the feed gets each event once:", self._followed, events)
        require(not self._holders, "nothing is held when all bots are stopped:", self._holders)
        page = await self._supervisor.fleet.listing.list(BotQuery(states=frozenset(State)))
        listed = [(view.bot.bot_id, *_said(view.bot)) for view in page.items]
        require(listed == [(bot.bot_id, *_said(bot)) for bot in self.disk.bots()], "what is listed is on the disk")

    @property
    def _holders(self) -> Mapping[str, int | None]:
        """Which bot holds which credential."""
        return self._supervisor.fleet._shared.claims._holders

    async def _rest_with_sweeps(self, seconds: float) -> None:
        for _ in range(10):
            await self.loop.rest(seconds / 10)
            self._sweep()


def _said(bot: Bot) -> tuple[State, Goal, str]:
    return bot.state, bot.goal, bot.reason


def _phase(actor: Actor) -> str:
    attempt = actor.machine.attempt
    return "" if attempt is None else f" run {attempt.run_id} {attempt.phase}"


_METRICS = Metrics(per_bot=False)
_CLOCK, _NOISE = vars(model), vars(actor_module)
