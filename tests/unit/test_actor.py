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

from supervisor import settings
from supervisor.core import errors
from supervisor.core.attempt import KILL_AGAIN_S, Attempt
from supervisor.core.events import Ended, FoundIdle, Made, MadeForLater, Ready, ShutDown
from supervisor.core.machine import DUMP_S, LEDGER_RETRY_S
from supervisor.core.model import (
    Bot,
    Cause,
    Exit,
    Goal,
    Missed,
    NewBot,
    Overlap,
    Policy,
    RestartPolicy,
    Run,
    RunQuery,
    Schedule,
    State,
    now_us,
)
from supervisor.core.table import Step
from supervisor.fleet import credentials
from supervisor.fleet.actor import Actor
from supervisor.fleet.listing import view_of
from supervisor.fleet.pulse import EVERY_S, Pulse
from supervisor.fleet.shared import Shared
from supervisor.fleet.starts import Rate, Starts
from supervisor.metrics import Metrics
from supervisor.store import Ledger
from tests.fakes import Behaviour, FakeEngine, FakeProcess
from tests.ledgers import create_bot
from tests.waiting import wait_for

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


class World:
    """One bot and what is around it."""

    actor: Actor

    def __init__(self, directory: Path, ledger: Ledger) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ManualClockLoop)

        def writes() -> int:
            # What is held back for a moment would be so for ever.
            ledger.hurry()
            return ledger.queued

        loop.threads_work = writes
        self.loop = loop
        self.ledger = ledger
        self.kinds = {"any": Behaviour()}
        self.engine = FakeEngine(self.kinds, lambda bot_id, run_id, values: self.actor.notified(run_id, values))
        self.retired: list[Actor] = []
        self.claims = credentials.Claims()
        self.starts = Starts(lambda kind: self.rate)
        self._shared = Shared(
            engine=self.engine,
            ledger=ledger,
            kind=lambda kind: self.spec,
            terms=lambda kind: self.spec.terms,
            check=lambda bot: self.engine.check(bot.kind, bot.params),
            starts=self.starts,
            pulse=Pulse(),
            claims=self.claims,
            metrics=Metrics(),
        )
        self.settle()
        self.rate = Rate()

    async def start(self, behaviour: Behaviour | None = None, **policy: Any) -> None:
        """Makes the bot and starts it; returns when all that follows by itself has happened."""
        await self.make(behaviour, **policy)
        self.actor.born(Made())
        await self.rest()

    def settle(self, **fields: Any) -> None:
        """What the settings say of the kind."""
        self.spec = settings.Kind(target="any:main", start_timeout_s=START_TIMEOUT_S, **fields)

    async def make(self, behaviour: Behaviour | None = None, schedule: Schedule | None = None, **policy: Any) -> None:
        self.kinds["any"] = behaviour or Behaviour()
        restart = dataclasses.replace(POLICY, **policy)
        own = {"restart": dataclasses.asdict(restart), "grace_s": GRACE_S}
        if schedule is not None:
            own["schedule"] = dataclasses.asdict(schedule)
        new = NewBot(
            kind="any",
            params={"account": "alice"},
            restart=restart,
            grace_s=GRACE_S,
            schedule=schedule,
            overrides=own,
        )
        bot, _ = await create_bot(self.ledger, new)
        self.actor = Actor(bot, self._shared, self.retired.append)

    async def rest(self) -> None:
        """Returns when the bot waits for its deadline, its process or a command, and the ledger has everything."""
        await self.loop.rest()

    async def ask(self, verb: Step, grace_s: float | None = None) -> None:
        await self.actor.ask(verb, grace_s)
        await self.rest()

    async def advance(self, seconds: float) -> None:
        self.loop.advance(seconds)
        await self.rest()

    async def tick(self, seconds: float) -> None:
        """Time goes on as for a supervisor that is awake."""
        for _ in range(round(seconds / EVERY_S)):
            await self.advance(EVERY_S)

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
    def attempt(self) -> Attempt:
        assert self.actor.machine.attempt is not None
        return self.actor.machine.attempt

    @property
    def run_id(self) -> int | None:
        return self.attempt.run_id

    @property
    def due(self) -> int | None:
        waiting = self.actor.machine.waiting
        return waiting.due if waiting else None

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
    await world.ask(Step.STOP)
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
    await world.ask(Step.STOP)
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
    await world.ask(Step.STOP)
    await world.advance(2.0)
    await world.ask(Step.STOP, second_s)
    await world.after_exactly(left_s, State.STOPPED)


