"""A ledger without a file: the real one's contract, outages and delays on the event loop's clock, and a death.

What is durable is in a `Disk`, which outlives the ledgers that are opened on it, one after another.
"""

from __future__ import annotations

import asyncio
import bisect
import dataclasses
import itertools
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from supervisor.core import errors, model, reasons, restart
from supervisor.store import Ledger
from supervisor.store.ledger import READ_WAITS_S, Watcher

T = TypeVar("T")

COMMIT_S = 0.0007
"""Time that a transaction takes."""

ANSWER_S = 0.0001
"""Time from the moment at which a write is durable to that at which its caller knows. A supervisor may die in it."""

ASK_AGAIN_S = 0.1
"""Interval between looks whether an outage is over."""


@dataclass(slots=True)
class _Row:
    """A bot on the disk, and what only the ledger knows of it."""

    bot: model.Bot
    key: model.Idempotency | None
    forgotten: bool = False


@dataclass(frozen=True, slots=True)
class Deleted:
    """A run that was deleted at a time when its bot had so many newer ones."""

    run: model.Run
    newer: int
    at: int


@dataclass(slots=True)
class Disk:
    """What is durable. `outage` says why nothing can be written; `commit_s` is how long it takes.

    `closed` counts how often each run was ended, `deleted` has the runs that retention took away.
    """

    rows: dict[int, _Row] = field(default_factory=dict)
    runs: dict[int, model.Run] = field(default_factory=dict)
    events: list[model.Event] = field(default_factory=list)
    starts: list[tuple[str, int]] = field(default_factory=list)
    closed: Counter[int] = field(default_factory=Counter)
    deleted: list[Deleted] = field(default_factory=list)
    outage: str | None = None
    commit_s: float = COMMIT_S
    bot_ids: Any = field(default_factory=lambda: itertools.count(1))
    run_ids: Any = field(default_factory=lambda: itertools.count(1))

    def bots(self) -> list[model.Bot]:
        """The bots that are not forgotten, lowest id first."""
        return [row.bot for row in self.rows.values() if not row.forgotten]

    def bot(self, bot_id: int) -> model.Bot | None:
        row = self.rows.get(bot_id)
        return None if row is None or row.forgotten else row.bot

    def change(self, bot_id: int, **values: Any) -> None:
        row = self.rows[bot_id]
        row.bot = dataclasses.replace(row.bot, **values)

    def change_run(self, run_id: int, **values: Any) -> None:
        if run_id in self.runs:
            self.runs[run_id] = dataclasses.replace(self.runs[run_id], **values)

    def of_bot(self, bot_id: int) -> list[model.Run]:
        return [run for run in self.runs.values() if run.bot_id == bot_id]

    def happened(
        self, bot_id: int, at: int, run_id: int | None, state: model.State, goal: model.Goal, reason: str
    ) -> model.Event:
        """An event with the next number."""
        number = self.events[-1].event_id + 1 if self.events else 1
        event = model.Event(event_id=number, at=at, bot_id=bot_id, run_id=run_id, state=state, goal=goal, reason=reason)
        self.events.append(event)
        return event

    def take_start(self, budget: model.Budget) -> None:
        now, per_us = model.now_us(), round(budget.per_s * 1e6)
        counted = sorted((at for key, at in self.starts if key == budget.key and at > now - per_us), reverse=True)
        if len(counted) >= budget.starts:
            reason = f"the start budget of {budget.key} is used up: {budget.starts} starts in {budget.per_s:.15g} s"
            raise errors.BudgetSpent(reason, until=counted[budget.starts - 1] + per_us)
        self.starts.append((budget.key, now))

    def open_run(self, bot_id: int, kind: str, params: model.Params, started_at: int) -> int:
        run_id: int = next(self.run_ids)
        self.runs[run_id] = model.Run(
            run_id=run_id,
            bot_id=bot_id,
            kind=kind,
            params=params,
            identity=None,
            started_at=started_at,
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
        return run_id


@dataclass(slots=True, eq=False)
class _Op:
    write: Callable[[Disk], Any]
    future: asyncio.Future[Any]
    is_fact: bool
    then: Callable[[Any], None] | None


class MemoryLedger(Ledger):
    """The ledger of one supervisor on a disk."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._loop = asyncio.get_running_loop()
        self._ops: deque[_Op] = deque()
        self._answering: deque[deque[_Op]] = deque()
        self._commit_due: asyncio.TimerHandle | None = None
        self._told: list[Watcher] = []
        self._is_closed = False
        self._outage: str | None = None

    async def close(self, timeout_s: float = 2.0) -> None:
        self._is_closed = True
        if self._commit_due is not None:
            self._commit_due.cancel()
        self._commit()
        await asyncio.sleep(2 * ANSWER_S)
        self.die()

    def die(self) -> None:
        """The supervisor is gone, and with it whatever was not durable."""
        self._is_closed = True
        if self._commit_due is not None:
            self._commit_due.cancel()
        self._ops.clear()
        self._answering.clear()

    @property
    def outage(self) -> str | None:
        return self._outage

    @property
    def queued(self) -> int:
        return len(self._ops) + sum(map(len, self._answering))

    def hurry(self) -> None:
        """Nothing is held back here."""

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        self._told.append(watcher)
        return lambda: self._told.remove(watcher)

    # ---- the writer

    def _submit(
        self, write: Callable[[Disk], T], then: Callable[[T], None] | None = None, *, is_fact: bool
    ) -> asyncio.Future[T]:
        op = _Op(write, self._loop.create_future(), is_fact, then)
        if self._is_closed:
            self._give_up(op, "the ledger is closed")
            return op.future
        self._ops.append(op)
        if self._commit_due is None:
            self._commit_due = self._loop.call_later(self._disk.commit_s, self._commit)
        return op.future

    def _fact(self, write: Callable[[Disk], None], then: Callable[[None], None] | None = None) -> asyncio.Future[None]:
        return self._submit(write, then, is_fact=True)

    def _commit(self) -> None:
        self._commit_due = None
        self._outage = self._disk.outage
        if self._outage is not None:
            for op in [op for op in self._ops if not op.is_fact]:
                self._ops.remove(op)
                self._give_up(op, f"the ledger cannot be written: {self._outage}")
            if self._ops:
                self._commit_due = self._loop.call_later(ASK_AGAIN_S, self._commit)
            return
        ops, self._ops = self._ops, deque()
        outcomes = [(op, *self._outcome(op)) for op in ops]
        self._answering.append(ops)
        self._loop.call_later(ANSWER_S, self._answer, outcomes)

    def _outcome(self, op: _Op) -> tuple[Any, errors.Problem | None]:
        try:
            return op.write(self._disk), None
        except errors.Problem as problem:
            return None, problem

    def _answer(self, outcomes: Sequence[tuple[_Op, Any, errors.Problem | None]]) -> None:
        if not self._answering:
            return  # Its supervisor has died.
        self._answering.popleft()
        for op, value, problem in outcomes:
            if problem is None and op.then is not None:
                op.then(value)
            if op.future.done():
                continue
            if problem is not None:
                op.future.set_exception(problem)
            else:
                op.future.set_result(value)

    def _give_up(self, op: _Op, reason: str) -> None:
        if op.future.done():
            return
        if op.is_fact:
            op.future.set_result(None)
        else:
            op.future.set_exception(errors.LedgerUnavailable(reason, retry_after_s=1))

    def _tell(self, event: model.Event, last_exit: model.LastExit | None) -> None:
        for watcher in tuple(self._told):
            watcher(event, last_exit)

    # ---- commands

    async def create_bots(
        self,
        new: model.NewBot,
        count: int = 1,
        *,
        started_at: int | None,
        idempotency: model.Idempotency | None = None,
        budget: model.Budget | None = None,
    ) -> tuple[list[tuple[model.Bot, int | None]], bool]:
        told: list[model.Event] = []

        def write(disk: Disk) -> tuple[list[tuple[model.Bot, int | None]], bool]:
            if idempotency is not None and (earlier := _of_key(disk, idempotency)):
                return [(bot, None) for bot in earlier], False
            if new.name is not None and (count > 1 or any(bot.name == new.name for bot in disk.bots())):
                raise errors.NameTaken(f"another bot has the name {new.name!r}")
            made: list[tuple[model.Bot, int | None]] = []
            for _ in range(count):
                bot = _new_bot(next(disk.bot_ids), new)
                disk.rows[bot.bot_id] = _Row(bot, idempotency)
                run_id = None
                if started_at is not None and _may_start(disk, budget):
                    run_id = disk.open_run(bot.bot_id, bot.kind, bot.params, started_at)
                    told.append(disk.happened(bot.bot_id, started_at, run_id, bot.state, bot.goal, bot.reason))
                made.append((bot, run_id))
            return made, True

        def then(_: object) -> None:
            for event in told:
                self._tell(event, None)

        return await self._submit(write, then, is_fact=False)

    async def open_run(
        self,
        bot_id: int,
        *,
        kind: str,
        params: model.Params,
        started_at: int,
        restarts: int,
        budget: model.Budget | None = None,
    ) -> int:
        def write(disk: Disk) -> int:
            if budget is not None:
                disk.take_start(budget)
            disk.change(bot_id, restarts=restarts)
            return disk.open_run(bot_id, kind, params, started_at)

        return await self._submit(write, is_fact=False)

    async def _forget(self, bot_ids: Sequence[int], reason: str, *, free_keys: bool) -> None:
        at = model.now_us()

        def write(disk: Disk) -> list[model.Event]:
            told = []
            for bot_id in bot_ids:
                if (bot := disk.bot(bot_id)) is not None:
                    told.append(disk.happened(bot_id, at, None, bot.state, model.Goal.DOWN, reason))
                    row = disk.rows[bot_id]
                    row.bot = dataclasses.replace(bot, goal=model.Goal.DOWN, reason=reason)
                    row.forgotten = True
                    row.key = None if free_keys else row.key
            return told

        def then(told: list[model.Event]) -> None:
            for event in told:
                self._tell(event, None)

        await self._submit(write, then, is_fact=False)

    async def delete_runs(self, run_ids: Collection[int]) -> int:
        def write(disk: Disk) -> int:
            gone = [run_id for run_id in run_ids if run_id in disk.runs and _may_go(disk, disk.runs[run_id])]
            for run_id in gone:
                run = disk.runs.pop(run_id)
                newer = sum(other > run_id for other in disk.runs if disk.runs[other].bot_id == run.bot_id)
                disk.deleted.append(Deleted(run, newer, model.now_us()))
            return len(gone)

        return await self._submit(write, is_fact=False)

    # ---- facts

    def set_terms(self, bot: model.Bot) -> asyncio.Future[None]:
        values = {"restart": bot.restart, "grace_s": bot.grace_s, "limits": bot.limits, "schedule": bot.schedule}
        return self._fact(lambda disk: disk.change(bot.bot_id, **values))

    def set_overrides(self, overrides: Mapping[int, model.Overrides]) -> asyncio.Future[None]:
        def write(disk: Disk) -> None:
            for bot_id, own in overrides.items():
                disk.change(bot_id, overrides=own)

        return self._fact(write)

    def identify_run(self, run_id: int, identity: model.Identity, log_start: int) -> asyncio.Future[None]:
        return self._fact(lambda disk: disk.change_run(run_id, identity=identity, log_start=log_start))

    def set_ready(self, run_id: int, ready_at: int) -> asyncio.Future[None]:
        return self._fact(lambda disk: disk.change_run(run_id, ready_at=ready_at))

    def close_run(self, run_id: int, *, exit: model.Exit, cause: model.Cause, detail: str) -> asyncio.Future[None]:
        def write(disk: Disk) -> None:
            disk.closed[run_id] += 1
            if run_id not in disk.runs or disk.runs[run_id].cause is not None:
                return
            disk.change_run(
                run_id,
                ended_at=exit.ended_at,
                exit_code=exit.exit_code,
                signal=None if exit.signal is None else reasons.signal_name(exit.signal),
                cause=cause,
                detail=detail,
                cpu_seconds=exit.cpu_seconds,
                max_rss_bytes=exit.max_rss_bytes,
                log_end=exit.log_end,
                last_lines=exit.last_lines,
                raised=exit.raised,
                fingerprint=restart.fingerprint(cause, exit),
                descendants_killed=exit.descendants_killed,
            )

        return self._fact(write)

    def sweep_run(self, run_id: int, killed: int) -> asyncio.Future[None]:
        def write(disk: Disk) -> None:
            if run_id in disk.runs:
                disk.change_run(run_id, descendants_killed=max(killed, disk.runs[run_id].descendants_killed))

        return self._fact(write)

    def record(
        self,
        bot_id: int,
        run_id: int | None,
        state: model.State,
        goal: model.Goal,
        reason: str,
        at: int,
        last_exit: model.LastExit | None = None,
    ) -> asyncio.Future[None]:
        told: list[model.Event] = []

        def write(disk: Disk) -> None:
            disk.change(bot_id, state=state, goal=goal, reason=reason)
            if last_exit is not None:
                disk.change(bot_id, last_exit=last_exit)
            told.append(disk.happened(bot_id, at, run_id, state, goal, reason))

        return self._fact(write, lambda _: self._tell(told[-1], last_exit))

    # ---- reads

    async def bot(self, bot_id: int) -> model.Bot | None:
        return (await self._disk_of_now()).bot(bot_id)

    async def params_with_secrets(self) -> list[model.Params]:
        return []

    async def bots_without_overrides(self) -> list[model.Bot]:
        return []

    async def unchecked_bots(self) -> list[model.Bot]:
        return []

    async def bots_of_key(self, idempotency: model.Idempotency) -> list[model.Bot]:
        return _of_key(await self._disk_of_now(), idempotency)

    async def bots(self, query: model.BotQuery, *, exclude: Collection[int] = ()) -> list[model.Bot]:
        disk = await self._disk_of_now()
        found = [bot for bot in disk.bots() if bot.bot_id not in exclude and _fits(bot, query)]
        return found[: query.limit + 1]

    async def count_bots(
        self, states: Collection[model.State], *, exclude: Collection[int] = ()
    ) -> dict[tuple[str, model.State], int]:
        disk = await self._disk_of_now()
        return Counter(
            (bot.kind, bot.state) for bot in disk.bots() if bot.state in states and bot.bot_id not in exclude
        )

    async def bots_to_settle(self) -> list[model.Bot]:
        disk = await self._disk_of_now()
        return [bot for bot in disk.bots() if bot.goal is model.Goal.UP or bot.state in model.ACTIVE]

    async def open_runs(self) -> list[model.Run]:
        return [run for run in (await self._disk_of_now()).runs.values() if run.cause is None]

    async def run(self, run_id: int) -> model.Run | None:
        return (await self._disk_of_now()).runs.get(run_id)

    async def runs(self, query: model.RunQuery) -> model.Page[model.Run]:
        disk = await self._disk_of_now()
        found = [run for run in disk.runs.values() if run.run_id > query.after and _run_fits(run, query)]
        items = found[: query.limit]
        return model.Page(items, items[-1].run_id if len(found) > query.limit else None)

    async def latest_run(self, bot_id: int) -> model.Run | None:
        return next(reversed((await self._disk_of_now()).of_bot(bot_id)), None)

    async def latest_event(self) -> int:
        disk = await self._disk_of_now()
        return disk.events[-1].event_id if disk.events else 0

    async def events_after(self, event_id: int, *, limit: int, bot_id: int | None = None) -> list[model.Entry]:
        disk = await self._disk_of_now()
        first = bisect.bisect_right(disk.events, event_id, key=lambda event: event.event_id)
        found = [event for event in disk.events[first:] if bot_id in (None, event.bot_id)]
        return [_entry(disk, event) for event in found[:limit]]

    async def old_runs(self, ended_before: int, *, after: int, limit: int) -> tuple[list[int], int | None]:
        disk = await self._disk_of_now()
        old = [
            run_id
            for run_id, run in disk.runs.items()
            if run_id > after and run.ended_at is not None and run.ended_at < ended_before
        ]
        return old[:limit], old[limit - 1] if len(old) > limit else None

    async def crowded_bots(self, keep: int) -> list[int]:
        disk = await self._disk_of_now()
        return [bot_id for bot_id, n in Counter(run.bot_id for run in disk.runs.values()).items() if n > keep]

    async def surplus_runs(self, bot_id: int, keep: int, *, limit: int) -> list[int]:
        runs = (await self._disk_of_now()).of_bot(bot_id)
        return [run.run_id for run in runs[: max(0, len(runs) - keep)] if run.cause is not None][:limit]

    async def forgotten_bots(self, bot_ids: Sequence[int]) -> list[int]:
        rows = (await self._disk_of_now()).rows
        return [bot_id for bot_id in bot_ids if bot_id in rows and rows[bot_id].forgotten]

    async def _disk_of_now(self) -> Disk:
        """The disk, once what was queued before is on it; not in an outage."""
        if self._is_closed:
            raise errors.LedgerUnavailable("the ledger is closed")
        latest = next((ops[-1] for ops in (self._ops, *reversed(self._answering)) if ops), None)
        if latest is not None and self._outage is None:
            await asyncio.wait([latest.future], timeout=READ_WAITS_S)
        else:
            await asyncio.sleep(0)
        return self._disk


def _new_bot(bot_id: int, new: model.NewBot) -> model.Bot:
    return model.Bot(
        bot_id=bot_id,
        kind=new.kind,
        params=new.params,
        name=new.name,
        labels=new.labels,
        restart=new.restart,
        grace_s=new.grace_s,
        limits=new.limits,
        schedule=new.schedule,
        overrides=new.overrides,
        goal=model.Goal.UP,
        state=model.State.STARTING,
        reason=reasons.START,
        restarts=0,
        created_at=model.now_us(),
    )


def _entry(disk: Disk, event: model.Event) -> model.Entry:
    row = disk.rows[event.bot_id]
    latest = max(other.event_id for other in disk.events if other.bot_id == event.bot_id) if row.forgotten else None
    return model.Entry(event=event, kind=row.bot.kind, name=row.bot.name, deleted=event.event_id == latest)


def _may_start(disk: Disk, budget: model.Budget | None) -> bool:
    try:
        if budget is not None:
            disk.take_start(budget)
    except errors.BudgetSpent:
        return False
    return True


def _of_key(disk: Disk, idempotency: model.Idempotency) -> list[model.Bot]:
    found = [row for row in disk.rows.values() if row.key is not None and row.key.key == idempotency.key]
    if any(row.key != idempotency for row in found):
        raise errors.KeyReused("the key came with another request before")
    return [row.bot for row in found]


def _may_go(disk: Disk, run: model.Run) -> bool:
    row = disk.rows[run.bot_id]
    settled = row.forgotten or row.bot.state in (model.State.STOPPED, model.State.EXITED)
    return run.cause is not None and (settled or run.run_id < disk.of_bot(run.bot_id)[-1].run_id)


def _fits(bot: model.Bot, query: model.BotQuery) -> bool:
    return (
        bot.state in query.states
        and bot.bot_id > query.after
        and (query.bot_ids is None or bot.bot_id in query.bot_ids)
        and query.kind in (None, bot.kind)
        and query.name in (None, bot.name)
        and query.labels.items() <= bot.labels.items()
    )


def _run_fits(run: model.Run, query: model.RunQuery) -> bool:
    return (
        query.bot_id in (None, run.bot_id)
        and query.kind in (None, run.kind)
        and (not query.causes or run.cause in query.causes)
        and query.fingerprint in (None, run.fingerprint)
        and (query.since is None or run.started_at >= query.since)
        and (query.until is None or run.started_at < query.until)
    )
