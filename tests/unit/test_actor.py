"""What becomes of one bot: its actor with processes that exist in memory, a real ledger, and a clock set by hand."""

from __future__ import annotations

import asyncio
import dataclasses
import selectors
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from supervisor import credentials, errors, settings
from supervisor.actor import KILL_AGAIN_S, LEDGER_RETRY_S, Actor, Ended, Ready, ShutDown, Surroundings
from supervisor.lifecycle import Event
from supervisor.model import Bot, Cause, Exit, Goal, NewBot, Policy, RestartPolicy, Run, RunQuery, State, now_us
from supervisor.pulse import Pulse
from supervisor.starts import Rate, Starts
from supervisor.store import Ledger
from tests.fakes import Behaviour, FakeEngine, FakeProcess

pytestmark = pytest.mark.anyio

START_TIMEOUT_S = 30.0
GRACE_S = 8.0
POLICY = RestartPolicy(delay_s=0.5, factor=2.0, jitter=0.0, max_restarts=3, within_s=60.0)
A_MOMENT_S = 2.0**-10
AN_AGE_S = 100_000.0
HANGS_AFTER_S = 10.0
"""Nothing that a test waits for takes so long on the wall clock."""


class ManualClockLoop(asyncio.SelectorEventLoop):
    """A loop whose time goes on only when a test says so. It is told when it has nothing left to do but to wait."""

    def __init__(self) -> None:
        self.threads_work: Callable[[], object] = lambda: False
        self._now = 1000.0
        self._resting: list[asyncio.Future[None]] = []
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds

    async def rest(self) -> None:
        """Returns when nothing is left that could run before the clock goes on."""
        resting = self.create_future()
        self._resting.append(resting)
        await resting

    def out_of_work(self) -> bool:
        """Wakes those who wait for this, if no thread will report; whether there were any."""
        if self.threads_work():
            return False
        woken, self._resting = self._resting, []
        for resting in woken:
            resting.set_result(None)
        return bool(woken)


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: ManualClockLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout == 0:
            return super().select(0)
        if ready := super().select(0):
            return ready
        if self._loop.out_of_work():
            return []
        ready = super().select(HANGS_AFTER_S)
        assert ready, "the loop waits for ever"
        return ready


class NoLogs:
    def follow(self, bot_id: int, offset: int) -> None: ...

    def ended(self, bot_id: int, offset: int) -> None: ...


class World:
    """One bot and what is around it."""

    actor: Actor

    def __init__(self, directory: Path, ledger: Ledger) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ManualClockLoop)
        loop.threads_work = lambda: ledger.queued
        self.loop = loop
        self.ledger = ledger
        self.kinds = {"any": Behaviour()}
        self.engine = FakeEngine(self.kinds, lambda bot_id, run_id, values: self.actor.notified(values))
        self.retired: list[Actor] = []
        self._around = Surroundings(
            engine=self.engine,
            ledger=ledger,
            logs=NoLogs(),
            log_dir=directory,
            kind=lambda kind: self.spec,
            starts=Starts(lambda kind: self.rate),
            pulse=Pulse(),
            claims=credentials.Claims(),
        )
        self.spec = settings.Kind(target="any:main", start_timeout_s=START_TIMEOUT_S)
        self.rate = Rate()

    async def start(self, behaviour: Behaviour | None = None, **policy: Any) -> None:
        """Makes the bot and starts it; returns when all that follows by itself has happened."""
        await self.make(behaviour, **policy)
        self.actor.begin("asked to start")
        await self.rest()

    async def make(self, behaviour: Behaviour | None = None, **policy: Any) -> None:
        self.kinds["any"] = behaviour or Behaviour()
        new = NewBot(kind="any", params={}, restart=dataclasses.replace(POLICY, **policy), grace_s=GRACE_S)
        bot, _ = await self.ledger.create_bot(new)
        self.actor = Actor(bot, self._around, self.retired.append)

    async def rest(self) -> None:
        """Returns when the bot waits for its deadline, its process or a command, and the ledger has everything."""
        await self.loop.rest()

    async def ask(self, event: Event, grace_s: float | None = None) -> None:
        await self.actor.ask(event, grace_s)
        await self.rest()

    async def advance(self, seconds: float) -> None:
        self.loop.advance(seconds)
        await self.rest()

    async def end(self, exit_code: int | None = None, signum: int | None = None) -> None:
        self.process.end(exit_code, signum=signum)
        await self.rest()

    async def after_exactly(self, delay_s: float, state: State) -> None:
        """The bot stays what it is until the delay is over, and is in this state then."""
        before = self.actor.state
        await self.advance(delay_s - A_MOMENT_S)
        assert self.actor.state is before
        await self.advance(A_MOMENT_S)
        assert self.actor.state is state

    def state(self) -> State:
        return self.actor.state

    @property
    def process(self) -> FakeProcess:
        return self.engine.processes[-1]

    async def runs(self) -> list[Run]:
        return list((await self.ledger.runs(RunQuery())).items)

    async def causes(self) -> list[Cause | None]:
        return [run.cause for run in await self.runs()]

    async def written(self) -> Bot:
        bot = await self.ledger.bot(self.actor.bot.bot_id)
        assert bot is not None
        return bot


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": ManualClockLoop}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    ledger = await Ledger.open(tmp_path / "ledger.db", busy_timeout_s=0.0)
    world = World(tmp_path, ledger)
    yield world
    world.actor.close()
    await ledger.close()


