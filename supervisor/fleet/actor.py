"""One bot: its machine, one inbox, one timer.

Commands, exits, readiness and deadlines are events in the inbox. One task takes them one at a time, feeds them to the
machine (`core.machine`), and carries out the effects that it answers with; so there is no lock. An effect that fails
goes back to the machine as an event.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from supervisor.core import effects, errors, events
from supervisor.core.machine import Machine
from supervisor.core.model import SETTLED, Bot, Goal, Params, State, now_us
from supervisor.core.table import Step
from supervisor.core.terms import Terms
from supervisor.engine.protocol import Process
from supervisor.fleet.launch import Launch
from supervisor.fleet.live import Live
from supervisor.fleet.shared import Shared

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A command whose giver waits until the machine has taken it, for the bot's number of starts before that."""

    command: events.Command
    taken: asyncio.Future[int]


class Actor:
    """A bot and what becomes of it.

    Attributes:
        machine: decides what becomes of it. Only this actor feeds it.
        live: what its process says and uses.
        launch: the start that is under way, or whose turn is not over.
    """

    def __init__(self, bot: Bot, shared: Shared, retire: Callable[[Actor], None]) -> None:
        """`retire` is called when nothing is left to do, and all of it is durable."""
        self.machine = Machine(bot)
        self.live = Live()
        self.launch: Launch | None = None
        self._shared = shared
        self._retire = retire
        self._loop = asyncio.get_running_loop()
        self._inbox: asyncio.Queue[events.Event | _Asked] = asyncio.Queue()
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[Bot]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._claimed: str | None = None
        self._holds_pulse = False
        self._written: asyncio.Future[None] | None = None
        self._over: Process | None = None
        self._watching: asyncio.Task[None] | None = None
        self._task = asyncio.create_task(self._main(), name=f"bot-{bot.bot_id}")

    # ---- from outside

    @property
    def bot(self) -> Bot:
        """The bot as it is now."""
        return self.machine.bot

    @property
    def state(self) -> State:
        return self.machine.bot.state

    @property
    def terms(self) -> Terms:
        """The terms of its kind as they are now: those of its next start."""
        return self._shared.terms(self.machine.bot.kind)

    @property
    def spawn_error(self) -> errors.Problem | None:
        """Why the latest start made no process."""
        return self.launch.error if self.launch else None

    @property
    def idle(self) -> bool:
        """Whether nothing is left to do: no attempt, no event, no deadline, no write."""
        return (
            self.machine.bot.state in SETTLED
            and self.machine.attempt is None
            and self.machine.deadline is None
            and self._inbox.empty()
            and (self._written is None or self._written.done())
        )

    def born(self, event: events.Event) -> None:
        """Take the first event at once, so that no command can come before it."""
        if self.bot.goal is Goal.UP:
            # Also if it starts later. What another one has is refused to its launch.
            with contextlib.suppress(errors.SpawnFailed, errors.CredentialHeld):
                self.claim()
        self._take(event)

    def adopted(self, event: events.FoundAlive, process: Process) -> None:
        """Carry on with the process of an earlier supervisor's run."""
        run = event.run
        if run.identity is None and process.identity.pid:
            self._shared.ledger.identify_run(run.run_id, process.identity, process.log_start)
        with contextlib.suppress(errors.SpawnFailed, errors.CredentialHeld):
            # It runs, whoever else has claimed the same.
            self.claim()
        self.live.begin(process)
        self._take(event)
        self._watch(run.run_id, process)

    def post(self, event: events.Event) -> None:
        """Put an event into the inbox."""
        self._inbox.put_nowait(event)

    async def ask(self, verb: Step, grace_s: float | None = None) -> int:
        """Give a command, and return once the machine has taken it: how often the bot had been started by then."""
        asked = _Asked(events.Command(verb, grace_s), self._loop.create_future())
        self._inbox.put_nowait(asked)
        return await asked.taken

    async def until(self, predicate: Callable[[], bool]) -> Bot:
        """The bot as it was when the predicate first held. It is asked after each single event."""
        if predicate():
            return self.bot
        held: asyncio.Future[Bot] = self._loop.create_future()
        self._waiters.append((predicate, held))
        try:
            return await held
        finally:
            self._waiters = [waiter for waiter in self._waiters if waiter[1] is not held]

    async def durable(self) -> None:
        """Wait until what the bot's state is now is in the ledger."""
        while self._written is not None and not self._written.done():
            self._shared.ledger.hurry()
            await asyncio.shield(self._written)

    def notified(self, run_id: int, values: Mapping[str, str]) -> None:
        """Take what a process of the bot said by sd_notify."""
        attempt = self.machine.attempt
        if attempt is None or attempt.run_id != run_id:
            return
        self.live.notified(values)
        if values.get("READY") == "1":
            self.post(events.Ready(run_id))

    def claim(self, params: Params | None = None) -> None:
        """Take the credential with which no other bot may run, if its kind has one; it is held until the bot settles.

        It is named by the bot's parameters, or by those that it is about to have. Raises CredentialHeld, SpawnFailed.
        """
        credential = self._shared.exclusive(self.bot.kind, self.bot.params if params is None else params)
        if credential == self._claimed:
            return
        if credential is not None:
            self._shared.claims.take(credential, self.bot.bot_id)
        self._unclaim()
        self._claimed = credential

    def close(self) -> None:
        """End the tasks. The process, if there is one, lives on."""
        self._task.cancel()
        if self._watching is not None:
            self._watching.cancel()
        if self._timer is not None:
            self._timer.cancel()
        if self.launch is not None:
            self.launch.close()
        self._release()

    # ---- the task

    async def _main(self) -> None:
        while True:
            message = await self._inbox.get()
            starts = self.machine.starts
            if isinstance(message, _Asked):
                self._take(message.command)
                if not message.taken.done():
                    message.taken.set_result(starts)
            else:
                self._take(message)
            for predicate, held in self._waiters:
                if not held.done() and predicate():
                    held.set_result(self.bot)
            if self.idle:
                self._retire(self)

    def _take(self, event: events.Event) -> None:
        """Feed the machine, and do what it says."""
        try:
            todo = self.machine.feed(event, self._now())
        except Exception:
            # A bug; but a bot that can no longer be stopped would be worse than one event lost.
            log.exception("bot-%d: cannot take %r in state %s", self.bot.bot_id, event, self.state)
            return
        for effect in todo:
            try:
                self._do(effect)
            except Exception as error:
                log.exception("bot-%d: cannot carry out %r", self.bot.bot_id, effect)
                self.post(events.EffectFailed(effect, str(error)))
        self._arm()

    def _now(self) -> events.Now:
        pulse = self._shared.pulse
        return events.Now(
            time=self._loop.time(),
            wall=now_us(),
            terms=self.terms,
            heard=self.live.heard,
            awake_since=pulse.awake_since() if self._holds_pulse else float("-inf"),
            noise=random.uniform(-1, 1),
        )

    def _arm(self) -> None:
        """Set the one timer, and hold just what the state of now needs."""
        deadline = self.machine.deadline
        if self._timer is not None and self._timer.when() != deadline:
            self._timer.cancel()
            self._timer = None
        if self._timer is None and deadline is not None:
            self._timer = self._loop.call_at(deadline, self._tick)
        if self.launch is not None and self.launch.turn is not None and self.machine.bot.state is not State.STARTING:
            self.launch.end_turn()
        if self.machine.listens and not self._holds_pulse:
            self._holds_pulse = True
            self._shared.pulse.need()

    def _tick(self) -> None:
        self._timer = None
        self.post(events.Tick())

    # ---- effects

    def _do(self, effect: effects.Effect) -> None:
        shared, process, bot = self._shared, self.live.process, self.machine.bot
        match effect:
            case effects.Record():
                self._record(effect)
            case effects.Terminate() if process is not None:
                process.terminate()
            case effects.Kill() if process is not None:
                process.kill()
            case effects.Dump() if process is not None:
                process.dump()
            case effects.Launch():
                self._launch(effect)
            case effects.CancelLaunch(detail=detail) if self.launch is not None:
                self.launch.cancel(detail)
            case effects.MarkReady(run_id=run_id, at=at, latency_s=latency_s):
                shared.ledger.set_ready(run_id, at)
                if latency_s is not None:
                    shared.metrics.ready(bot.kind, latency_s)
            case effects.CloseRun(run_id=run_id, exit_=exit_, cause=cause, detail=detail):
                shared.ledger.close_run(run_id, exit=exit_, cause=cause, detail=detail)
                shared.metrics.ended(bot.kind, cause)
            case effects.SweepRun(run_id=run_id, killed=killed):
                shared.ledger.sweep_run(run_id, killed)
            case effects.SetTerms():
                shared.ledger.set_terms(effect.bot)
            case effects.Acknowledge(took_s=took_s):
                self._over, self._watching = process, None
                self.live.clear()
                if took_s is not None:
                    shared.metrics.gone(bot.kind, took_s)
            case effects.Release():
                shared.engine.forget(bot.bot_id)
                self._release()

    def _launch(self, effect: effects.Launch) -> None:
        if effect.again:
            self._shared.metrics.restarted(self.bot.kind)
        if self.launch is not None:
            # Of a start that led to the next one.
            self.launch.end_turn()
        self.launch = Launch(
            self.bot, effect, self._shared, claim=self.claim, post=self.post, on_process=self._on_process
        )

    def _on_process(self, run_id: int, process: Process) -> None:
        self._written = self._shared.ledger.identify_run(run_id, process.identity, process.log_start)
        self._shared.metrics.started(self.bot.kind)
        self.live.begin(process)
        self.post(events.Spawned())
        self._watch(run_id, process)

    def _watch(self, run_id: int, process: Process) -> None:
        async def watch() -> None:
            exit_ = await process.wait()
            self.post(events.Ended(run_id, exit_))
            self.post(events.Swept(run_id, exit_ if exit_.swept else await process.sweep()))

        self._watching = asyncio.create_task(watch(), name=f"watch bot-{self.bot.bot_id}")

    def _record(self, effect: effects.Record) -> None:
        bot = effect.bot
        written = self._shared.ledger.record(
            bot.bot_id, effect.run_id, bot.state, bot.goal, bot.reason, now_us(), bot.last_exit
        )
        self._written = written
        if bot.state in SETTLED:
            written.add_done_callback(lambda _: self.idle and self._retire(self))
        if (over := self._over) is not None:
            # Not before: what is acknowledged is forgotten, and nobody would tell that its descendants are gone. The
            # ledger keeps the order, so with the new state all that was said of the run is in it.
            written.add_done_callback(lambda _: over.acknowledge())
            self._over = None
        level = logging.WARNING if bot.state is State.FAILED else logging.INFO
        extra = {"action": "state", "bot_id": bot.bot_id, "state": bot.state}
        log.log(level, "bot-%d %s: %s", bot.bot_id, bot.state, bot.reason, extra=extra)

    def _release(self) -> None:
        """Let go of all that others may wait for."""
        if self.launch is not None:
            self.launch.end_turn()
        self._unclaim()
        if self._holds_pulse:
            self._shared.pulse.release()
            self._holds_pulse = False

    def _unclaim(self) -> None:
        if self._claimed is not None:
            self._shared.claims.release(self._claimed, self.bot.bot_id)
            self._claimed = None