async def test_a_stop_in_backoff_stays_stopped(world: World) -> None:
    await world.start()
    await world.end(1)
    assert world.state() is State.BACKOFF
    await world.ask(Step.STOP)
    assert world.state() is State.STOPPED
    await world.advance(AN_AGE_S)
    assert world.state() is State.STOPPED
    assert len(world.engine.processes) == 1


async def test_a_stop_before_the_kind_is_imported_makes_no_process(world: World) -> None:
    world.engine.import_slowly()
    await world.start()
    await world.ask(Step.STOP)
    assert world.state() is State.STOPPED
    world.engine.import_slowly(False)
    await world.rest()
    assert not world.engine.processes
    assert await world.causes() == [Cause.STOPPED]


async def test_a_stop_during_the_fork_ends_the_process_that_comes_of_it(world: World) -> None:
    world.engine.fork_slowly()
    await world.start()
    await world.ask(Step.STOP)
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
    await world.ask(Step.STOP)
    await world.ask(Step.RESTART)
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
    older = world.run_id
    assert older is not None
    await world.end(1)
    await world.advance(0.5)
    assert world.run_id != older
    world.actor.post(Ready(older))
    world.actor.post(Ended(older, dead(3)))
    await world.rest()
    assert world.state() is State.STARTING
    assert world.attempt.ready_at is None
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


@pytest.mark.parametrize("verb", [Step.START, Step.RESTART])
async def test_a_start_by_hand_begins_the_count_anew(world: World, verb: Step) -> None:
    await world.start(max_restarts=1)
    await world.end(1)
    await world.advance(0.5)
    await world.end(1)
    assert world.state() is State.FAILED
    await world.ask(verb)
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
        starts = actor.machine.starts
        world.loop.advance(LEDGER_RETRY_S)
        await actor.until(lambda: actor.machine.starts > starts and actor.state in (State.BACKOFF, State.RUNNING))

    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        actor.born(Made())
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


# ---- ready


async def test_what_a_process_says_before_its_fork_is_answered_is_kept(world: World) -> None:
    world.engine.fork_slowly()
    await world.start(Behaviour(ready=False))
    [run] = await world.runs()
    world.actor.notified(run.run_id, {"READY": "1", "STATUS": "connected"})
    world.engine.fork_slowly(False)
    await world.rest()
    assert (world.state(), world.actor.live.status) == (State.RUNNING, "connected")


async def test_being_alive_for_a_moment_can_be_enough(world: World) -> None:
    world.settle(ready=2.0)
    await world.start(Behaviour(ready=False))
    assert world.state() is State.STARTING
    await world.after_exactly(2.0, State.RUNNING)
    assert (await world.runs())[0].ready_at is not None


async def test_being_alive_is_not_enough_for_a_kind_that_says_when_it_is_ready(world: World) -> None:
    world.settle(ready="notify")
    await world.start(Behaviour(ready=False, deaf=True))
    await world.after_exactly(START_TIMEOUT_S, State.STOPPING)
    await world.advance(GRACE_S)
    assert await world.causes() == [Cause.START_TIMEOUT]


# ---- heartbeat


