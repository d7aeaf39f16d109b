"""What is kept no longer, in real ledgers: old runs, surplus runs, their events, and what forgotten bots left."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from supervisor.core import errors, model
from supervisor.core.model import Cause, Goal, State
from supervisor.fleet import retention
from supervisor.fleet.retention import Retention
from supervisor.store import Ledger
from tests.fakes import NoLogs
from tests.ledgers import create_bot

pytestmark = pytest.mark.anyio

DAY_US = 86_400 * 10**6
NEW = model.NewBot(kind="counter", params={})


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
async def ledger(path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ledger]:
    """Pruned in small batches, so that few runs are many of them."""
    monkeypatch.setattr(retention, "BATCH", 3)
    monkeypatch.setattr(retention, "PAUSE_S", 0)
    ledger = await Ledger.open(path)
    yield ledger
    await ledger.close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []


async def prune(
    ledger: Ledger, place: Path, *, days: float | None = None, newest: int | None = None, logs: NoLogs | None = None
) -> int:
    return await Retention(
        ledger=ledger,
        logs=logs or NoLogs(),
        bots_dir=place / "bots",
        keep_runs_days=days,
        keep_runs=newest,
    ).prune()


async def a_bot(ledger: Ledger, *days_ago: float, state: State = State.STOPPED, last_is_open: bool = False) -> int:
    """A bot with runs that were started and ended that many days ago, and each with its events; its id."""
    bot, _ = await create_bot(ledger, NEW)
    for number, days in enumerate(days_ago, 1):
        is_last = number == len(days_ago)
        at = model.now_us() - int(days * DAY_US)
        ledger.record(bot.bot_id, None, State.STARTING, Goal.UP, "", at)
        run_id = await ledger.open_run(bot.bot_id, kind="counter", params={}, started_at=at, restarts=0)
        ledger.record(bot.bot_id, run_id, State.RUNNING, Goal.UP, "", at)
        if is_last and last_is_open:
            return bot.bot_id
        ended = model.Exit(exit_code=0, signal=None, ended_at=at + 1, cpu_seconds=None, max_rss_bytes=None)
        ledger.close_run(run_id, exit=ended, cause=Cause.EXITED, detail="")
        final = state if is_last else State.BACKOFF
        await ledger.record(bot.bot_id, None, final, Goal.UP, "", at + 1)
    return bot.bot_id


async def runs_of(ledger: Ledger, bot_id: int) -> list[int]:
    return [run.run_id for run in (await ledger.runs(model.RunQuery(bot_id=bot_id, limit=1000))).items]


def events_of(path: Path, bot_id: int) -> list[tuple[int | None, str]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT run_id, state FROM event WHERE bot_id = ? ORDER BY event_id", (bot_id,)).fetchall()


async def test_runs_that_are_too_old_go_with_their_events(ledger: Ledger, path: Path, tmp_path: Path) -> None:
    bots = [await a_bot(ledger, *[days] * 4, 2.5, 0.1) for days in (9, 8, 7)]
    before = {bot_id: await runs_of(ledger, bot_id) for bot_id in bots}
    assert await prune(ledger, tmp_path, days=3) == 12
    for bot_id in bots:
        left = await runs_of(ledger, bot_id)
        assert left == before[bot_id][-2:]
        assert events_of(path, bot_id) == [
            *((None, "starting"), (left[0], "running"), (None, "backoff")),
            *((None, "starting"), (left[1], "running"), (None, "stopped")),
        ]
    assert await prune(ledger, tmp_path, days=3) == 0


async def test_the_newest_runs_of_each_bot_stay(ledger: Ledger, path: Path, tmp_path: Path) -> None:
    many, few = await a_bot(ledger, *[1] * 10), await a_bot(ledger, *[9] * 2)
    crashed_last = await a_bot(ledger, 1, 1, 1, last_is_open=True)
    before = {bot_id: await runs_of(ledger, bot_id) for bot_id in (many, few, crashed_last)}
    assert await prune(ledger, tmp_path, newest=2) == 9
    for bot_id, run_ids in before.items():
        assert await runs_of(ledger, bot_id) == run_ids[-2:]
    assert len(events_of(path, many)) == 6


@pytest.mark.parametrize(
    ("state", "stays"), [(State.STOPPED, False), (State.EXITED, False), (State.FAILED, True), (State.BACKOFF, True)]
)
async def test_the_last_run_of_a_bot_that_goes_on_stays(
    ledger: Ledger, path: Path, tmp_path: Path, state: State, stays: bool
) -> None:
    bot_id = await a_bot(ledger, 9, 9, state=state)
    assert await prune(ledger, tmp_path, days=1) == (1 if stays else 2)
    assert len(await runs_of(ledger, bot_id)) == stays
    # What the bot is now, ledger and feed say alike.
    assert events_of(path, bot_id)[-1] == (None, state)
    if stays:
        await ledger.forget_bot(bot_id)
        assert await prune(ledger, tmp_path, days=1) == 1
    assert events_of(path, bot_id) == [(None, state)]


async def test_open_runs_are_not_touched(ledger: Ledger, path: Path, tmp_path: Path) -> None:
    bot_id = await a_bot(ledger, 9, 9, last_is_open=True)
    forgotten = await a_bot(ledger, 9, last_is_open=True)
    await ledger.forget_bot(forgotten)
    still_open = [run.run_id for run in await ledger.open_runs()]
    assert await prune(ledger, tmp_path, days=1, newest=1) == 1
    assert [run.run_id for run in await ledger.open_runs()] == still_open
    assert events_of(path, bot_id) == [(None, "starting"), (still_open[0], "running")]
    assert await ledger.delete_runs(still_open) == 0


async def test_numbers_only_grow(path: Path, tmp_path: Path) -> None:
    ledger = await Ledger.open(path)
    bot_id = await a_bot(ledger, 9, 9)
    await ledger.record(bot_id, None, State.STOPPED, Goal.DOWN, "", 1)
    latest = await ledger.latest_event()
    [*_, last_run] = await runs_of(ledger, bot_id)
    assert await prune(ledger, tmp_path, days=1) == 2
    await ledger.close()
    ledger = await Ledger.open(path)
    await ledger.record(bot_id, None, State.STARTING, Goal.UP, "", 1)
    assert await ledger.latest_event() == latest + 1
    run_id = await ledger.open_run(bot_id, kind="counter", params={}, started_at=1, restarts=0)
    assert run_id == last_run + 1
    await ledger.close()


async def test_the_clock_was_set_back(ledger: Ledger, tmp_path: Path) -> None:
    """Runs with earlier times behind later ones are found all the same."""
    bot_id = await a_bot(ledger, -400, -400, 9, 9, 0.5)
    before = await runs_of(ledger, bot_id)
    assert await prune(ledger, tmp_path, days=1) == 2
    assert await runs_of(ledger, bot_id) == [*before[:2], before[-1]]


async def test_nothing_goes_unless_it_is_asked_for(ledger: Ledger, tmp_path: Path) -> None:
    bot_id = await a_bot(ledger, *[3000] * 5)
    assert await prune(ledger, tmp_path) == 0
    assert len(await runs_of(ledger, bot_id)) == 5


async def test_a_write_does_not_wait_for_all_that_goes(ledger: Ledger, tmp_path: Path) -> None:
    bot_id = await a_bot(ledger, *[9] * 60)
    pruning = asyncio.ensure_future(prune(ledger, tmp_path, days=1))
    async with asyncio.timeout(10):
        while len(await runs_of(ledger, bot_id)) == 60:
            pass
    await create_bot(ledger, NEW)
    assert not pruning.done()
    assert await pruning == 60


async def test_in_an_outage_it_is_put_off(ledger: Ledger, path: Path, tmp_path: Path) -> None:
    bot_id = await a_bot(ledger, 9, 9)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(errors.LedgerUnavailable):
            await prune(ledger, tmp_path, days=1)
    assert len(await runs_of(ledger, bot_id)) == 2
    assert await prune(ledger, tmp_path, days=1) == 2


async def test_what_forgotten_bots_have_left(ledger: Ledger, tmp_path: Path) -> None:
    """A supervisor was killed in the middle of a DELETE. What no ledger knows may be of another ledger, and stays."""
    here, gone, unknown = await a_bot(ledger, 1), await a_bot(ledger, 1), 77
    await ledger.forget_bot(gone)
    for bot_id in (here, gone, unknown):
        (tmp_path / "logs").mkdir(exist_ok=True)
        (tmp_path / "logs" / f"{bot_id}.log").touch()
        (tmp_path / "bots" / str(bot_id)).mkdir(parents=True)
    (tmp_path / "logs" / "notes.log").touch()
    logs = NoLogs({here, gone, unknown})
    await prune(ledger, tmp_path, logs=logs)
    assert logs.deleted == [gone]
    assert {int(path.name) for path in (tmp_path / "bots").iterdir()} == {here, unknown}


async def test_a_moment_without_descriptors_does_not_end_it(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "FIRST_S", 0)
    monkeypatch.setattr(retention, "EVERY_S", 0)
    loop = asyncio.get_running_loop()
    looked = asyncio.Queue[None]()

    class Unreadable(NoLogs):
        def bots(self) -> set[int]:
            loop.call_soon_threadsafe(looked.put_nowait, None)
            raise OSError(errno.EMFILE, "Too many open files")

    kept = Retention(ledger=ledger, logs=Unreadable(), bots_dir=tmp_path, keep_runs_days=None, keep_runs=None)
    running = asyncio.create_task(kept.run())
    try:
        for _ in range(2):
            async with asyncio.timeout(10):
                await looked.get()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
