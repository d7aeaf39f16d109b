"""The writer thread: groups, savepoints, and what happens while the database cannot be written."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import sqlite3
import subprocess
import threading
import time
import unittest.mock
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from peewee import SqliteDatabase

from supervisor.core import errors, model
from supervisor.core.model import Cause, Goal, State
from supervisor.store import Ledger, file
from supervisor.store import writer as store_writer
from supervisor.store.writer import GROUP, Writer
from tests import belongings
from tests.ledgers import create_bot, create_bot_and_run

pytestmark = pytest.mark.anyio

NEW = model.NewBot(kind="counter", params={"start_number": 12})
BUSY_TIMEOUT_S = 0.2


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An empty ledger."""
    path = tmp_path / "ledger.db"
    file.prepare(path)
    return path


@pytest.fixture
async def ledger(path: Path) -> AsyncIterator[Ledger]:
    ledger = await Ledger.open(path, busy_timeout_s=BUSY_TIMEOUT_S)
    yield ledger
    await ledger.close()


@pytest.fixture
async def writer(path: Path) -> AsyncIterator[Writer]:
    """A writer on a ledger with one more table, `line`, which keeps the order of the writes."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE line (n INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT UNIQUE)")
    writer = Writer(file.writing(path), file.Files(path), busy_timeout_s=BUSY_TIMEOUT_S)
    yield writer
    writer.close(1)
    await asyncio.to_thread(writer.join)


@pytest.fixture
def other(path: Path) -> Iterator[sqlite3.Connection]:
    """Another program's connection to the ledger."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as connection:
        yield connection


async def bot_and_run(ledger: Ledger) -> tuple[model.Bot, int]:
    bot, run_id, _ = await create_bot_and_run(ledger, NEW, started_at=1)
    assert run_id is not None
    return bot, run_id


async def state(ledger: Ledger, bot: model.Bot) -> State:
    read = await ledger.bot(bot.bot_id)
    assert read is not None
    return read.state


def line(text: str) -> Callable[[SqliteDatabase], None]:
    def write(db: SqliteDatabase) -> None:
        db.execute_sql("INSERT INTO line (text) VALUES (?)", (text,))

    return write


def lines(other: sqlite3.Connection) -> list[str]:
    return [text for (text,) in other.execute("SELECT text FROM line ORDER BY n")]


@contextlib.contextmanager
def held_up(writer: Writer) -> Iterator[None]:
    """Keep the thread in a write of its own until the block ends, so that all that is queued in it is one group."""
    entered, released = threading.Event(), threading.Event()

    def hold(db: SqliteDatabase) -> None:
        entered.set()
        assert released.wait(10)

    writer.command(hold)
    assert entered.wait(10)
    try:
        yield
    finally:
        released.set()


async def until(predicate: Callable[[], object], limit_s: float = 10) -> None:
    async with asyncio.timeout(limit_s):
        while not predicate():  # noqa: ASYNC110 - a thread changes it, not a task
            await asyncio.sleep(0.005)


