"""A ledger of version 0.1.0, as its supervisor left it when it was killed: migrated, and read as it was meant."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from supervisor.core import model
from supervisor.core.model import Cause, Goal, State
from supervisor.store import Ledger, inspection
from tests.ledgers import create_bot

pytestmark = pytest.mark.anyio

DUMP = Path(__file__).parents[1] / "fixtures" / "ledger-0.1.0.sql"
"""Bot 3 crashed, 4 has a schedule, 5 was stopped, 6 was killed, 7 was restarted, 8 was deleted; the others run."""

RUNNING = {1: 1, 2: 2, 7: 7, 9: 9}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.sqlite3"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = wal")
        db.executescript(DUMP.read_text())
    return path


@pytest.fixture
async def ledger(path: Path) -> AsyncIterator[Ledger]:
    ledger = await Ledger.open(path)
    yield ledger
    await ledger.close()


async def bot(ledger: Ledger, bot_id: int) -> model.Bot:
    found = await ledger.bot(bot_id)
    assert found is not None
    return found


async def test_it_is_whole_before_and_after(path: Path) -> None:
    before = inspection.inspect(path)
    assert before is not None
    assert before.schema == "0004_feed"
    assert before.pending
    await (await Ledger.open(path)).close()
    after = inspection.inspect(path)
    assert after is not None
    assert after.pending == []
    for name in ("states", "remembered", "forgotten", "runs", "open_runs", "latest_event", "with_secrets"):
        assert getattr(after, name) == getattr(before, name), name


async def test_bots(ledger: Ledger) -> None:
    web = await bot(ledger, 1)
    assert (web.kind, web.name, web.params, web.labels) == ("counter", "web", {"start_number": 12}, {"team": "a"})
    assert (web.goal, web.state, web.grace_s, web.restarts) == (Goal.UP, State.RUNNING, 2.0, 0)
    assert web.restart == model.RestartPolicy(policy=model.Policy.ALWAYS, max_restarts=9)
    crashed, scheduled, killed = [await bot(ledger, bot_id) for bot_id in (3, 4, 6)]
    assert crashed.limits == model.Limits(nice=5)
    assert crashed.last_exit == model.LastExit(
        exit_code=1, signal=None, cause=Cause.CRASHED, at=crashed.last_exit.at if crashed.last_exit else 0
    )
    assert scheduled.schedule == model.Schedule(
        cron="0 3 * * *", timezone="Europe/Berlin", overlap=model.Overlap.SKIP, missed=model.Missed.RUN
    )
    assert (killed.state, killed.last_exit and killed.last_exit.signal) == (State.FAILED, "SIGKILL")
    assert await ledger.bot(8) is None, "it was deleted"
    # What is their own is found out by the fleet, which knows their kinds.
    assert {found.bot_id for found in await ledger.bots_without_overrides()} == {1, 2, 3, 4, 5, 6, 7, 9}
    assert {found.bot_id for found in await ledger.bots_to_settle()} == {1, 2, 3, 4, 6, 7, 9}


async def test_runs(ledger: Ledger) -> None:
    assert {run.run_id: run.bot_id for run in await ledger.open_runs()} == RUNNING
    page = await ledger.runs(model.RunQuery())
    ends = {run.run_id: (run.cause, run.exit_code, run.signal) for run in page.items if run.run_id not in RUNNING}
    assert ends == {
        3: (Cause.CRASHED, 1, None),
        4: (Cause.STOPPED, 0, None),
        5: (Cause.KILLED, None, "SIGKILL"),
        6: (Cause.RESTARTED, 0, None),
        8: (Cause.STOPPED, 0, None),
    }
    alive = await ledger.run(7)
    assert alive is not None
    assert (alive.node, alive.log_start, alive.log_end, alive.last_lines) == (None, 2, None, ())
    assert alive.identity is not None
    assert alive.identity.boot_id == "01234567-89ab-4def-8123-456789abcdef"
    crashed = await ledger.run(3)
    assert crashed is not None
    assert crashed.raised is not None
    assert (crashed.raised.type, crashed.raised.message) == ("KeyError", "'price'")
    assert crashed.last_lines[-1] == "KeyError: 'price'"
    [group] = (await ledger.crashes(model.CrashQuery(kind="shop"))).items
    assert (group.count, group.fingerprint) == (1, crashed.fingerprint)


async def test_events_and_what_comes_next(ledger: Ledger) -> None:
    entries = await ledger.events_after(20, limit=100)
    assert [entry.event.event_id for entry in entries] == [*range(21, 29)]
    assert [entry.event.event_id for entry in entries if entry.deleted] == [26]
    await ledger.record(1, 1, State.STOPPING, Goal.DOWN, "asked to stop", 1)
    new = [entry.event for entry in await ledger.events_after(28, limit=9)]
    assert [(event.event_id, event.reason) for event in new] == [(29, "asked to stop")]
    made, _ = await create_bot(ledger, model.NewBot(kind="counter", params={}, name="old"))
    assert made.bot_id == 10, "the name of the deleted bot is free, its id is not"
    assert [found.bot_id for found in await ledger.bots_of_key(model.Idempotency(key="key-1", request="anything"))] == [
        2
    ]