def dead(exit_code: int) -> Exit:
    return Exit(exit_code=exit_code, signal=None, ended_at=now_us(), cpu_seconds=None, max_rss_bytes=None)


# ---- stop


async def test_a_stop_escalates_after_the_grace(world: World) -> None:
    await world.start(Behaviour(deaf=True))
    await world.ask(Event.STOP)
    assert world.process.received == [signal.SIGTERM]
    await world.after_exactly(GRACE_S, State.STOPPED)
    assert world.process.received == [signal.SIGTERM, signal.SIGKILL]
    assert await world.causes() == [Cause.STOP_TIMEOUT]
    written = await world.written()
    assert (written.state, written.goal) == (State.STOPPED, Goal.DOWN)
    assert world.process.acknowledged
    assert world.actor in world.retired


async def test_an_immortal_process_is_killed_again_and_never_called_stopped(world: World) -> None:
    await world.start(Behaviour(deaf=True, immortal=True))
    await world.ask(Event.STOP)
    await world.advance(GRACE_S)
    for kills in (1, 2, 3):
        assert world.state() is State.KILLING
        assert world.process.received.count(signal.SIGKILL) == kills
        await world.advance(KILL_AGAIN_S)
    assert not world.retired
    await world.end(signum=signal.SIGKILL)
    assert world.state() is State.STOPPED


@pytest.mark.parametrize(("second_s", "left_s"), [(1.0, 1.0), (100.0, GRACE_S - 2.0)])
async def test_a_second_stop_can_only_hurry(world: World, second_s: float, left_s: float) -> None:
    await world.start(Behaviour(deaf=True))
    await world.ask(Event.STOP)
    await world.advance(2.0)
    await world.ask(Event.STOP, second_s)
    await world.after_exactly(left_s, State.STOPPED)


async def test_a_stop_in_backoff_stays_stopped(world: World) -> None:
    await world.start()
    await world.end(1)
    assert world.state() is State.BACKOFF
    await world.ask(Event.STOP)
    assert world.state() is State.STOPPED
    await world.advance(AN_AGE_S)
    assert world.state() is State.STOPPED
    assert len(world.engine.processes) == 1


async def test_a_stop_before_the_kind_is_imported_makes_no_process(world: World) -> None:
    world.engine.import_slowly()
    await world.start()
    await world.ask(Event.STOP)
    assert world.state() is State.STOPPED
    world.engine.import_slowly(False)
    await world.rest()
    assert not world.engine.processes
    assert await world.causes() == [Cause.STOPPED]


async def test_a_stop_during_the_fork_ends_the_process_that_comes_of_it(world: World) -> None:
    world.engine.fork_slowly()
    await world.start()
    await world.ask(Event.STOP)
    assert world.state() is State.STOPPING
    world.engine.fork_slowly(False)
    await world.rest()
    assert world.state() is State.STOPPED
    assert world.process.received == [signal.SIGTERM]


# ---- start and restart


async def test_the_start_timeout_ends_a_process_that_is_not_ready(world: World) -> None:
    await world.start(Behaviour(ready=False))
    await world.after_exactly(START_TIMEOUT_S, State.BACKOFF)
    assert world.process.received == [signal.SIGTERM]
    assert await world.causes() == [Cause.START_TIMEOUT]


async def test_an_import_that_takes_too_long_is_a_start_timeout(world: World) -> None:
    world.engine.import_slowly()
    await world.start()
    await world.after_exactly(START_TIMEOUT_S, State.BACKOFF)
    assert await world.causes() == [Cause.START_TIMEOUT]
    assert world.actor.spawn_error is not None
    assert "not imported within 30 s" in world.actor.spawn_error.detail


async def test_a_restart_while_stopping_starts_again_when_all_is_gone(world: World) -> None:
    await world.start(Behaviour(deaf=True))
    await world.ask(Event.STOP)
    await world.ask(Event.RESTART)
    assert (world.state(), world.actor.bot.goal) == (State.STOPPING, Goal.UP)
    world.process.keeps_descendants = True
    await world.end(0)
    assert world.state() is State.STOPPING
    assert len(world.engine.processes) == 1
    world.process.end_descendants()
    await world.rest()
    assert world.state() is State.RUNNING
    assert len(world.engine.processes) == 2
    assert await world.causes() == [Cause.RESTARTED, None]
    assert world.actor.bot.restarts == 1


async def test_what_an_older_run_reports_late_is_dropped(world: World) -> None:
    await world.start(Behaviour(ready=False))
    older = world.actor.run_id
    assert older is not None
    await world.end(1)
    await world.advance(0.5)
    assert world.actor.run_id != older
    world.actor.post(Ready(older))
    world.actor.post(Ended(older, dead(3)))
    await world.rest()
    assert world.state() is State.STARTING
    assert world.actor.ready_at is None
    assert await world.causes() == [Cause.CRASHED, None]