async def test_a_missed_heartbeat_is_written_down_and_ends_the_run(world: World) -> None:
    world.settle(heartbeat_s=3.0)
    await world.start()
    for _ in range(3):
        await world.tick(2.0)
        world.engine.notify(world.actor.bot.bot_id, WATCHDOG="1")
    await world.tick(2.75)
    assert world.state() is State.RUNNING
    await world.tick(0.25)
    assert world.state() is State.STOPPING
    assert (world.process.dumps, world.process.received) == (1, [])
    world.process.stacks = ("Thread 1:", "  in sleep")
    await world.tick(DUMP_S)
    assert world.state() is State.BACKOFF
    assert world.process.received == [signal.SIGTERM]
    [run] = await world.runs()
    assert run.cause is Cause.HEARTBEAT
    assert run.detail.startswith("missed its heartbeat")
    assert run.detail.endswith("\nThread 1:\n  in sleep")


async def test_a_supervisor_that_was_away_blames_nobody(world: World) -> None:
    world.settle(heartbeat_s=3.0)
    await world.start()
    await world.advance(AN_AGE_S)
    assert world.state() is State.RUNNING
    await world.tick(2.75)
    assert world.state() is State.RUNNING
    await world.tick(0.25)
    assert world.state() is State.STOPPING


async def test_nobody_is_watched_that_has_no_heartbeat(world: World) -> None:
    await world.start()
    await world.tick(100.0)
    assert world.state() is State.RUNNING
    assert not world.process.dumps


# ---- turns, budgets, claims


async def test_a_start_waits_for_its_turn_and_its_timeout_with_it(world: World) -> None:
    world.rate = Rate(at_once=1)
    other = world.starts.ask("another")
    await world.start()
    assert (world.state(), world.engine.processes) == (State.STARTING, [])
    assert view_of(world.actor).reason == "waits for its turn to start"
    await world.advance(AN_AGE_S)
    assert world.state() is State.STARTING
    other.release()
    await world.rest()
    assert world.state() is State.RUNNING
    assert world.starts.ask("another").granted


async def test_a_bot_that_is_stopped_gives_up_its_turn(world: World) -> None:
    world.rate = Rate(at_once=1)
    other = world.starts.ask("another")
    await world.start()
    await world.ask(Step.STOP)
    assert world.state() is State.STOPPED
    assert await world.runs() == []
    other.release()
    assert world.starts.ask("another").granted


async def test_a_start_that_leads_to_the_next_gives_up_its_turn(world: World) -> None:
    world.rate = Rate(at_once=1)
    await world.start(Behaviour(ready=False))
    world.process.end(0, asked=Cause.STOPPED)
    await world.rest()
    assert (world.state(), len(world.engine.processes)) == (State.STARTING, 2)
    world.engine.notify(world.actor.bot.bot_id, READY="1")
    await world.rest()
    assert world.state() is State.RUNNING
    assert world.starts.ask("another").granted


async def test_a_stop_right_behind_a_start_waits_for_no_turn(world: World) -> None:
    world.rate = Rate(at_once=1)
    assert world.starts.ask("another").granted
    await world.make()
    world.actor.born(Made())
    await world.ask(Step.STOP)
    assert world.state() is State.STOPPED


async def test_a_spent_budget_is_waited_for_and_is_no_restart(world: World) -> None:
    world.settle(budget={"key": "login:{account}", "starts": 2, "per_s": 3600.0})
    await world.start(max_restarts=1)
    await world.end(1)
    await world.advance(0.5)
    await world.end(1)
    assert world.state() is State.FAILED
    await world.ask(Step.START)
    assert world.state() is State.BACKOFF
    assert "login:alice is used up: 2 starts in 3600 s" in world.actor.bot.reason
    due = world.due
    assert due is not None
    assert 3590 < (due - now_us()) / 1e6 <= 3600
    assert len(world.engine.processes) == 2
    # The clock that counts is the one on the wall, which has not moved.
    await world.advance(AN_AGE_S)
    assert (world.state(), world.due) == (State.BACKOFF, due)


