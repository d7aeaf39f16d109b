"""The ledger as the rest of the supervisor sees it: values in, values out, no row and no SQL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from peewee import PeeweeException, SqliteDatabase

from supervisor.core import errors, model
from supervisor.store import bots, budgets, crashes, events, file, pruning, runs
from supervisor.store.writer import Writer, describe

T = TypeVar("T")

READ_WAITS_S = 0.1
"""A read waits so long for the writes before it, in seconds: much longer than they take on a disk that is well."""

Watcher = Callable[[model.Event, model.LastExit | None], None]
"""Is told of an event, and of the latest end of its bot. Returns at once and raises nothing."""


class Ledger:
    """Every bot, every run and every event, in one SQLite file. Lives on one event loop; see `open`.

    Writes are carried out in the order of the calls. There are two sorts:

    * *Commands* may fail: they raise `LedgerUnavailable` while the database cannot be written. A command that is
      queued is carried out even if its caller is cancelled.
    * *Facts* have happened, so they do not fail. They are queued by the call itself; the future that it returns is
      done once they are durable, and need not be awaited. While the database cannot be written they wait in memory,
      and are written before anything later. What `close` cannot write is lost, and logged.

    Reads see all writes that were queued before, so that what memory tells is found here too; where the database does
    not take them within `READ_WAITS_S`, those that are done. Those that followers of events ask for see what is
    durable, and hurry no write: a watcher is called once there is more. All raise `LedgerUnavailable` if the file
    cannot be read.

    An event gets its number in the transaction that writes it, one more than the largest. So the order of the numbers
    is that of the commits, and a number that somebody was given stays the event's: what a supervisor that is killed
    had not written, nobody has seen.
    """

    def __init__(
        self,
        path: Path,
        reader: ThreadPoolExecutor,
        *,
        busy_timeout_s: float,
        on_commit: Callable[[float], None] | None,
    ) -> None:
        self._reader = reader
        self._reading = file.reading(path, busy_timeout_s=busy_timeout_s)
        self._files = file.Files(path)
        self._writer = Writer(file.writing(path), self._files, busy_timeout_s=busy_timeout_s, on_commit=on_commit)
        self._generation = 0
        self._watchers: list[Watcher] = []
        self._closed = False

    @classmethod
    async def open(
        cls, path: Path, *, busy_timeout_s: float = 5.0, on_commit: Callable[[float], None] | None = None
    ) -> Ledger:
        """Open the ledger, make it if there is none, and bring it to the newest schema.

        Args:
            busy_timeout_s: how long a write waits for a lock that another program holds.
            on_commit: is told how many seconds each transaction took, in the thread that writes.

        Raises:
            LedgerRefused: it is damaged, read-only, another program's or a newer version's; it is left untouched.
        """
        reader = ThreadPoolExecutor(1, thread_name_prefix="ledger-reader")
        try:
            await asyncio.get_running_loop().run_in_executor(reader, file.prepare, path)
        except BaseException:
            reader.shutdown(wait=False)
            raise
        return cls(path, reader, busy_timeout_s=busy_timeout_s, on_commit=on_commit)

    async def close(self, timeout_s: float = 2.0) -> None:
        """Write what is queued, for at most `timeout_s`, and let go of the file, which is then complete by itself."""
        self._closed = True
        self._writer.close(timeout_s)
        await self._in_reader(self._reading.close)
        await self._in_reader(self._writer.join)
        self._reader.shutdown()

    @property
    def outage(self) -> str | None:
        """Why the database could not be written when last tried, or cannot be now; None when it can."""
        return self._writer.outage or self._files.moved or self._files.log_lost

    @property
    def queued(self) -> int:
        """How many writes are not settled yet."""
        return self._writer.queued

    def hurry(self) -> None:
        """Somebody waits for the facts that were recorded: they are written now, and not with those to come."""
        self._writer.hurry()

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """From now on the watcher is called with each event, on the event loop, in the order of their numbers and
        once they are durable. Returns what ends that."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    def _tell(self, event: model.Event, last_exit: model.LastExit | None) -> None:
        for watcher in tuple(self._watchers):
            watcher(event, last_exit)

    # Commands

    async def create_bots(
        self,
        new: model.NewBot,
        count: int = 1,
        *,
        started_at: int | None,
        idempotency: model.Idempotency | None = None,
        budget: model.Budget | None = None,
    ) -> tuple[list[tuple[model.Bot, int | None]], bool]:
        """Make bots whose processes are wanted, all of them or, with an error, none; or find those that were made with
        the same key, be they forgotten by now.

        With `started_at` also the rows of their first runs and the events of their starts, in the same transaction.
        A bot for which the budget is used up is made all the same, without run and event: it is to wait, and
        `open_run` says until when.

        Returns:
            The bots, each with the id of its run if one was opened, and whether they were made now.

        Raises:
            NameTaken: a bot that is not forgotten has this name.
            KeyReused: the key came with another request before.
        """

        def write(db: SqliteDatabase) -> tuple[list[tuple[model.Bot, int | None]], list[model.Event], bool]:
            if idempotency is not None and (earlier := bots.of_key(db, idempotency)):
                return [(bot, None) for bot in earlier], [], False
            made: list[tuple[model.Bot, int | None]] = []
            told: list[model.Event] = []
            for number in range(count):
                bot, run_id = bots.insert(db, new, idempotency, number), None
                if started_at is not None and may_start(db):
                    run_id = runs.insert(db, bot.bot_id, kind=bot.kind, params=bot.params, started_at=started_at)
                    told.append(
                        events.append(
                            db,
                            at=started_at,
                            bot_id=bot.bot_id,
                            run_id=run_id,
                            state=bot.state,
                            goal=bot.goal,
                            reason=bot.reason,
                        )
                    )
                made.append((bot, run_id))
            return made, told, True

        def tell(found: tuple[list[tuple[model.Bot, int | None]], list[model.Event], bool]) -> None:
            for event in found[1]:
                self._tell(event, None)

        def may_start(db: SqliteDatabase) -> bool:
            try:
                if budget is not None:
                    budgets.take(db, budget)
            except errors.BudgetSpent:
                return False
            return True

        made, _, created = await self._writer.command(write, tell)
        return made, created

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
        """Make the row of a run before its process is forked, and note the bot's number of restarts; the run's id.

        Raises:
            BudgetSpent: the starts that the budget allows are made. Nothing is written.
        """

        def write(db: SqliteDatabase) -> int:
            if budget is not None:
                budgets.take(db, budget)
            bots.count_restarts(db, bot_id, restarts)
            return runs.insert(db, bot_id, kind=kind, params=params, started_at=started_at)

        return await self._writer.command(write)

    async def forget_bot(self, bot_id: int) -> None:
        """Hide the bot and free its name, with an event that says so. Its runs stay, and its id is never used again."""
        await self._forget([bot_id], "was deleted", free_keys=False)

    async def undo_bots(self, bot_ids: Sequence[int]) -> None:
        """`forget_bot` for bots that could not be started: all of them or, with an error, none. Their idempotency key
        is free again, and whoever asks once more with it gets others."""
        await self._forget(bot_ids, "was deleted: not all that it was made with could be started", free_keys=True)

    async def _forget(self, bot_ids: Sequence[int], reason: str, *, free_keys: bool) -> None:
        def write(db: SqliteDatabase) -> list[model.Event]:
            told = []
            for bot_id in bot_ids:
                if (bot := bots.get(db, bot_id)) is None:
                    continue
                told.append(
                    events.record(
                        db, at=at, bot_id=bot_id, run_id=None, state=bot.state, goal=model.Goal.DOWN, reason=reason
                    )
                )
                bots.forget(db, bot_id, at, free_key=free_keys)
            return told

        def tell(told: list[model.Event]) -> None:
            for event in told:
                self._tell(event, None)

        at = model.now_us()
        await self._writer.command(write, tell)

    async def delete_runs(self, run_ids: Collection[int]) -> int:
        """Delete those of the runs that have ended, with what happened to their bots before the first run that is
        left; how many runs that were. Not the last run of a bot that is neither stopped, exited nor forgotten, and
        never the latest event of a bot."""
        return await self._writer.command(lambda db: pruning.delete(db, run_ids))

    # Facts

    def identify_run(self, run_id: int, identity: model.Identity, log_start: int) -> asyncio.Future[None]:
        """Say which process the run is, and where its output begins."""
        return self._writer.fact(lambda db: runs.identify(db, run_id, identity, log_start))

    def set_terms(self, bot: model.Bot) -> asyncio.Future[None]:
        """Say which terms hold for a bot from now on."""
        return self._writer.fact(lambda db: bots.set_terms(db, bot))

    def set_params(self, bot_id: int, params: model.Params) -> asyncio.Future[None]:
        """Say what the parameters of an unchecked bot came to when they were checked."""
        return self._writer.fact(lambda db: bots.set_params(db, bot_id, params))

    def set_overrides(self, overrides: Mapping[int, model.Overrides]) -> asyncio.Future[None]:
        """Say what bots say themselves, by their ids."""
        return self._writer.fact(lambda db: bots.set_overrides(db, overrides))

    def set_ready(self, run_id: int, ready_at: int) -> asyncio.Future[None]:
        """Say since when the run is ready."""
        return self._writer.fact(lambda db: runs.mark_ready(db, run_id, ready_at))

    def close_run(
        self,
        run_id: int,
        *,
        exit: model.Exit,
        cause: model.Cause,
        detail: str,
    ) -> asyncio.Future[None]:
        """Say how the run ended. A run that is closed already stays as it is."""
        return self._writer.fact(lambda db: runs.close(db, run_id, exit=exit, cause=cause, detail=detail))

    def sweep_run(self, run_id: int, killed: int) -> asyncio.Future[None]:
        """Raise the run's number of descendants that had to be killed, if it is lower, also after its end."""
        return self._writer.fact(lambda db: runs.sweep(db, run_id, killed))

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
        """Say that a bot's state changed: an event with the next number, and the same in the row of the bot."""
        return self._writer.fact(
            lambda db: events.record(
                db,
                at=at,
                bot_id=bot_id,
                run_id=run_id,
                state=state,
                goal=goal,
                reason=reason,
                last_exit=last_exit,
            ),
            lambda event: self._tell(event, last_exit),
        )

    # Reads

    async def bot(self, bot_id: int) -> model.Bot | None:
        """The bot, or None if there never was one or it is forgotten."""
        return await self._read(lambda db: bots.get(db, bot_id))

    async def params_with_secrets(self) -> list[model.Params]:
        """The parameters of those bots that are not forgotten and may have a secret."""
        return await self._read(bots.params_with_secrets)

    async def bots_of_key(self, idempotency: model.Idempotency) -> list[model.Bot]:
        """The bots that were made with the key, be they forgotten or not, lowest id first. Raises KeyReused."""
        return await self._read(lambda db: bots.of_key(db, idempotency))

    async def bots(self, query: model.BotQuery, *, exclude: Collection[int] = ()) -> list[model.Bot]:
        """The bots that fit, lowest id first, at most one more than `query.limit`."""
        return await self._read(lambda db: bots.listed(db, query, exclude))

    async def count_bots(
        self, states: Collection[model.State], *, exclude: Collection[int] = ()
    ) -> dict[tuple[str, model.State], int]:
        """How many bots of each kind are in each of these states, where there are any."""
        return await self._read(lambda db: bots.count(db, states, exclude))

    async def bots_to_settle(self) -> list[model.Bot]:
        """The bots that are wanted up or in an active state, lowest id first."""
        return await self._read(bots.to_settle)

    async def bots_without_overrides(self) -> list[model.Bot]:
        """The bots of an earlier version, which did not say which of their settings are their own."""
        return await self._read(bots.without_overrides)

    async def unchecked_bots(self) -> list[model.Bot]:
        """The bots whose parameters could not be checked when they were made, and were not since."""
        return await self._read(bots.unchecked)

    async def open_runs(self) -> list[model.Run]:
        """The runs whose end is not known, oldest first."""
        return await self._read(runs.still_open)

    async def run(self, run_id: int) -> model.Run | None:
        """The run, or None if there is none with this id."""
        return await self._read(lambda db: runs.get(db, run_id))

    async def runs(self, query: model.RunQuery) -> model.Page[model.Run]:
        """The runs that fit, oldest first."""
        return await self._read(lambda db: runs.page(db, query))

    async def crashes(self, query: model.CrashQuery) -> model.Page[model.CrashGroup]:
        """The groups of runs that failed in the same way, that with the latest run first."""
        return await self._read(lambda db: crashes.page(db, query))

    async def latest_run(self, bot_id: int) -> model.Run | None:
        """The bot's last run, or None if it has none."""
        return await self._read(lambda db: runs.latest(db, bot_id))

    async def latest_endings(self, asked: Sequence[tuple[int, model.Cause | None]]) -> list[model.Ending]:
        """For each bot, be it forgotten, its latest run that ended by this cause."""
        return await self._read_durable(lambda db: [runs.latest_ending(db, *one) for one in asked])

    async def latest_event(self) -> int:
        """The number of the latest event, 0 if there is none."""
        return await self._read_durable(events.latest)

    async def events_after(self, event_id: int, *, limit: int, bot_id: int | None = None) -> list[model.Entry]:
        """At most `limit` events with larger numbers, in their order; those of one bot, if one is named."""
        return await self._read_durable(lambda db: events.after(db, event_id, limit=limit, bot_id=bot_id))

    async def events_numbered(self, event_ids: Collection[int]) -> list[model.Entry]:
        """The events with these numbers that are there, in their order."""
        return await self._read_durable(lambda db: events.numbered(db, event_ids))

    async def latest_events(self, bot_id: int | None = None) -> list[int]:
        """The numbers of the latest event of each bot that is not forgotten, or of this one; sorted."""
        return await self._read_durable(lambda db: events.latest_of_each(db, bot_id))

    async def log_ends(self, bot_id: int, after: int) -> list[int]:
        """Where in the bot's log runs ended, behind an offset."""
        return await self._read(lambda db: runs.log_ends(db, bot_id, after))

    async def old_runs(self, ended_before: int, *, after: int, limit: int) -> tuple[list[int], int | None]:
        """At most `limit` runs that ended before a time, lowest id first, and after which id to look for more; None
        if there are no more."""
        return await self._read(lambda db: pruning.old(db, ended_before, after=after, limit=limit))

    async def crowded_bots(self, keep: int) -> list[int]:
        """The bots with more than so many runs, forgotten ones too."""
        return await self._read(lambda db: pruning.crowded(db, keep))

    async def surplus_runs(self, bot_id: int, keep: int, *, limit: int) -> list[int]:
        """At most `limit` of those ended runs of a bot that are not among its newest `keep`."""
        return await self._read(lambda db: pruning.surplus(db, bot_id, keep, limit=limit))

    async def forgotten_bots(self, bot_ids: Sequence[int]) -> list[int]:
        """Those of the bots that were made once and are forgotten."""
        return await self._read(lambda db: pruning.forgotten(db, bot_ids))

    async def _read(self, query: Callable[[SqliteDatabase], T]) -> T:
        """Read what was queued before, too."""
        await self._writer.settled(READ_WAITS_S)
        return await self._read_durable(query)

    async def _read_durable(self, query: Callable[[SqliteDatabase], T]) -> T:
        """Read without a wait for what is queued."""
        if self._closed:
            raise errors.LedgerUnavailable("the ledger is closed")

        def read() -> T:
            if self._generation != self._writer.generation:
                # It still has a write-ahead log open that is no longer the ledger's.
                self._generation = self._writer.generation
                self._reading.close()
            return query(self._reading)

        try:
            return await self._in_reader(read)
        except PeeweeException as error:
            raise errors.LedgerUnavailable(f"the ledger cannot be read: {describe(error)}", retry_after_s=1) from error

    async def _in_reader(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._reader, function)