# ---- crashes


async def test_a_crash_loop_gives_up_after_growing_delays(world: World) -> None:
    await world.start()
    for delay_s in (0.5, 1.0, 2.0):
        await world.end(1)
        assert world.state() is State.BACKOFF
        await world.after_exactly(delay_s, State.RUNNING)
    await world.end(1)
    assert world.state() is State.FAILED
    assert "gave up after 3 restarts within 60 s" in world.actor.bot.reason
    await world.advance(AN_AGE_S)
    assert world.state() is State.FAILED
    assert world.actor.bot.restarts == 3
    assert await world.causes() == [Cause.CRASHED] * 4


async def test_a_run_longer_than_the_window_begins_the_count_anew(world: World) -> None:
    await world.start()
    for delay_s in (0.5, 1.0, 2.0):
        await world.end(1)
        await world.advance(delay_s)
    await world.advance(POLICY.within_s + A_MOMENT_S)
    await world.end(1)
    assert world.state() is State.BACKOFF
    await world.after_exactly(0.5, State.RUNNING)


@pytest.mark.parametrize("event", [Event.START, Event.RESTART])
async def test_a_start_by_hand_begins_the_count_anew(world: World, event: Event) -> None:
    await world.start(max_restarts=1)
    await world.end(1)
    await world.advance(0.5)
    await world.end(1)
    assert world.state() is State.FAILED
    await world.ask(event)
    assert world.state() is State.RUNNING
    await world.end(1)
    assert world.state() is State.BACKOFF
    await world.after_exactly(0.5, State.RUNNING)


async def test_a_failed_bot_is_tried_again_slowly(world: World) -> None:
    await world.start(max_restarts=0, retry_after_s=300.0)
    await world.end(1)
    assert world.state() is State.FAILED
    assert not world.retired
    await world.after_exactly(300.0, State.RUNNING)


async def test_a_permanent_failure_is_not_tried_again(world: World) -> None:
    await world.start(Behaviour(import_error="no module"), retry_after_s=300.0)
    assert world.state() is State.FAILED
    assert await world.causes() == [Cause.SPAWN_FAILED]
    await world.advance(AN_AGE_S)
    assert world.state() is State.FAILED
    assert len(await world.runs()) == 1


async def test_a_passing_spawn_failure_is_tried_again(world: World) -> None:
    world.engine.fail_next(errors.SpawnFailed("no memory"))
    await world.start()
    assert world.state() is State.BACKOFF
    await world.after_exactly(0.5, State.RUNNING)
    assert await world.causes() == [Cause.SPAWN_FAILED, None]


@pytest.mark.parametrize(("policy", "exit_code", "state"), [
    (Policy.NEVER, 0, State.EXITED),
    (Policy.NEVER, 1, State.FAILED),
    (Policy.ON_FAILURE, 0, State.EXITED),
    (Policy.ON_FAILURE, 1, State.BACKOFF),
    (Policy.ALWAYS, 0, State.BACKOFF),
    (Policy.ALWAYS, 1, State.BACKOFF),
])  # fmt: skip
async def test_the_policies(world: World, policy: Policy, exit_code: int, state: State) -> None:
    await world.start(policy=policy)
    await world.end(exit_code)
    assert world.state() is state
    await world.advance(AN_AGE_S)
    assert world.state() is (State.RUNNING if state is State.BACKOFF else state)


# ---- shutdown and outages


async def test_a_shutdown_keeps_the_goal(world: World) -> None:
    await world.start(Behaviour(deaf=True))
    world.actor.post(ShutDown(3.0))
    await world.rest()
    await world.after_exactly(3.0, State.STOPPED)
    assert await world.causes() == [Cause.STOP_TIMEOUT]
    written = await world.written()
    assert (written.state, written.goal) == (State.STOPPED, Goal.UP)


async def test_a_shutdown_drops_every_start_to_come(world: World) -> None:
    await world.start()
    await world.end(1)
    assert world.state() is State.BACKOFF
    world.actor.post(ShutDown(3.0))
    await world.advance(AN_AGE_S)
    assert (world.state(), world.actor.bot.goal) == (State.STOPPED, Goal.UP)
    assert len(world.engine.processes) == 1


async def test_a_ledger_that_cannot_be_written_is_waited_for_and_is_no_crash(world: World, tmp_path: Path) -> None:
    await world.make(max_restarts=1)
    actor = world.actor

    async def next_try() -> None:
        starts = actor.starts
        world.loop.advance(LEDGER_RETRY_S)
        await actor.until(lambda: actor.starts > starts and actor.state in (State.BACKOFF, State.RUNNING))

    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        actor.begin("asked to start")
        await actor.until(lambda: actor.state is State.BACKOFF)
        await next_try()
        await next_try()
        assert world.state() is State.BACKOFF
        assert "waits for the ledger" in actor.bot.reason
        assert not world.engine.processes
    while world.state() is not State.RUNNING:
        await next_try()
    await world.rest()
    assert await world.causes() == [None]
    await world.end(1)
    assert world.state() is State.BACKOFF
    await world.after_exactly(0.5, State.RUNNING)
