"""Feeds: what there is of events, or of a log, and then each that comes.

Nothing waits in memory. Who follows is told that there is news, and reads it from ledger or log when it gets to it: a
slow reader costs no more than a fast one, and misses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

from supervisor.core import errors
from supervisor.core.model import Entry, Event, Run
from supervisor.engine.protocol import LogReader, Logs
from supervisor.fleet.roster import Roster
from supervisor.logs import Line, Skipped
from supervisor.store import Ledger

T = TypeVar("T")

PAGE = 500
IDLE_S = 15.0
RETRY_S = 1.0


class News:
    """Says that there may be something to read."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def tell(self) -> None:
        self._event.set()

    async def wait(self, limit_s: float) -> bool:
        """Waits until it was told since the last call. False: not within the limit."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._event.wait()
        told = self._event.is_set()
        self._event.clear()
        return told


async def entries(
    ledger: Ledger, *, since: int | None, bot_id: int | None = None
) -> AsyncGenerator[Entry | None, None]:
    """The events with larger numbers than `since`, without end; of one bot until it is deleted.

    Without `since` it begins with the present: the latest event of each bot that is not deleted, in the order of their
    numbers. Whoever goes on from any of these misses nothing, as what was not told yet has a larger number. None
    says that nothing has come for `IDLE_S`.
    """
    news = News()

    def tell(event: Event, _: object) -> None:
        if bot_id in (None, event.bot_id):
            news.tell()

    # First, so that nothing comes between.
    unwatch = ledger.watch(tell)
    try:
        if since is None:
            newest = await _read(ledger.latest_event)
            # What has come since is in it too, or is of bots that are gone.
            present = await _read(lambda: ledger.latest_events(bot_id))
            since = max([newest, *present])
            for begin in range(0, len(present), PAGE):
                page = present[begin : begin + PAGE]
                for entry in await _read(functools.partial(ledger.events_numbered, page)):
                    yield entry
        while True:
            found = await _read(functools.partial(ledger.events_after, since, limit=PAGE, bot_id=bot_id))
            for entry in found:
                since = entry.event.event_id
                yield entry
                if entry.deleted and bot_id is not None:
                    return
            # A full page may not be all. What has come since it was read has told `news`.
            if len(found) < PAGE and not await news.wait(IDLE_S):
                yield None
    finally:
        unwatch()


async def lines(
    ledger: Ledger, logs: Logs, reader: LogReader, *, bot_id: int, run: Run | None
) -> AsyncGenerator[Line | Skipped | None, None]:
    """What the reader finds in the log of a bot, until that is deleted; with a run, until all of its output is read.

    None says that nothing has come for `IDLE_S`.
    """
    news, ends = News(), list[int]()

    def on_end(end: int) -> None:
        ends.append(end)
        news.tell()

    # First, so that nothing comes between.
    unwatch = logs.watch(bot_id, news.tell, on_end)
    try:
        reader.ended(await _read(lambda: ledger.log_ends(bot_id, reader.offset)))
        waited = False
        while True:
            if run is not None and reader.stop is None:
                # It is the one that goes on, so the next to end.
                reader.stop = ends[0] if ends else await _read(functools.partial(_end_of, ledger, logs, run))
            reader.ended(ends)
            ends.clear()
            found = await _read(lambda: asyncio.to_thread(reader.read))
            for piece in found:
                yield piece
            if reader.is_done or (waited and not found and await _read(lambda: ledger.bot(bot_id)) is None):
                return
            waited = not found
            if waited and not await news.wait(IDLE_S):
                yield None
    finally:
        unwatch()


async def _read(reading: Callable[[], Awaitable[T]]) -> T:
    """What it gives, once it can: who follows waits while ledger or log cannot be read, as an end would mean more."""
    while True:
        try:
            return await reading()
        except (errors.Unavailable, OSError):
            await asyncio.sleep(RETRY_S)


async def _end_of(ledger: Ledger, logs: Logs, run: Run) -> int | None:
    """Where the output of a run ended; None while it goes on."""
    now = await ledger.run(run.run_id)
    if now is None or (now.cause is not None and now.log_end is None):
        # Nobody saw it.
        return await logs.size(run.bot_id)
    return now.log_end


class Feeds:
    """What can be read and followed of bots: their events and their logs."""

    def __init__(self, ledger: Ledger, logs: Logs, roster: Roster) -> None:
        self._ledger = ledger
        self._logs = logs
        self._roster = roster

    def entries(self, *, since: int | None, bot_id: int | None) -> AsyncGenerator[Entry | None, None]:
        """The feed of events, see `entries`."""
        return entries(self._ledger, since=since, bot_id=bot_id)

    async def log_tail(self, bot_id: int, *, tail: int, run_id: int | None = None) -> bytes:
        """The last lines of a bot's log, or of one run of it. Raises UnknownBot, UnknownRun, Unavailable."""
        run = await self._run_of(bot_id, run_id)
        return await self._logs.tail(bot_id, tail, start=await self._start(run), end=run.log_end if run else None)

    async def log_lines(
        self, bot_id: int, *, tail: int, offset: int | None, run_id: int | None
    ) -> AsyncGenerator[Line | Skipped | None, None]:
        """The lines of a bot's log, or of one run of it: from an offset on, or the last ones, and then each that comes;
        see `lines`. Raises UnknownBot, UnknownRun, Unavailable."""
        run = await self._run_of(bot_id, run_id)
        start = await self._start(run)
        if offset is None:
            end = await self._logs.size(bot_id) if run is None or run.log_end is None else run.log_end
            offset = end - len(await self._logs.tail(bot_id, tail, start=start, end=end))
        reader = self._logs.reader(bot_id, max(offset, start))
        return lines(self._ledger, self._logs, reader, bot_id=bot_id, run=run)

    async def _start(self, run: Run | None) -> int:
        """Where the output of a run begins: of one that has no process yet, at the end of the log."""
        if run is None:
            return 0
        is_alive = run.identity is not None or run.cause is not None
        return run.log_start if is_alive else await self._logs.size(run.bot_id)

    async def _run_of(self, bot_id: int, run_id: int | None) -> Run | None:
        """The run, which is to be one of the bot, or to be none. Raises UnknownBot, UnknownRun."""
        if run_id is None:
            if self._roster.find(bot_id) is None:
                await self._roster.row(bot_id)
            return None
        run = await self._ledger.run(run_id)
        if run is None or run.bot_id != bot_id:
            raise errors.UnknownRun(f"bot {bot_id} has no run {run_id}", bot_id=bot_id)
        return run