async def test_what_is_queued_is_one_transaction(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    statements: list[str] = []
    await writer.command(lambda db: db.connection().set_trace_callback(statements.append))
    loop = asyncio.get_running_loop()
    wake_up = unittest.mock.Mock(side_effect=loop.call_soon_threadsafe)
    monkeypatch.setattr(loop, "call_soon_threadsafe", wake_up)
    with held_up(writer):
        writes = [writer.command(line(str(n))) for n in range(100)]
    await asyncio.gather(*writes)
    # One for what held the thread up, and one for the hundred.
    assert statements.count("BEGIN IMMEDIATE") == 2
    assert wake_up.call_count == 2


async def test_facts_that_nobody_waits_for_are_one_transaction(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commits: list[float] = []
    ledger = await Ledger.open(path, on_commit=commits.append)
    bot, run_id = await bot_and_run(ledger)
    monkeypatch.setattr(store_writer, "FACT_WAITS_S", 60)

    async def hurry() -> None:
        ledger.hurry()

    begins: list[Callable[[], Awaitable[object]]] = [
        hurry, lambda: create_bot(ledger, NEW), lambda: ledger.bot(bot.bot_id), ledger.close,
    ]  # fmt: skip
    for begin in begins:
        commits.clear()
        facts = [ledger.set_ready(run_id, 2)]
        # Time for the thread that writes.
        await asyncio.to_thread(lambda: None)
        facts += [ledger.record(bot.bot_id, run_id, State.RUNNING, Goal.UP, "it runs", 2)]
        assert not commits
        await begin()
        await asyncio.gather(*facts)
        assert len(commits) == 1


async def test_reads_of_followers_hurry_no_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commits: list[float] = []
    ledger = await Ledger.open(path, on_commit=commits.append)
    bot, run_id = await bot_and_run(ledger)
    latest = await ledger.latest_event()
    monkeypatch.setattr(store_writer, "FACT_WAITS_S", 60)
    commits.clear()
    fact = ledger.record(bot.bot_id, run_id, State.RUNNING, Goal.UP, "it runs", 2)
    assert await ledger.latest_event() == latest
    assert await ledger.latest_events() == [latest]
    assert await ledger.events_after(latest, limit=9) == []
    assert [entry.event.event_id for entry in await ledger.events_numbered([latest, latest + 1])] == [latest]
    [ending] = await ledger.latest_endings([(bot.bot_id, None)])
    assert ending.run_id is None
    assert not commits
    ledger.hurry()
    await fact
    assert [entry.event.event_id for entry in await ledger.events_after(latest, limit=9)] == [latest + 1]
    assert len(commits) == 1
    await ledger.close()


async def test_a_fact_is_soon_written_by_itself(ledger: Ledger) -> None:
    _, run_id = await bot_and_run(ledger)
    async with asyncio.timeout(10):
        await ledger.set_ready(run_id, 2)


async def test_what_was_recorded_is_read(ledger: Ledger, other: sqlite3.Connection) -> None:
    bot, run_id = await bot_and_run(ledger)
    for _ in range(20):
        for new in (State.RUNNING, State.STOPPING):
            ledger.record(bot.bot_id, run_id, new, Goal.UP, "", 2)
            assert await state(ledger, bot) is new
    # But nobody waits long for a disk.
    other.execute("BEGIN IMMEDIATE")
    fact = ledger.record(bot.bot_id, run_id, State.STOPPED, Goal.UP, "", 2)
    assert await state(ledger, bot) is State.STOPPING
    assert not fact.done()
    other.execute("ROLLBACK")
    await fact
    assert await state(ledger, bot) is State.STOPPED


async def test_a_hundred_callers_share_few_commits(ledger: Ledger, path: Path) -> None:
    def commits() -> int:
        """The frames of the write-ahead log that end a transaction: those that name the size of the database."""
        wal = path.with_name("ledger.db-wal").read_bytes()
        frame_size = 24 + int.from_bytes(wal[8:12], "big")
        return sum(wal[at + 4 : at + 8] != bytes(4) for at in range(32, len(wal), frame_size))

    await create_bot_and_run(ledger, NEW, started_at=1)
    before = commits()
    await asyncio.gather(*(create_bot_and_run(ledger, NEW, started_at=1) for _ in range(100)))
    assert 1 <= commits() - before <= 10
    assert len(await ledger.open_runs()) == 101


async def test_a_write_that_fails_undoes_itself_alone(
    writer: Writer, other: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    def half(db: SqliteDatabase) -> None:
        line("half")(db)
        raise ValueError("on second thoughts")

    with held_up(writer):
        first = writer.command(line("a"))
        bad = writer.command(half)
        twice = writer.command(line("a"))
        wrong_fact = writer.fact(line("a"))
        last = writer.fact(line("b"))
    with pytest.raises(ValueError, match="on second thoughts"):
        await bad
    with pytest.raises(Exception, match="UNIQUE"):
        await twice
    await asyncio.gather(first, wrong_fact, last)
    assert lines(other) == ["a", "b"]
    assert writer.outage is None
    [record] = caplog.records
    assert record.exc_info
    assert "dropped" in record.message


async def test_a_caller_that_gave_up_disturbs_nobody(writer: Writer, other: sqlite3.Connection) -> None:
    with held_up(writer):
        given_up = writer.command(line("a"))
        waited_for = writer.command(line("b"))
    given_up.cancel()
    await asyncio.wait_for(waited_for, 5)
    assert lines(other) == ["a", "b"]
    assert writer.queued == 0


async def test_a_fact_about_nobody_is_dropped(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    bot, _ = await bot_and_run(ledger)
    await ledger.record(99, None, State.RUNNING, Goal.UP, "who?", 1)
    await ledger.record(bot.bot_id, None, State.RUNNING, Goal.UP, "ready", 1)
    assert await state(ledger, bot) is State.RUNNING
    assert "FOREIGN KEY constraint failed" in caplog.text


async def test_a_lock_that_is_short_is_waited_for(path: Path, other: sqlite3.Connection) -> None:
    ledger = await Ledger.open(path)
    other.execute("BEGIN IMMEDIATE")
    command = asyncio.ensure_future(create_bot(ledger, NEW))
    assert await asyncio.wait([command], timeout=1) == (set(), {command})
    assert ledger.outage is None
    assert ledger.queued == 1
    other.execute("ROLLBACK")
    bot, _ = await command
    assert await ledger.bot(bot.bot_id) == bot
    await ledger.close()


async def test_a_ledger_opens_while_it_is_locked(path: Path, other: sqlite3.Connection) -> None:
    other.execute("BEGIN IMMEDIATE")
    ledger = await Ledger.open(path, busy_timeout_s=BUSY_TIMEOUT_S)
    assert await ledger.open_runs() == []
    other.execute("ROLLBACK")
    await ledger.close()


async def test_facts_outlive_a_long_lock_and_commands_do_not(
    ledger: Ledger, other: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    bot, run_id = await bot_and_run(ledger)
    other.execute("BEGIN IMMEDIATE")
    exit_ = model.Exit(exit_code=3, signal=None, ended_at=5, cpu_seconds=None, max_rss_bytes=None)
    facts = [
        ledger.close_run(run_id, exit=exit_, cause=Cause.CRASHED, detail=""),
        *(ledger.record(bot.bot_id, run_id, State.BACKOFF, Goal.UP, f"no. {n}", 1) for n in range(3)),
    ]
    with pytest.raises(errors.LedgerUnavailable, match="database is locked") as refused:
        await create_bot(ledger, NEW)
    assert refused.value.retry_after_s == 1
    assert ledger.outage == "database is locked (SQLITE_BUSY)"
    # More facts, while it is known that they must wait; and reads go on.
    facts.append(ledger.record(bot.bot_id, run_id, State.STARTING, Goal.UP, "no. 3", 1))
    with pytest.raises(errors.LedgerUnavailable, match="SQLITE_BUSY"):
        await ledger.open_run(bot.bot_id, kind="counter", params={}, started_at=1, restarts=1)
    assert not any(fact.done() for fact in facts)
    assert ledger.queued == len(facts)
    assert [run.run_id for run in await ledger.open_runs()] == [run_id]

    other.execute("ROLLBACK")
    # A command that comes now is written after all of them.
    assert await ledger.open_run(bot.bot_id, kind="counter", params={}, started_at=1, restarts=1)
    assert all(fact.done() for fact in facts)
    assert not ledger.outage
    assert ledger.queued == 0
    assert other.execute("SELECT exit_code FROM run WHERE run_id = ?", (run_id,)).fetchone() == (3,)
    assert other.execute("SELECT reason FROM bot").fetchone() == ("no. 3",)
    # With the one of its creation.
    assert other.execute("SELECT count(*) FROM event").fetchone() == (5,)
    # Two lines in the log, however many tries there were.
    assert [record.__dict__["action"] for record in caplog.records] == ["ledger-outage", "ledger-outage-over"]


async def test_facts_are_written_in_their_order(writer: Writer, other: sqlite3.Connection) -> None:
    other.execute("BEGIN IMMEDIATE")
    texts = [str(n) for n in range(3 * GROUP)]
    facts = [writer.fact(line(text)) for text in texts[:GROUP]]
    await until(lambda: writer.outage)
    lost = [asyncio.ensure_future(writer.command(line(f"command {n}"))) for n in range(5)]
    facts += [writer.fact(line(text)) for text in texts[GROUP:]]
    refusals = await asyncio.gather(*lost, return_exceptions=True)
    assert {type(refusal) for refusal in refusals} == {errors.LedgerUnavailable}
    other.execute("ROLLBACK")
    last = writer.command(line("last"))
    await asyncio.gather(*facts, last)
    assert lines(other) == [*texts, "last"]


async def test_in_an_outage_a_command_is_refused_soon(path: Path, other: sqlite3.Connection) -> None:
    ledger = await Ledger.open(path, busy_timeout_s=3)
    other.execute("BEGIN IMMEDIATE")
    took = []
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(errors.LedgerUnavailable):
            await create_bot(ledger, NEW)
        took.append(time.monotonic() - began)
    assert took[0] >= 3 > 2.5 > took[1]
    other.execute("ROLLBACK")
    await ledger.close()


async def test_an_outage_ends_without_another_write(ledger: Ledger, other: sqlite3.Connection) -> None:
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(errors.LedgerUnavailable):
        await create_bot(ledger, NEW)
    assert ledger.outage
    other.execute("ROLLBACK")
    await until(lambda: ledger.outage is None)


async def test_close_does_not_wait_for_ever(
    path: Path, other: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    threads = belongings.threads()
    ledger = await Ledger.open(path)
    bot, _ = await create_bot(ledger, NEW)
    other.execute("BEGIN IMMEDIATE")
    fact = ledger.record(bot.bot_id, None, State.FAILED, Goal.UP, "lost", 1)
    began = time.monotonic()
    await ledger.close(timeout_s=0.5)
    assert time.monotonic() - began < 10
    await asyncio.wait_for(fact, 1)
    assert belongings.threads() <= threads
    assert "a fact is lost: the ledger cannot be written: database is locked" in caplog.text
    other.execute("ROLLBACK")


async def test_close_empties_the_log(path: Path, other: sqlite3.Connection) -> None:
    """Also while another program has the ledger open, so that a copy of the file alone is complete."""
    other.execute("SELECT * FROM bot").fetchall()
    ledger = await Ledger.open(path)
    await create_bot(ledger, NEW)
    assert os.stat(f"{path}-wal").st_size > 0
    await ledger.close()
    assert os.stat(f"{path}-wal").st_size == 0


async def test_close_writes_what_waits_when_the_lock_goes(path: Path, other: sqlite3.Connection) -> None:
    ledger = await Ledger.open(path, busy_timeout_s=BUSY_TIMEOUT_S)
    bot, _ = await create_bot(ledger, NEW)
    other.execute("BEGIN IMMEDIATE")
    fact = ledger.record(bot.bot_id, None, State.FAILED, Goal.UP, "kept", 1)
    await until(lambda: ledger.outage)
    closing = asyncio.ensure_future(ledger.close(timeout_s=10))
    assert await asyncio.wait([closing], timeout=0.3) == (set(), {closing})
    other.execute("ROLLBACK")
    await asyncio.gather(closing, fact)
    assert other.execute("SELECT reason FROM bot").fetchall() == [("kept",)]


async def test_an_idle_ledger_does_not_wake_up(ledger: Ledger) -> None:
    await create_bot(ledger, NEW)
    await ledger.open_runs()
    tasks = [Path(f"/proc/self/task/{t.native_id}/status") for t in threading.enumerate() if "ledger" in t.name]
    assert len(tasks) == 2

    def switches() -> list[str]:
        return [text for task in tasks for text in task.read_text().splitlines() if "ctxt_switches" in text]

    async def silent() -> bool:
        """Nothing wakes them in half a second."""
        before = switches()
        await asyncio.sleep(0.5)
        return switches() == before

    # Each may have something left to do; and one that waits for the interpreter's lock sleeps, too.
    async with asyncio.timeout(10):
        while not await silent():
            pass


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """Sets the largest size of a file that this process may write, until the end of the test."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_file_that_cannot_grow(ledger: Ledger, path: Path, small_files: Callable[[int], None]) -> None:
    bot, run_id = await bot_and_run(ledger)
    await ledger.open_runs()  # While it is open for reading, too, its log is not given up.
    small_files(os.stat(f"{path}-wal").st_size)
    with pytest.raises(errors.LedgerUnavailable, match=r"SQLITE_IOERR_WRITE|SQLITE_FULL"):
        await create_bot(ledger, NEW)
    # It is tried again, with nothing to write, and found to be as before.
    await asyncio.sleep(0.5)
    assert ledger.outage
    fact = ledger.record(bot.bot_id, run_id, State.RUNNING, Goal.UP, "ready", 1)
    with pytest.raises(errors.LedgerUnavailable, match=r"SQLITE_IOERR_WRITE|SQLITE_FULL"):
        await create_bot(ledger, NEW)
    assert not fact.done()
    assert await state(ledger, bot) is State.STARTING
    small_files(resource.RLIM_INFINITY)
    await asyncio.wait_for(fact, 5)
    assert await state(ledger, bot) is State.RUNNING
    await create_bot(ledger, NEW)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


async def test_a_full_disk(small_disk: Path) -> None:
    path = small_disk / "ledger.db"
    ledger = await Ledger.open(path)
    bot, run_id = await bot_and_run(ledger)
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as out:
        while True:
            out.write(bytes(4096))
    with pytest.raises(errors.LedgerUnavailable, match="SQLITE_FULL"):
        await ledger.create_bots(NEW, 100, started_at=None)
    fact = ledger.record(bot.bot_id, run_id, State.RUNNING, Goal.UP, "ready", 1)
    with pytest.raises(errors.LedgerUnavailable, match="SQLITE_FULL"):
        await ledger.create_bots(NEW, 100, started_at=None)
    assert await state(ledger, bot) is State.STARTING
    ballast.unlink()
    await asyncio.wait_for(fact, 5)
    assert len((await ledger.create_bots(NEW, 100, started_at=None))[0]) == 100
    await ledger.close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_a_command_too_big_for_the_disk_does_not_hold_up_facts(small_disk: Path) -> None:
    path = small_disk / "ledger.db"
    ledger = await Ledger.open(path)
    bot, run_id = await bot_and_run(ledger)
    big = model.NewBot(kind="counter", params={"text": "x" * 2**21})
    refused = [asyncio.ensure_future(create_bot(ledger, big)) for _ in range(3)]
    await asyncio.sleep(0)
    fact = ledger.record(bot.bot_id, run_id, State.RUNNING, Goal.UP, "ready", 1)
    await asyncio.wait_for(fact, 5)
    outcomes = await asyncio.gather(*refused, return_exceptions=True)
    assert {str(outcome) for outcome in outcomes} == {
        "the ledger cannot be written: database or disk is full (SQLITE_FULL)"
    }
    await ledger.close()


def test_the_process_may_hold_no_descriptor_of_a_closed_ledger(path: Path) -> None:
    before = belongings.descriptors()

    async def open_and_close() -> None:
        ledger = await Ledger.open(path)
        await create_bot(ledger, NEW)
        await ledger.close()

    asyncio.run(open_and_close())
    assert belongings.descriptors() <= before


# ---- files that somebody moves


async def refused(ledger: Ledger) -> str:
    """Why no bot can be made now."""
    with pytest.raises(errors.LedgerUnavailable) as unavailable:
        await create_bot(ledger, NEW)
    return unavailable.value.detail


async def written_again(ledger: Ledger) -> None:
    """Wait until the outage is over."""
    async with asyncio.timeout(10):
        while ledger.outage:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("how", ["moved", "replaced"])
async def test_a_ledger_that_is_not_at_its_path_takes_nothing(ledger: Ledger, tmp_path: Path, how: str) -> None:
    path, aside = tmp_path / "ledger.db", tmp_path / "aside.db"
    bot, _ = await create_bot(ledger, NEW)
    assert await ledger.bot(bot.bot_id), "it is open for reading"
    path.rename(aside)
    if how == "replaced":
        shutil.copy(aside, path)
    what = {"moved": "was moved or deleted", "replaced": "was replaced by another file"}[how]
    assert ledger.outage
    assert f"{path} {what}" in ledger.outage
    fact = ledger.record(bot.bot_id, None, State.RUNNING, Goal.UP, "it is up", 1)
    assert f"{path} {what}" in await refused(ledger)
    assert not fact.done()
    assert await ledger.bot(bot.bot_id), "what is there can be read"
    aside.rename(path)
    await fact
    await written_again(ledger)
    assert (await create_bot(ledger, NEW))[0].bot_id == bot.bot_id + 1


async def test_a_lost_write_ahead_log_loses_nothing(ledger: Ledger, tmp_path: Path) -> None:
    bot, _ = await create_bot(ledger, NEW)
    (tmp_path / "ledger.db-wal").unlink()
    assert ledger.outage
    assert "ledger.db-wal was moved, deleted or replaced" in ledger.outage
    assert "ledger.db-wal" in await refused(ledger)
    await written_again(ledger)
    after, _ = await create_bot(ledger, NEW)
    assert [found.bot_id for found in await ledger.bots(model.BotQuery(states=frozenset(State)))] == [
        bot.bot_id,
        after.bot_id,
    ]
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db")) as another:
        assert another.execute("SELECT count(*) FROM bot").fetchone() == (2,)


async def test_a_lost_log_is_not_left_while_it_is_read(ledger: Ledger, other: sqlite3.Connection, path: Path) -> None:
    """What somebody reads of it cannot be brought into the ledger yet, and a new log does not go with it."""
    await create_bot(ledger, NEW)
    other.execute("BEGIN")
    other.execute("SELECT * FROM bot").fetchall()
    await create_bot(ledger, NEW)
    Path(f"{path}-wal").unlink()
    for _ in range(3):
        assert "ledger.db-wal" in await refused(ledger)
    other.execute("ROLLBACK")
    await written_again(ledger)
    await create_bot(ledger, NEW)
    killed = path.parent / "killed.db"
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{killed}{suffix}")
    with contextlib.closing(sqlite3.connect(killed)) as found:
        assert found.execute("SELECT count(*) FROM bot").fetchone() == (3,)


@pytest.mark.parametrize("first", ["moved", "replaced"])
async def test_a_log_that_is_lost_while_its_ledger_is_away(ledger: Ledger, tmp_path: Path, first: str) -> None:
    """What was answered before is in the log alone: it is saved while that is still open."""
    path, aside = tmp_path / "ledger.db", tmp_path / "aside.db"
    bot, _ = await create_bot(ledger, NEW)
    assert await ledger.bot(bot.bot_id), "it is open for reading"
    path.rename(aside)
    if first == "replaced":
        shutil.copy(aside, path)
    assert "put it back" in await refused(ledger)
    (tmp_path / "ledger.db-wal").unlink()
    aside.rename(path)
    await written_again(ledger)
    after, _ = await create_bot(ledger, NEW)
    killed = tmp_path / "killed.db"
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{killed}{suffix}")
    with contextlib.closing(sqlite3.connect(killed)) as found:
        assert found.execute("SELECT bot_id FROM bot").fetchall() == [(bot.bot_id,), (after.bot_id,)]
