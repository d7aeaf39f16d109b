"""The feed of events, from a real ledger."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.core import model
from supervisor.core.model import Goal, State
from supervisor.fleet import feed
from supervisor.store import Ledger
from tests.ledgers import create_bot

pytestmark = pytest.mark.anyio


@pytest.fixture
def reads(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> list[list[model.Entry]]:
    """What each read of events has given."""
    read, found = ledger.events_after, list[list[model.Entry]]()

    async def noted(*args: Any, **how: Any) -> list[model.Entry]:
        found.append(await read(*args, **how))
        return found[-1]

    monkeypatch.setattr(ledger, "events_after", noted)
    return found


async def write(ledger: Ledger, *moments: int) -> None:
    """An event at each of these."""
    bot, _ = await create_bot(ledger, model.NewBot(kind="counter", params={}))
    for at in moments:
        await ledger.record(bot.bot_id, None, State.RUNNING, Goal.UP, "ready", at)


@contextlib.asynccontextmanager
async def following(ledger: Ledger) -> AsyncIterator[AsyncIterator[int | None]]:
    """When each event was."""
    async with contextlib.aclosing(feed.entries(ledger, since=0)) as entries:
        yield (None if entry is None else entry.event.at async for entry in entries)


async def test_the_ledger_is_read_when_there_is_news(ledger: Ledger, reads: list[list[model.Entry]]) -> None:
    await write(ledger, 1, 2)
    async with following(ledger) as told:
        assert [await anext(told) for _ in range(2)] == [1, 2]
        third = asyncio.ensure_future(anext(told))
        await write(ledger, 3)
        assert await third == 3
    assert [len(read) for read in reads] == [2, 1]


async def test_of_one_bot_what_others_do_is_no_news(
    ledger: Ledger, reads: list[list[model.Entry]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "IDLE_S", 0.2)
    await write(ledger, 1)
    async with contextlib.aclosing(feed.entries(ledger, since=0, bot_id=1)) as entries:
        assert (entry := await anext(entries)) is not None
        assert entry.event.at == 1
        quiet = asyncio.ensure_future(anext(entries))
        async with asyncio.timeout(10):
            while not quiet.done():
                # Without an end, or it would be quiet after all.
                await write(ledger, 2)
        assert await quiet is None
    assert [len(read) for read in reads] == [1]


async def test_what_is_written_while_a_page_is_told_comes_next(ledger: Ledger) -> None:
    await write(ledger, 1, 2)
    async with following(ledger) as told:
        assert await anext(told) == 1
        await write(ledger, 3, 4)
        assert [await anext(told) for _ in range(3)] == [2, 3, 4]


async def test_what_a_supervisor_could_not_write_leaves_no_gap_and_takes_no_number(tmp_path: Path) -> None:
    """Numbers are given where events are written: one that a follower was told is never another event's."""
    path = tmp_path / "ledger.db"
    ledger = await Ledger.open(path)
    await write(ledger, 1, 2)
    async with contextlib.aclosing(feed.entries(ledger, since=0)) as entries:
        before = [await anext(entries) for _ in range(2)]
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        lost = [ledger.record(1, None, State.RUNNING, Goal.UP, "lost", at) for at in (3, 4)]
        # As kill -9 would have it.
        await ledger.close(0)
        await asyncio.gather(*lost)
    ledger = await Ledger.open(path)
    await ledger.record(1, None, State.RUNNING, Goal.UP, "ready", 5)
    last = before[-1]
    assert last is not None
    async with contextlib.aclosing(feed.entries(ledger, since=last.event.event_id)) as entries:
        entry = await anext(entries)
    await ledger.close()
    assert entry is not None
    assert (entry.event.event_id, entry.event.at) == (last.event.event_id + 1, 5)


async def test_behind_a_full_page_comes_another(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "PAGE", 2)
    monkeypatch.setattr(feed, "IDLE_S", 0.1)
    await write(ledger, 1, 2, 3, 4, 5)
    async with following(ledger) as told:
        assert [await anext(told) for _ in range(6)] == [1, 2, 3, 4, 5, None]


async def test_a_feed_that_breaks_anywhere_in_the_present_goes_on_with_all_that_came_later(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The present is told in pages, while more happens. Whoever breaks off in it has seen each event once in the end,
    but for those that were past when it began."""
    monkeypatch.setattr(feed, "PAGE", 2)
    bots = [(await create_bot(ledger, model.NewBot(kind="counter", params={})))[0].bot_id for _ in range(5)]

    async def happen(*bot_ids: int) -> None:
        for bot_id in bot_ids:
            await ledger.record(bot_id, None, State.RUNNING, Goal.UP, "ready", 1)

    async def follow(since: int | None, cut: int, *, meanwhile: int | None = None) -> list[int]:
        """The numbers of the next entries, up to so many; after the first of them something happens."""
        seen: list[int] = []
        async with contextlib.aclosing(feed.entries(ledger, since=since)) as entries:
            while len(seen) < cut and (entry := await anext(entries)) is not None:
                seen.append(entry.event.event_id)
                if len(seen) == 1 and meanwhile is not None:
                    await happen(meanwhile)
        return seen

    await happen(*bots, *reversed(bots), bots[0])
    await ledger.forget_bot(bots[1])
    present = await ledger.latest_events()
    assert len(present) == 4
    for cut in range(1, len(present) + 2):
        newest = await ledger.latest_event()
        began_with = await ledger.latest_events()
        first = await follow(None, cut, meanwhile=bots[2])
        await happen(bots[3])
        last = await ledger.latest_event()
        rest = await follow(first[-1], last - first[-1])
        assert first == [*began_with, newest + 1][:cut]
        assert rest == list(range(first[-1] + 1, last + 1))
