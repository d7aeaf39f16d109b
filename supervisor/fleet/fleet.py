"""All bots: boot, commands, shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import logging
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path

from supervisor.core import errors, events, reasons, schedules
from supervisor.core.model import (
    SETTLED,
    Bot,
    BotQuery,
    Cause,
    Exit,
    Goal,
    Idempotency,
    NewBot,
    Run,
    Schedule,
    State,
    now_us,
)
from supervisor.core.table import Step
from supervisor.core.views import KindView, Reloaded
from supervisor.engine.protocol import Engine, Logs
from supervisor.fleet import credentials
from supervisor.fleet.actor import Actor
from supervisor.fleet.catalogue import Catalogue
from supervisor.fleet.feed import Feeds
from supervisor.fleet.instances import Instances
from supervisor.fleet.late_checks import LateChecks
from supervisor.fleet.listing import Listing
from supervisor.fleet.pulse import Pulse
from supervisor.fleet.roster import Roster
from supervisor.fleet.shared import Shared
from supervisor.fleet.starts import Starts
from supervisor.metrics import Metrics
from supervisor.store import Ledger
from supervisor.store import secrets as secret_references
from supervisor.store.secrets import Secrets

log = logging.getLogger(__name__)

STOP_MARGIN_S = 5.0
"""Time after the grace until a stop that is waited for answers 504."""

CHANGING = frozenset({State.STARTING, State.STOPPING, State.KILLING})


class Wait(enum.Enum):
    """How long the maker of a bot waits: until the process exists, was tried, or is ready."""

    PROCESS = "process"
    ATTEMPT = "attempt"
    READY = "ready"


class Fleet:
    """The bots of one supervisor. All coroutines run in the one event loop.

    Attributes:
        catalogue: the kinds.
        listing: looks at bots.
        feeds: reads and follows events and logs.
        ledger: for those who read what was.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        ledger: Ledger,
        logs: Logs,
        bots_dir: Path,
        catalogue: Catalogue,
        secrets: Secrets,
        metrics: Metrics,
    ) -> None:
        """`bots_dir` has the bots' own data."""
        self.catalogue = catalogue
        self.ledger = ledger
        self.metrics = metrics
        self._engine = engine
        self._logs = logs
        self._bots_dir = bots_dir
        self._secrets = secrets
        self._shared = Shared(
            engine=engine,
            ledger=ledger,
            kind=catalogue.spec,
            terms=catalogue.terms,
            check=catalogue.check,
            starts=Starts(catalogue.rate_of),
            pulse=Pulse(),
            claims=credentials.Claims(),
            metrics=metrics,
        )
        self._roster = Roster(self._shared)
        self.listing = Listing(self._roster, ledger, engine, catalogue)
        self.feeds = Feeds(ledger, logs, self._roster)
        self._instances = Instances(catalogue, self.listing, self._make_instance)
        self._late_checks = LateChecks(catalogue, ledger, self._roster, secrets)
        self._shutting_down = False
        self._booted = False

    # ---- life

    async def boot(self) -> None:
        """Settle what an earlier supervisor left open, and start the bots whose goal is up."""
        # Of a version that did not say which of a bot's settings are its own: all that its kind does not say.
        own = {
            bot.bot_id: self.catalogue.terms(bot.kind).differences(bot)
            for bot in await self.ledger.bots_without_overrides()
        }
        open_runs = {run.bot_id: run for run in await self.ledger.open_runs()}
        self._engine.disown({run.run_id for run in open_runs.values()})
        bots = [
            dataclasses.replace(bot, overrides=own[bot.bot_id]) if bot.bot_id in own else bot
            for bot in await self.ledger.bots_to_settle()
        ]
        # All before the first write, since a read waits for what was written before it.
        latest_runs = {
            bot.bot_id: await self.ledger.latest_run(bot.bot_id)
            for bot in bots
            if bot.goal is Goal.UP
            and bot.bot_id not in open_runs
            and self.catalogue.terms(bot.kind).applied(bot).schedule
        }
        if own:
            self.ledger.set_overrides(own)
        found = dict.fromkeys(("running", "lost", "to start"), 0)
        # What runs, or was to, holds its credential against what had failed.
        for bot in sorted(bots, key=lambda bot: (bot.bot_id not in open_runs, bot.state in SETTLED)):
            run = open_runs.pop(bot.bot_id, None)
            if run is not None:
                found["running" if self._resume(bot, run) else "lost"] += 1
            elif bot.goal is Goal.DOWN or bot.state is not State.EXITED:
                latest = latest_runs.get(bot.bot_id)
                self._roster.add(bot).born(events.FoundIdle(latest.started_at if latest else bot.created_at))
                found["to start"] += bot.goal is Goal.UP
        for run in open_runs.values():
            self._close_forgotten(run)
        await self._secrets.sweep(self.ledger.params_with_secrets)
        self._booted = True
        self._late_checks.begin()
        self._instances.populate()
        if any(found.values()):
            log.info("found %s", ", ".join(f"{number} bots {what}" for what, number in found.items()))

    def _resume(self, bot: Bot, run: Run) -> bool:
        """Carry on with an open run of an earlier supervisor; whether its process was found."""
        actor, process = self._roster.add(bot), self._engine.adopt(run)
        if process is None:
            actor.born(events.FoundLost(run, self._engine.lost(run)))
        else:
            actor.adopted(events.FoundAlive(run, process.age_s), process)
        return process is not None

    def _close_forgotten(self, run: Run) -> None:
        """Close an open run whose bot was forgotten: nobody waits for it any more."""
        process = self._engine.adopt(run)
        if process is not None:
            process.kill()
        exit_ = Exit(exit_code=None, signal=None, ended_at=now_us(), cpu_seconds=None, max_rss_bytes=None)
        self.metrics.ended(run.kind, Cause.LOST)
        self.ledger.close_run(run.run_id, exit=exit_, cause=Cause.LOST, detail=reasons.FORGOTTEN)

    async def shutdown(self, grace_s: float) -> None:
        """Stop all bots, side by side; their goals stay. Returns when all are gone, or with what would not die."""
        self._shutting_down = True
        self._roster.shut_down(grace_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s + 1.5):
                while unsettled := [actor for actor in self._roster if actor.state not in SETTLED]:
                    await asyncio.gather(*(actor.until(_is_settled(actor)) for actor in unsettled))
        for actor in self._roster:
            if actor.state not in SETTLED:
                log.error("bot-%d would not die: %s", actor.bot.bot_id, actor.bot.reason)

    def close(self) -> None:
        """End all tasks. Processes that still live do so."""
        self._late_checks.close()
        self._instances.close()
        self._roster.close()

    def health(self) -> Mapping[str, str | None]:
        """The checks of /readyz: None is good, a sentence is not."""
        return {
            "boot": None if self._booted else "earlier runs are being settled",
            "ledger": self.ledger.outage,
            "logs": self._logs.fault,
            "shutdown": "the supervisor is shutting down" if self._shutting_down else None,
        }

    async def reload_kinds(self) -> Reloaded:
        """Read the settings of the kinds again, make the instances that they ask for, and say which are too many.

        Raises NotReloaded.
        """
        self._refuse_when_shutting_down()
        before = self.catalogue.instances
        reloaded = await self.catalogue.reload()
        for actor in self._roster:
            if actor.state is State.SCHEDULED:
                actor.post(events.TermsChanged())
        self._late_checks.begin()
        self._instances.populate()
        return dataclasses.replace(reloaded, surplus=await self._instances.surplus(before))

    async def reload_kind(self, kind: str) -> KindView:
        """Import the code of a kind again, for later starts. Raises UnknownKind; NotReloaded, and then the code from
        before goes on."""
        view = await self.catalogue.reload_kind(kind)
        await self._late_checks.run(kind)
        return view

    def notified(self, bot_id: int, run_id: int, values: Mapping[str, str]) -> None:
        """Take what the process of a run said by sd_notify."""
        if (actor := self._roster.find(bot_id)) is not None:
            actor.notified(run_id, values)

    # ---- new bots

    def idempotency(self, key: str | None, request: str) -> Idempotency | None:
        """What makes a request with a key be done once. What the request has in it cannot be told from the digest."""
        return None if key is None else Idempotency(key=key, digest=self._secrets.digest(request))

    async def create(self, new: NewBot, *, idempotency: Idempotency | None = None, wait: Wait) -> Bot:
        """Make a bot and start it, or give the one that was made with the same idempotency key.

        Raises NameTaken, KeyReused, LedgerUnavailable, ShuttingDown, and SpawnFailed: for a want of resources, in which
        case the bot is forgotten; with `Wait.PROCESS` also for what is wrong with the kind, and the bot is failed.
        """
        actors, earlier = await self._create(new, 1, idempotency)
        if earlier:
            return earlier[0]
        [actor] = actors
        bot_id = actor.bot.bot_id
        if (shortage := await self._attempt(actor)) is not None:
            await self._undo(actors)
            raise shortage
        error = actor.spawn_error
        if error is not None and actor.state is not State.STOPPED and wait is Wait.PROCESS:
            await actor.durable()
            if isinstance(error, errors.BudgetSpent):
                raise errors.BudgetSpent(f"bot {bot_id} waits: {error.detail}", bot_id=bot_id)
            raise errors.SpawnFailed(error.detail, permanent=True, bot_id=bot_id)
        if wait is Wait.READY:
            await _has_started(actor)
        await actor.durable()
        return actor.bot

    async def create_many(
        self, new: NewBot, count: int, *, idempotency: Idempotency | None = None, wait: Wait
    ) -> Sequence[Bot]:
        """Make so many bots that differ in nothing but their ids, and start them side by side: all of them or, with
        an error, none. Or give those that were made with the same idempotency key, except forgotten ones.

        Raises as `create` does with `Wait.ATTEMPT`, and CredentialHeld: only one of them could run.
        """
        actors, earlier = await self._create(new, count, idempotency)
        if earlier:
            made_then = frozenset(bot.bot_id for bot in earlier)
            return await self.listing.bots(BotQuery(states=frozenset(State), bot_ids=made_then))
        shortages = [shortage for shortage in await asyncio.gather(*map(self._attempt, actors)) if shortage]
        if shortages:
            await self._undo(actors)
            raise shortages[0]
        if wait is Wait.READY:
            await asyncio.gather(*map(_has_started, actors))
        await asyncio.gather(*(actor.durable() for actor in actors))
        return [actor.bot for actor in actors]

    async def _make_instance(self, new: NewBot) -> None:
        await self.create(new, wait=Wait.ATTEMPT)

    async def _create(
        self, new: NewBot, count: int, idempotency: Idempotency | None
    ) -> tuple[Sequence[Actor], Sequence[Bot]]:
        """New bots, whose starts have begun; or those that were made with the same key."""
        self._refuse_when_shutting_down()
        if idempotency is not None and (earlier := await self.ledger.bots_of_key(idempotency)):
            # Before anything else: what they hold exclusively, they hold against others.
            return (), earlier
        with self._claim(new, count) as claim:
            due = None if new.schedule is None else _first_time(new.schedule)
            started_at = now_us() if due is None else None
            made, created = await self.ledger.create_bots(
                new,
                count,
                started_at=started_at,
                idempotency=idempotency,
                budget=self._shared.budget(new.kind, new.params) if due is None else None,
            )
            if not created:
                return (), [bot for bot, _ in made]
            claim(made[0][0].bot_id)
        actors = []
        for bot, run_id in made:
            actors.append(actor := self._roster.add(bot))
            if due is not None:
                actor.born(events.MadeForLater(due))
            else:
                actor.born(events.Made(None if run_id is None or started_at is None else (run_id, started_at)))
        return actors, ()

    async def _attempt(self, actor: Actor) -> errors.Problem | None:
        """Wait until a new bot has a process, or could not have one. Returns what it is out of."""
        await actor.until(
            lambda: (
                actor.live.process is not None
                or actor.spawn_error is not None
                or actor.state in (State.BACKOFF, State.SCHEDULED)
            )
        )
        error = actor.spawn_error
        if actor.state is State.STOPPED or not isinstance(error, errors.SpawnFailed | errors.LedgerUnavailable):
            return None
        permanent = isinstance(error, errors.SpawnFailed) and error.permanent
        timed_out = actor.bot.last_exit is not None and actor.bot.last_exit.cause is Cause.START_TIMEOUT
        return None if permanent or timed_out else error

    async def _undo(self, actors: Sequence[Actor]) -> None:
        """Delete bots that were made for nothing: whoever asks again with the same key gets others."""
        bot_ids = [actor.bot.bot_id for actor in actors]
        async with self._ended(bot_ids):
            await self.ledger.undo_bots(bot_ids)

    # ---- commands

    async def start(self, bot_id: int, *, wait: bool = True) -> Bot:
        """Start a bot; one that is up already is left alone. Waits until it is up, or has failed.

        Raises KindGone, CredentialHeld, and StillAlive when an earlier process of it does not end.
        """
        actor = await self._to_start(bot_id, Step.START)
        await actor.ask(Step.START)
        if wait:
            await self._until_settled_in(actor)
        return actor.bot

    async def stop(self, bot_id: int, *, grace_s: float | None = None, wait: bool = True) -> Bot:
        """Stop a bot, and wait until everything of it is gone. Raises StillAlive after grace + 5 s."""
        actor = await self._roster.get(bot_id)
        starts = await actor.ask(Step.STOP, grace_s)
        if not wait:
            return actor.bot
        machine = actor.machine
        bot = await self._within_grace(actor, lambda: machine.bot.state in SETTLED or machine.starts != starts)
        # As it was when it had stopped, whoever may have started it again since.
        return dataclasses.replace(bot, state=State.STOPPED)

    async def restart(self, bot_id: int, *, grace_s: float | None = None, wait: bool = True) -> Bot:
        """End the process, if there is one, and start another when everything of it is gone.

        Raises KindGone and CredentialHeld, before anything is stopped, and StillAlive.
        """
        actor = await self._to_start(bot_id, Step.RESTART)
        starts = await actor.ask(Step.RESTART, grace_s)
        if wait:
            await self._within_grace(actor, lambda: actor.machine.starts != starts or actor.state in SETTLED)
            await self._until_settled_in(actor)
        return actor.bot

    async def signal(self, bot_id: int, signum: int) -> None:
        """Send a signal to a bot's process. Raises NoProcess."""
        actor = await self._roster.get(bot_id)
        process = actor.live.process
        try:
            if process is None:
                raise ProcessLookupError
            process.signal(signum)
        except ProcessLookupError:
            raise errors.NoProcess(f"bot {bot_id} has no process: {actor.bot.reason}", bot_id=bot_id) from None

    async def delete(self, bot_id: int) -> None:
        """Stop a bot and forget it, with its log and its data; its runs stay. Raises StillAlive."""
        async with self._ended([bot_id]):
            await self.ledger.forget_bot(bot_id)

    @contextlib.asynccontextmanager
    async def _ended(self, bot_ids: Sequence[int]) -> AsyncIterator[None]:
        """Stop bots, side by side, for a block that forgets them, and then remove what they leave on disk.

        Raises UnknownBot, StillAlive.
        """
        hidden: list[int] = []

        async def end(bot_id: int) -> Actor:
            actor = await self._roster.get(bot_id)
            self._roster.hide(bot_id)
            hidden.append(bot_id)
            await actor.ask(Step.STOP)
            await self._within_grace(actor, _is_settled(actor))
            return actor

        try:
            ended = await asyncio.gather(*map(end, bot_ids), return_exceptions=True)
            for error in ended:
                if isinstance(error, BaseException):
                    raise error
            yield
            for bot_id in bot_ids:
                self._logs.delete(bot_id)
                if (bot_dir := self._bots_dir / str(bot_id)).is_dir():
                    await asyncio.to_thread(shutil.rmtree, bot_dir, ignore_errors=True)
            if any(isinstance(actor, Actor) and secret_references.has_secrets(actor.bot.params) for actor in ended):
                await self._secrets.sweep(self.ledger.params_with_secrets)
        finally:
            for bot_id in hidden:
                self._roster.show(bot_id)

    async def _until_settled_in(self, actor: Actor) -> None:
        """Wait until a start has led to something: ready, failed, or waiting for its next try."""
        start_s = self.catalogue.terms(actor.bot.kind).start_timeout_s
        await self._within_grace(actor, lambda: actor.state not in CHANGING, start_s=start_s)

    async def _within_grace(self, actor: Actor, held: Callable[[], bool], *, start_s: float = 0.0) -> Bot:
        """The bot as it was when this first held. Raises StillAlive, LedgerUnavailable."""
        try:
            async with asyncio.timeout(start_s + actor.machine.grace_s + STOP_MARGIN_S):
                bot = await actor.until(held)
                await actor.durable()
                return bot
        except TimeoutError:
            bot = actor.bot
            if held():
                raise errors.LedgerUnavailable(
                    f"bot {bot.bot_id} is {bot.state}, but the ledger cannot be written now", bot_id=bot.bot_id
                ) from None
            raise errors.StillAlive(f"bot {bot.bot_id} is still {bot.state}: {bot.reason}", bot_id=bot.bot_id) from None

    # ---- what is refused

    def _refuse_when_shutting_down(self) -> None:
        if self._shutting_down:
            raise errors.ShuttingDown("the supervisor is shutting down: nothing is started any more")

    @contextlib.contextmanager
    def _claim(self, new: NewBot, count: int) -> Iterator[Callable[[int], None]]:
        """Hold the exclusive credential of a bot while it is made; it is the bot's once its id is given.

        Raises CredentialHeld, also when several bots are to have it.
        """
        claims, credential = self._shared.claims, self._shared.exclusive(new.kind, new.params)
        if credential is None:
            yield lambda bot_id: None
            return
        if count > 1:
            raise errors.CredentialHeld(f"of bots with {credential} only one can run at a time")
        claims.take(credential, None)
        try:
            yield lambda bot_id: claims.give(credential, bot_id)
        finally:
            claims.release(credential, None)

    async def _to_start(self, bot_id: int, verb: Step) -> Actor:
        """The actor of a bot that can be started, with what it needs for itself alone.

        Raises UnknownBot, KindGone, CredentialHeld, ShuttingDown.
        """
        self._refuse_when_shutting_down()
        actor = await self._roster.get(bot_id)
        try:
            if verb is Step.RESTART or actor.state not in (State.STARTING, State.RUNNING):
                self.catalogue.refuse_gone(verb, [actor.bot])
            if actor.state in SETTLED:
                actor.claim()
        except errors.Problem:
            self._roster.leave(actor)
            raise
        return actor


async def _has_started(actor: Actor) -> None:
    """Wait until the bot is ready, or has failed to be."""
    await actor.until(lambda: actor.state is not State.STARTING)


def _first_time(schedule: Schedule) -> int:
    due = schedules.next_after(schedule, now_us())
    if due is None:
        raise errors.BadParams(f"the schedule {schedule.cron!r} has no time that is still to come")
    return due


def _is_settled(actor: Actor) -> Callable[[], bool]:
    return lambda: actor.state in SETTLED