async def test_what_is_exclusive_is_held_until_the_bot_has_settled(world: World) -> None:
    world.settle(exclusive="login:{account}")
    await world.start()
    with pytest.raises(errors.CredentialHeld, match="held by bot 1"):
        world.claims.take("login:alice", 2)
    await world.end(1)
    assert world.state() is State.BACKOFF
    with pytest.raises(errors.CredentialHeld):
        world.claims.take("login:alice", 2)
    await world.ask(Step.STOP)
    world.claims.take("login:alice", 2)
    await world.ask(Step.START)
    assert world.state() is State.FAILED
    assert "login:alice is held by bot 2" in world.actor.bot.reason


async def test_what_is_exclusive_is_held_by_a_bot_that_starts_later_until_it_is_stopped(world: World) -> None:
    world.settle(exclusive="login:{account}")
    await world.make(schedule=HOURLY)
    world.actor.born(MadeForLater(now_us() + 3_600_000_000))
    with pytest.raises(errors.CredentialHeld, match="held by bot 1"):
        world.claims.take("login:alice", 2)
    await world.ask(Step.STOP)
    world.claims.take("login:alice", 2)


async def test_a_credential_that_has_another_name_by_now_is_let_go(world: World) -> None:
    world.settle(exclusive="login:{account}")
    await world.start()
    world.settle(exclusive="session:{account}")
    await world.ask(Step.RESTART)
    world.claims.take("login:alice", 2)
    with pytest.raises(errors.CredentialHeld, match="held by bot 1"):
        world.claims.take("session:alice", 2)
    await world.ask(Step.STOP)
    world.claims.take("session:alice", 2)


async def test_a_template_with_an_unknown_name_is_said(world: World) -> None:
    world.settle(exclusive="login:{acount}")
    await world.start()
    assert world.state() is State.FAILED
    assert "there is no parameter 'acount'" in world.actor.bot.reason


# ---- schedules

HOURLY = Schedule(cron="0 * * * *")


async def test_a_run_of_a_schedule_that_has_ended_is_followed_by_the_next(world: World) -> None:
    await world.start(schedule=HOURLY)
    await world.end(0)
    assert world.state() is State.SCHEDULED
    assert "waits for the next time of its schedule" in world.actor.bot.reason
    due = world.due
    assert due is not None
    assert due % 3_600_000_000 == 0
    assert 0 < due - now_us() <= 3_600_000_000


async def test_a_run_of_a_schedule_that_failed_is_tried_again_and_then_waits_for_the_next(world: World) -> None:
    await world.start(schedule=HOURLY, max_restarts=1)
    await world.end(1)
    await world.after_exactly(0.5, State.RUNNING)
    await world.end(1)
    assert world.state() is State.SCHEDULED
    assert "gave up after 1 restarts" in world.actor.bot.reason
    assert "waits for the next time of its schedule" in world.actor.bot.reason


@pytest.mark.parametrize(("missed", "state"), [(Missed.SKIP, State.SCHEDULED), (Missed.RUN, State.RUNNING)])
async def test_times_that_passed_while_no_supervisor_ran(world: World, missed: Missed, state: State) -> None:
    await world.make(schedule=dataclasses.replace(HOURLY, missed=missed))
    world.actor.born(FoundIdle(now_us() - 3_700_000_000))
    await world.rest()
    assert world.state() is state


async def test_the_next_run_may_end_the_one_before(world: World) -> None:
    await world.start(schedule=Schedule(cron="* * * * * *", overlap=Overlap.RESTART))
    first = world.process
    # A second on the wall is waited for by the wall.
    again = world.attempt.again
    assert again is not None
    await asyncio.to_thread(wait_for, lambda: now_us() > again.due)
    await world.advance(1.0)
    assert first.received == [signal.SIGTERM]
    assert world.process is not first
    assert await world.causes() == [Cause.RESTARTED, None]
