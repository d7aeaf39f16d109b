"""One bot: one task, one inbox, one deadline.

Commands, exits, readiness and deadlines are events in the inbox; the task takes them one at a time, so there is
no lock. What a watcher reports names the run that it watched, and is dropped when that run is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from botproc import wire
from supervisor import logs, settings
from supervisor.core import errors, restart, schedules
from supervisor.core.machine import Event, step
from supervisor.core.model import (
    SETTLED,
    Bot,
    Budget,
    Cause,
    Exit,
    Goal,
    LastExit,
    Missed,
    Overlap,
    Params,
    Run,
    State,
    Usage,
    now_us,
)
from supervisor.engine.protocol import Engine, Order, Process
from supervisor.fleet import credentials
from supervisor.fleet.pulse import Pulse
from supervisor.fleet.starts import Starts, Turn
from supervisor.metrics import Metrics
from supervisor.store import Ledger

log = logging.getLogger(__name__)

KILL_AGAIN_S = 5.0
"""A process that survived SIGKILL for so long gets it again, and its bot says so."""

LEDGER_RETRY_S = 1.0

LONGEST_WAIT_S = 60.0
"""A wait for a time of day looks at the clock so often: somebody may set it."""

DUMP_S = 0.5
"""How long a bot that missed its heartbeat has to write down its stacks before it is stopped."""

LAST_LINES = 10
_LAST_LINES_BYTES = 2048
_STACKS_LINES = 200
_STACKS_BYTES = 8192


class Logs(Protocol):
    """What an actor needs of the follower of its bot's log."""

    def follow(self, bot_id: int, offset: int) -> None: ...

    def ended(self, bot_id: int, offset: int) -> None: ...

    def leave(self, bot_id: int) -> None: ...

    def watch(
        self, bot_id: int, on_change: Callable[[], None], on_end: Callable[[int], None]
    ) -> Callable[[], None]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all bots share."""

    engine: Engine
    ledger: Ledger
    logs: Logs
    log_dir: Path
    kind: Callable[[str], settings.Kind]
    """What the settings say of a kind now; also of one that they no longer have."""
    starts: Starts
    pulse: Pulse
    claims: credentials.Claims
    metrics: Metrics

    def exclusive(self, kind: str, params: Params) -> str | None:
        """The credential with which no other bot may run. Raises SpawnFailed."""
        template = self.kind(kind).exclusive
        return None if template is None else credentials.name(template, params)

    def budget(self, kind: str, params: Params) -> Budget | None:
        """The budget that each start counts for. Raises SpawnFailed."""
        budget = self.kind(kind).budget
        if budget is None:
            return None
        return dataclasses.replace(budget.value, key=credentials.name(budget.key, params))


@dataclass(frozen=True, slots=True)
class Command:
    """A start, a stop or a restart that somebody asked for.

    `taken` is done when the machine has taken it: with the number of the bot's starts before that.
    """

    event: Event
    grace_s: float | None
    taken: asyncio.Future[int]


@dataclass(frozen=True, slots=True)
class ShutDown:
    """The supervisor ends: the process does too, but the goal stays."""

    grace_s: float


@dataclass(frozen=True, slots=True)
class Queued:
    """It waits for its turn to start."""


@dataclass(frozen=True, slots=True)
class Granted:
    """It is its turn."""


@dataclass(frozen=True, slots=True)
class Dumped:
    """The time to write down its stacks is over."""

    run_id: int


@dataclass(frozen=True, slots=True)
class Spawned:
    run_id: int
    process: Process


@dataclass(frozen=True, slots=True)
class NotSpawned:
    error: errors.SpawnFailed | errors.LedgerUnavailable | errors.BudgetSpent | errors.CredentialHeld


@dataclass(frozen=True, slots=True)
class Ready:
    run_id: int


@dataclass(frozen=True, slots=True)
class Ended:
    run_id: int
    exit_: Exit


@dataclass(frozen=True, slots=True)
class Swept:
    run_id: int
    exit_: Exit


Message = Command | ShutDown | Queued | Granted | Dumped | Spawned | NotSpawned | Ready | Ended | Swept


class Actor:
    """A bot and what becomes of it. `retire` is called when nothing is left to do, and all of it is durable."""

    def __init__(self, bot: Bot, around: Surroundings, retire: Callable[[Actor], None]) -> None:
        self.bot = bot
        self._around = around
        self._retire = retire
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._deadline: float | None = None
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[Bot]]] = []

        self.starts = 0
        self.process: Process | None = None
        self.run_id: int | None = None
        self.started_at: int | None = None
        self.started: float | None = None
        self.ready_at: int | None = None
        self.next_start_at: int | None = None
        self.status: str | None = None
        self.beat: float | None = None
        self.spawn_error: errors.Problem | None = None
        self.sample: tuple[float, float, float | None] | None = None

        self._asked: Cause | None = None
        self._stopping_since: float | None = None
        self._killed = False
        self._shutting_down = False
        self._counts = True
        """The next start by itself is one of the restarts that the policy limits."""
        self._turn: Turn | None = None
        self._needs_pulse = False
        self._claimed: str | None = None
        self._heard: float | None = None
        self._alive_due: float | None = None
        self._again_due: int | None = None
        self._until: int | None = None
        self._stacks: tuple[int, int | None] | None = None
        self._grace_s: float | None = None
        self._log_path = logs.log_path(around.log_dir, bot.bot_id)
        self._log_start = 0
        self._launching: asyncio.Task[None] | None = None
        self._cancellable = False
        self._watching: asyncio.Task[None] | None = None
        self._restarts: deque[float] = deque()
        self._written: asyncio.Future[None] | None = None
        self._task = asyncio.create_task(self._main(), name=f"bot-{bot.bot_id}")

    # ---- from outside

    @property
    def state(self) -> State:
        return self.bot.state

    @property
    def place(self) -> int | None:
        """How many starts go before its own now; None while it does not wait for its turn."""
        return None if self._turn is None or self._turn.granted else self._turn.place

    @property
    def idle(self) -> bool:
        """Nothing is left to do: no process, no launch, no message, no deadline, no write."""
        return (
            self.state in SETTLED
            and self._deadline is None
            and self._inbox.empty()
            and (self._written is None or self._written.done())
        )

    def begin(self, reason: str, run: tuple[int, int] | None = None) -> None:
        """The first start in this supervisor's life.

        `run`: the run_id and started_at of its row, if that is in the ledger already, and with it this first event.
        """
        self._enter(State.STARTING, reason, run=run)

    def settle(self, state: State, reason: str) -> None:
        """What an earlier supervisor left half done is over."""
        self._enter(state, reason)

    def wait(self, reason: str, until: int) -> None:
        """It is not started before this time, in microseconds since the epoch; that counts for no restart."""
        self._counts = False
        self._enter(State.BACKOFF, reason, until=until)

    def resume(self, since: int, reason: str) -> None:
        """The first start in this supervisor's life of a bot whose goal is up: now, or when its schedule says so.

        `since`: when its latest run began, or it was made.
        """
        schedule = self.bot.schedule
        if schedule is None:
            self.begin(reason)
        elif schedule.missed is Missed.RUN and schedules.missed(schedule, since, now_us()):
            self.begin("starting: a time of its schedule passed while no supervisor ran")
        elif (due := schedules.next_after(schedule, now_us())) is None:
            self._enter(State.EXITED, "its schedule has no further time")
        else:
            self.wait("waits for the next time of its schedule", due)

    def lose(self, run: Run) -> None:
        """The process of an earlier supervisor's run is gone, and nobody saw how it ended."""
        self.run_id, self._log_start = run.run_id, run.log_start
        exit_ = Exit(exit_code=None, signal=None, ended_at=now_us(), cpu_seconds=None, max_rss_bytes=None)
        self._close_run(exit_, Cause.LOST, log_end=logs.size(self._log_path), last_lines=())
        self.run_id = None
        if self.bot.goal is Goal.UP:
            self.resume(run.started_at, "starting again: its process was gone when the supervisor came back")
        else:
            self.settle(State.STOPPED, "stopped: its process was gone when the supervisor came back")

    def adopt(self, run: Run, process: Process) -> None:
        """Carries on with a run of an earlier supervisor."""
        self.run_id, self.process = run.run_id, process
        self.started_at, self.ready_at = run.started_at, run.ready_at or now_us()
        self.started = self._loop.time() - (now_us() - run.started_at) / 1e6
        self._log_start = run.log_start
        if run.identity is None and process.identity.pid:
            self._around.ledger.set_identity(run.run_id, process.identity)
        if run.ready_at is None:
            self._around.ledger.set_ready(run.run_id, self.ready_at)
        self._around.logs.follow(self.bot.bot_id, logs.size(self._log_path))
        self._watch(run.run_id, process)
        with contextlib.suppress(errors.SpawnFailed, errors.CredentialHeld):
            # It runs, whoever else has claimed the same.
            self.claim()
        if self.bot.goal is Goal.DOWN:
            self._asked = Cause.STOPPED
            self._enter(State.STOPPING, "asked to stop before the supervisor ended")
        elif self.bot.state in (State.STOPPING, State.KILLING):
            self._asked = Cause.RESTARTED
            self._enter(State.STOPPING, "asked to restart before the supervisor ended")
        else:
            self._enter(State.RUNNING, "its process was found running when the supervisor came back")

    def post(self, message: Message) -> None:
        self._inbox.put_nowait(message)

    async def ask(self, event: Event, grace_s: float | None = None) -> int:
        """Gives a command, and returns when the machine has taken it: how often the bot had been started by then."""
        command = Command(event, grace_s, self._loop.create_future())
        self.post(command)
        return await command.taken

    async def until(self, predicate: Callable[[], bool]) -> Bot:
        """The bot as it was when the predicate first held, which is asked after each single change."""
        if predicate():
            return self.bot
        held: asyncio.Future[Bot] = self._loop.create_future()
        self._waiters.append((predicate, held))
        try:
            return await held
        finally:
            self._waiters = [waiter for waiter in self._waiters if waiter[1] is not held]

    async def durable(self) -> None:
        """Waits until what the bot's state is now is in the ledger."""
        while self._written is not None and not self._written.done():
            self._around.ledger.hurry()
            await asyncio.shield(self._written)

    def close(self) -> None:
        """Ends the task; the process, if there is one, lives on."""
        for task in (self._task, self._launching, self._watching):
            if task is not None:
                task.cancel()
        self._let_go()

    # ---- the task

    async def _main(self) -> None:
        while True:
            message: Message | None = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._deadline):
                    message = await self._inbox.get()
            starts = self.starts
            try:
                self._handle(message)
            except Exception:
                # A bug; but a bot that can no longer be stopped would be worse than one event lost.
                log.exception("bot-%d: cannot handle %r in state %s", self.bot.bot_id, message, self.state)
            if isinstance(message, Command) and not message.taken.done():
                message.taken.set_result(starts)
            self._tell()
            if self.idle:
                self._retire(self)

    def _tell(self) -> None:
        for predicate, held in self._waiters:
            if not held.done() and predicate():
                held.set_result(self.bot)

    def _handle(self, message: Message | None) -> None:
        match message:
            case None:
                self._on_deadline()
            case Command():
                self._on_command(message)
            case ShutDown():
                self._on_shut_down(message)
            case Spawned(process=process):
                self._on_spawned(process)
            case NotSpawned():
                self._on_not_spawned(message)
            case Ready(run_id=run_id) if run_id == self.run_id:
                if self.state is State.STARTING:
                    self._become_ready(run_id, "its process is ready")
            case Queued() if self.state is State.STARTING and self.process is None:
                # Its time to start has not begun.
                self._deadline = None
                self.bot = dataclasses.replace(self.bot, reason="waits for its turn to start")
            case Granted() if self.state is State.STARTING and self.process is None:
                self._deadline = self._loop.time() + self._kind.start_timeout_s
                self.bot = dataclasses.replace(self.bot, reason="starting")
            case Dumped(run_id=run_id) if run_id == self.run_id:
                self._on_dumped()
            case Ended(run_id=run_id, exit_=exit_) if run_id == self.run_id:
                self._on_ended(exit_)
            case Swept(run_id=run_id, exit_=exit_) if run_id == self.run_id:
                self._on_swept(exit_)

    def _on_command(self, command: Command) -> None:
        event, before = command.event, self.state
        if event is Event.START and before in (State.STARTING, State.RUNNING):
            return
        if event is Event.STOP and before is State.STOPPED and self.bot.goal is Goal.DOWN:
            return
        self.bot = dataclasses.replace(self.bot, goal=Goal.DOWN if event is Event.STOP else Goal.UP)
        if command.grace_s is not None:
            self._grace_s = command.grace_s
        if event is not Event.STOP:
            # Somebody who starts it by hand has seen what was wrong: the count begins anew.
            self._restarts.clear()
        ours = before in (State.STOPPING, State.KILLING) and self._asked in (Cause.STOPPED, Cause.RESTARTED)
        if before in (State.STARTING, State.RUNNING) or (ours and event is not Event.START):
            self._asked = Cause.STOPPED if event is Event.STOP else Cause.RESTARTED
        reason = f"asked to {event}"
        if before in (State.STOPPING, State.KILLING):
            self._hurry()
            if event is not Event.STOP:
                reason += ": waits until the earlier process is gone"
        self._step(event, reason)

    def _on_shut_down(self, message: ShutDown) -> None:
        self._shutting_down = True
        self._grace_s = min(self.grace_s, message.grace_s)
        if self.state in SETTLED:
            self._deadline = None
            return
        if self.state in (State.STARTING, State.RUNNING):
            self._asked = Cause.STOPPED
        self._hurry()
        self._step(Event.STOP, "the supervisor shuts down")

    def _hurry(self) -> None:
        """A later stop may be less patient than the one before."""
        if self.state is State.STOPPING and self._grace_s is not None and self._deadline is not None:
            self._deadline = min(self._deadline, self._loop.time() + self._grace_s)

    def _on_deadline(self) -> None:
        self._deadline = None
        match self.state:
            case State.STARTING:
                if self._alive_due is not None and self.run_id is not None and self._loop.time() >= self._alive_due:
                    self._become_ready(self.run_id, f"its process has been alive for {self._kind.ready} s")
                    return
                self._asked = Cause.START_TIMEOUT
                self._step(Event.DEADLINE, f"was not ready within {self._kind.start_timeout_s:g} s")
            case State.RUNNING:
                self._on_running_deadline()
            case State.STOPPING:
                self._step(Event.DEADLINE, f"did not end within the grace of {self.grace_s:g} s: SIGKILL")
            case State.KILLING:
                self._step(Event.DEADLINE, "SIGKILL did not end the process: it hangs in the kernel, or is frozen")
            case State.BACKOFF | State.FAILED:
                if self._until is not None and now_us() < self._until:
                    # The clock was set back, or the wait is a long one.
                    self._wait_until(self._until)
                    return
                restarts = self.bot.restarts
                if self._counts:
                    self._restarts.append(self._loop.time())
                    restarts += 1
                self._step(Event.DEADLINE, "starting again" if self._counts else "starting", restarts=restarts)

    def _wait_until(self, at: int) -> None:
        """For a time of day, in microseconds since the epoch."""
        self.next_start_at = self._until = at
        self._deadline = self._loop.time() + min(max(0.0, (at - now_us()) / 1e6), LONGEST_WAIT_S)

    def _become_ready(self, run_id: int, reason: str) -> None:
        self.ready_at = now_us()
        self._around.ledger.set_ready(run_id, self.ready_at)
        if self.started_at is not None:
            self._around.metrics.ready(self.bot.kind, max(0, self.ready_at - self.started_at) / 1e6)
        self._step(Event.READY, reason)

    # ---- while it runs

    def _on_running_deadline(self) -> None:
        now = self._loop.time()
        heartbeat_due = self._heartbeat_due()
        if heartbeat_due is not None and now >= heartbeat_due:
            assert self._heard is not None
            self._asked = Cause.HEARTBEAT
            self._step(Event.DEADLINE, f"missed its heartbeat: it was silent for {now - self._heard:.1f} s")
        elif self._again_due is not None and now_us() >= self._again_due:
            self._asked = Cause.RESTARTED
            self._step(Event.RESTART, "its schedule begins the next run, and ends this one")
        else:
            self._set_running_deadline()

    def _set_running_deadline(self) -> None:
        deadlines = []
        if (heartbeat_due := self._heartbeat_due()) is not None:
            deadlines.append(heartbeat_due)
        if self._again_due is not None:
            deadlines.append(self._loop.time() + min(max(0.0, (self._again_due - now_us()) / 1e6), LONGEST_WAIT_S))
        self._deadline = min(deadlines, default=None)

    def _heartbeat_due(self) -> float | None:
        """When it has been silent for too long, counted from when we could hear it."""
        heartbeat_s = self._kind.heartbeat_s
        if heartbeat_s is None or self._heard is None:
            return None
        if not self._needs_pulse:
            self._needs_pulse = True
            self._around.pulse.need()
        return max(self._heard, self._around.pulse.awake_since()) + heartbeat_s

    def _on_dumped(self) -> None:
        assert self._stacks is not None
        self._stacks = self._stacks[0], logs.size(self._log_path)
        if self.process is not None:
            self.process.terminate()

    def _what_it_dumped(self, log_end: int) -> str:
        """The stacks that a bot wrote down when it had missed its heartbeat."""
        if self._stacks is None:
            return ""
        start, end = self._stacks
        end = log_end if end is None else end
        stacks = logs.tail(self._log_path, _STACKS_LINES, start=start, end=end, max_bytes=_STACKS_BYTES)
        return "".join(f"\n{line}" for line in logs.lines_of(stacks))

    @property
    def _kind(self) -> settings.Kind:
        return self._around.kind(self.bot.kind)

    @property
    def grace_s(self) -> float:
        return self.bot.grace_s if self._grace_s is None else self._grace_s

    # ---- states

    def _step(
        self,
        event: Event,
        reason: str,
        *,
        delay_s: float | None = None,
        until: int | None = None,
        restarts: int | None = None,
    ) -> None:
        before = self.state
        after = step(before, event)
        if restarts is not None:
            if restarts > self.bot.restarts:
                self._around.metrics.restarted(self.bot.kind)
            self.bot = dataclasses.replace(self.bot, restarts=restarts)
        self._enter(after, reason, entered=after is not before, delay_s=delay_s, until=until)

    def _enter(
        self,
        state: State,
        reason: str,
        *,
        entered: bool = True,
        delay_s: float | None = None,
        until: int | None = None,
        run: tuple[int, int] | None = None,
    ) -> None:
        """The state and what it does on entry: everything that a state means stands here."""
        if state is not State.STARTING:
            self._end_turn()
        self.bot = dataclasses.replace(self.bot, state=state, reason=reason)
        now = self._loop.time()
        self.next_start_at = self._until = None
        match state:
            case State.STARTING:
                self.starts += 1
                self._deadline = now + self._kind.start_timeout_s
                self._asked, self._killed, self._grace_s = None, False, None
                self.spawn_error = None
                self._counts = True
                self._alive_due = self._stacks = None
                run_id, self.started_at = run or (None, now_us())
                self._launching = asyncio.create_task(self._launch(run_id), name=f"launch bot-{self.bot.bot_id}")
            case State.RUNNING:
                self._heard = now
                self._again_due = None
                schedule = self.bot.schedule
                if schedule is not None and schedule.overlap is Overlap.RESTART:
                    self._again_due = schedules.next_after(schedule, now_us())
                self._set_running_deadline()
            case State.STOPPING:
                if entered:
                    self._stopping_since = now
                    self._deadline = now + self.grace_s
                    self._end_process()
            case State.KILLING:
                if entered or self._deadline is None:
                    self._killed = True
                    self._deadline = now + KILL_AGAIN_S
                    if self.process is not None:
                        self.process.kill()
            case State.BACKOFF if until is not None:
                self._wait_until(until)
            case State.BACKOFF | State.FAILED if delay_s is not None:
                self._deadline = now + delay_s
                self.next_start_at = now_us() + int(delay_s * 1e6)
            case _:
                self._deadline = None
        if state in SETTLED:
            self._around.engine.forget(self.bot.bot_id)
            self._let_go()
        if run is None:
            self._record()

    def _record(self) -> None:
        bot = self.bot
        event, written = self._around.ledger.record(
            bot.bot_id, self.run_id, bot.state, bot.goal, bot.reason, now_us(), bot.last_exit
        )
        self._written = written
        if bot.state in SETTLED:
            written.add_done_callback(lambda _: self.idle and self._retire(self))
        level = logging.WARNING if bot.state is State.FAILED else logging.INFO
        extra = {"action": "state", "bot_id": bot.bot_id, "event_id": event.event_id, "state": bot.state}
        log.log(level, "bot-%d %s: %s", bot.bot_id, bot.state, bot.reason, extra=extra)

    def claim(self) -> None:
        """Takes the credential with which no other bot may run, if its kind has one; held until it has settled.

        Raises CredentialHeld, SpawnFailed.
        """
        credential = self._around.exclusive(self.bot.kind, self.bot.params)
        if credential is not None:
            self._around.claims.take(credential, self.bot.bot_id)
            self._claimed = credential

    def _let_go(self) -> None:
        """Of all that a bot holds which others wait for."""
        self._end_turn()
        if self._claimed is not None:
            self._around.claims.release(self._claimed, self.bot.bot_id)
            self._claimed = None
        if self._needs_pulse:
            self._around.pulse.release()
            self._needs_pulse = False

    def _end_turn(self) -> None:
        if self._turn is not None:
            self._turn.release()
            self._turn = None

    def _end_process(self) -> None:
        if self.process is not None and self._asked is Cause.HEARTBEAT:
            self._stacks = logs.size(self._log_path), None
            self.process.dump()
            assert self.run_id is not None
            self._loop.call_later(DUMP_S, self.post, Dumped(self.run_id))
        elif self.process is not None:
            self.process.terminate()
        elif self._launching is not None and self._cancellable:
            self._launching.cancel()

    # ---- launch

    async def _launch(self, run_id: int | None) -> None:
        """Row, fork, pid: in this order. Reports as Spawned or NotSpawned."""
        bot, around = self.bot, self._around
        try:
            self.claim()
            self._turn = turn = around.starts.ask(bot.kind)
            if not turn.granted:
                self.post(Queued())
                self._cancellable = True
                await turn
                self._cancellable = False
                self.post(Granted())
            if run_id is None:
                self._log_start = logs.size(self._log_path)
                assert self.started_at is not None
                run_id = await around.ledger.open_run(
                    bot.bot_id,
                    kind=bot.kind,
                    params=bot.params,
                    started_at=self.started_at,
                    log_start=self._log_start,
                    restarts=bot.restarts,
                    budget=around.budget(bot.kind, bot.params),
                )
            self.run_id = run_id
            if self.state is State.STARTING:
                self._cancellable = True
                await around.engine.warm(bot.kind)
                self._cancellable = False
            if self.state is not State.STARTING:
                raise self._given_up()
            around.logs.follow(bot.bot_id, self._log_start)
            order = Order(
                run_id=run_id,
                bot_id=bot.bot_id,
                kind=bot.kind,
                name=bot.name,
                labels=bot.labels,
                params=bot.params,
                grace_s=bot.grace_s,
                limits=bot.limits,
            )
            process = await around.engine.spawn(order)
        except asyncio.CancelledError:
            self.post(NotSpawned(self._given_up()))
        except (
            errors.SpawnFailed,
            errors.LedgerUnavailable,
            errors.BudgetSpent,
            errors.CredentialHeld,
        ) as error:
            self.post(NotSpawned(error))
        else:
            self._written = around.ledger.set_identity(run_id, process.identity)
            self.post(Spawned(run_id, process))
        finally:
            self._cancellable = False

    def _given_up(self) -> errors.SpawnFailed:
        if self._asked is Cause.START_TIMEOUT:
            return errors.SpawnFailed(
                f"the kind {self.bot.kind} was not imported within {self._kind.start_timeout_s:g} s"
            )
        return errors.SpawnFailed("it was stopped before it had a process")

    def _on_spawned(self, process: Process) -> None:
        assert self.run_id is not None
        self._launching = None
        self.process = process
        self.started = self._loop.time()
        self.sample = None
        self._around.metrics.started(self.bot.kind)
        self._watch(self.run_id, process)
        if self.state is State.STARTING and isinstance(self._kind.ready, float) and self._deadline is not None:
            self._alive_due = self.started + self._kind.ready
            self._deadline = min(self._deadline, self._alive_due)
        if self.state is State.STOPPING:
            process.terminate()
        elif self.state is State.KILLING:
            process.kill()

    def _on_not_spawned(self, message: NotSpawned) -> None:
        self._launching = None
        error = message.error
        # A run that never had a process still ends with one of the codes that both sides share.
        exit_ = Exit(
            exit_code=0 if self._asked in (Cause.STOPPED, Cause.RESTARTED) else wire.EXIT_UNUSABLE,
            signal=None,
            ended_at=now_us(),
            cpu_seconds=None,
            max_rss_bytes=None,
            detail=error.detail,
        )
        self.spawn_error = error
        if isinstance(error, errors.LedgerUnavailable) and self._asked is None:
            # Not the bot's failure: no further try is counted, and there is one each second until the ledger works.
            self._step(Event.GONE_RETRY, f"waits for the ledger: {error.detail}", delay_s=LEDGER_RETRY_S)
            self._counts = False
            return
        if isinstance(error, errors.BudgetSpent) and self._asked is None:
            self._step(Event.GONE_RETRY, f"waits: {error.detail}", until=error.until)
            self._counts = False
            return
        cause = self._asked or Cause.SPAWN_FAILED
        permanent = isinstance(error, errors.CredentialHeld) or (
            isinstance(error, errors.SpawnFailed) and error.permanent
        )
        if self.run_id is not None:
            self._close_run(exit_, cause, log_end=self._log_start, last_lines=())
        self._judge(cause, exit_, permanent=permanent)

    # ---- end

    def _watch(self, run_id: int, process: Process) -> None:
        async def watch() -> None:
            exit_ = await process.wait()
            self.post(Ended(run_id, exit_))
            self.post(Swept(run_id, exit_ if exit_.swept else await process.sweep()))

        self._watching = asyncio.create_task(watch(), name=f"watch bot-{self.bot.bot_id}")

    def _on_ended(self, exit_: Exit) -> None:
        assert self.run_id is not None
        assert self.process is not None
        log_end = logs.size(self._log_path)
        tail = logs.tail(self._log_path, LAST_LINES, start=self._log_start, end=log_end, max_bytes=_LAST_LINES_BYTES)
        self._around.logs.ended(self.bot.bot_id, log_end)
        cause = restart.cause_of(exit_, self._asked, self._killed)
        self._close_run(exit_, cause, log_end=log_end, last_lines=logs.lines_of(tail))

    def _close_run(self, exit_: Exit, cause: Cause, *, log_end: int, last_lines: tuple[str, ...]) -> None:
        assert self.run_id is not None
        signal = restart.signal_name(exit_.signal) if exit_.signal is not None else None
        at = exit_.ended_at
        last = LastExit(exit_code=exit_.exit_code, signal=signal, cause=cause, at=at)
        self.bot = dataclasses.replace(self.bot, last_exit=last)
        self._around.metrics.ended(self.bot.kind, cause)
        self._around.ledger.close_run(
            self.run_id,
            exit=exit_,
            cause=cause,
            detail=(exit_.detail or restart.describe(cause, exit_)) + self._what_it_dumped(log_end),
            log_end=log_end,
            last_lines=last_lines,
        )

    def _on_swept(self, exit_: Exit) -> None:
        assert self.run_id is not None
        assert self.process is not None
        assert self.bot.last_exit is not None
        process = self.process
        if exit_.descendants_killed:
            self._around.ledger.sweep_run(self.run_id, exit_.descendants_killed)
        permanent = exit_.exit_code in wire.PERMANENT_EXITS
        if permanent:
            assert exit_.exit_code is not None
            exit_ = dataclasses.replace(exit_, detail=wire.PERMANENT_EXITS[exit_.exit_code])
        cause = self.bot.last_exit.cause
        if cause is Cause.LOST and self._asked is not None:
            # However it ended, it was to end.
            cause = self._asked
        self._judge(cause, exit_, permanent=permanent)
        # Not before: what is acknowledged is forgotten, and nobody would tell that its descendants are gone. The
        # ledger keeps the order, so with the new state all that was said of the run is in it.
        assert self._written is not None
        self._written.add_done_callback(lambda _: process.acknowledge())

    def _judge(self, cause: Cause, exit_: Exit, *, permanent: bool) -> None:
        policy = self.bot.restart
        now = self._loop.time()
        if self._stopping_since is not None:
            self._around.metrics.gone(self.bot.kind, now - self._stopping_since)
            self._stopping_since = None
        # A run that was longer than the window leaves none: each restart that is counted came before it.
        while self._restarts and self._restarts[0] < now - policy.within_s:
            self._restarts.popleft()
        began = self.started_at
        self.process = self.run_id = self.started = self.started_at = self.ready_at = None
        self.status = self.beat = self.sample = self._watching = self._heard = self._alive_due = None
        verdict = restart.judge(
            cause=cause,
            exit_=exit_,
            goal=Goal.DOWN if self._shutting_down else self.bot.goal,
            policy=policy,
            recent=tuple(self._restarts),
            permanent=permanent,
        )
        again = verdict.event is Event.GONE_AGAIN
        if (
            not permanent
            and (verdict.event in (Event.GONE_DONE, Event.GONE_FAILED) or (exit_.asked and again))
            and self._next_by_schedule(began, exit_, verdict.reason)
        ):
            return
        self._step(
            verdict.event,
            verdict.reason,
            delay_s=verdict.delay_s,
            restarts=self.bot.restarts + 1 if again else None,
        )

    def _next_by_schedule(self, began: int | None, exit_: Exit, what: str) -> bool:
        """Waits for the next time of the schedule, if there is one: however this run ended, it was one of many."""
        schedule = self.bot.schedule
        if schedule is None or began is None:
            return False
        due = schedules.after_run(schedule, began, max(began, exit_.ended_at))
        if due is None:
            return False
        self._restarts.clear()
        self._step(Event.GONE_RETRY, f"{what}; waits for the next time of its schedule", until=due)
        self._counts = False
        return True

    # ---- what the listing shows

    @property
    def uptime_s(self) -> float:
        return round(self._loop.time() - (self.started or self._loop.time()), 3)

    @property
    def heartbeat_age_s(self) -> float | None:
        return None if self.beat is None else round(self._loop.time() - self.beat, 3)

    def cpu_percent(self, usage: Usage) -> float:
        """Over the time since the last sample that is at least a second old; since the start before there is one."""
        now = self._loop.time()
        since, cpu, shown = self.sample or (self.started or now, 0.0, None)
        if now - since >= 1.0 or shown is None:
            shown = round(100.0 * (usage.cpu_seconds - cpu) / max(now - since, 0.01), 1)
            shown = max(0.0, shown)
            if now - since >= 1.0:
                self.sample = (now, usage.cpu_seconds, shown)
        return shown

    def notified(self, values: Mapping[str, str]) -> None:
        """What the bot's process told by sd_notify."""
        if values.get("READY") == "1" and self.run_id is not None:
            self.post(Ready(self.run_id))
        if "STATUS" in values:
            self.status = values["STATUS"][:1000]
        if values.get("WATCHDOG") == "1":
            self.beat = self._heard = self._loop.time()
