"""A ledger of version 0.1.0 is migrated, and everything that was in it is read as it was."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from supervisor.core import model
from supervisor.core.model import Cause, Goal, State
from supervisor.store import Ledger, inspection, migrations
from tests.ledgers import make_earlier

pytestmark = pytest.mark.anyio

ADDED = ["0005_nodes", "0006_overrides", "0007_idempotency"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_earlier(tmp_path / "ledger.sqlite3")


@pytest.fixture
async def ledger(path: Path) -> AsyncIterator[Ledger]:
    ledger = await Ledger.open(path)
    yield ledger
    await ledger.close()


def test_check_names_what_is_to_be_migrated(path: Path) -> None:
    found = inspection.inspect(path)
    assert found is not None
    newest = max(step.stem for step in migrations.DIRECTORY.glob("[0-9]*.py"))
    assert (found.schema, found.pending[:3], found.pending[-1]) == ("0004_feed", ADDED, newest)
    assert (found.runs, sorted(found.open_runs), sorted(found.forgotten)) == (8, [1, 5, 7, 8], [6])


async def test_its_bots(ledger: Ledger) -> None:
    bots = {bot.bot_id: bot for bot in await ledger.bots(model.BotQuery(states=frozenset(State), limit=100))}
    assert {bot_id: (bot.kind, bot.state, bot.goal) for bot_id, bot in bots.items()} == {
        1: ("counter", State.RUNNING, Goal.UP),
        2: ("counter", State.STOPPED, Goal.DOWN),
        3: ("crashes", State.FAILED, Goal.UP),
        4: ("sleeper", State.BACKOFF, Goal.UP),
        5: ("sleeper", State.RUNNING, Goal.UP),
        7: ("limited", State.RUNNING, Goal.UP),
        8: ("sleeper", State.RUNNING, Goal.UP),
    }
    assert (bots[1].name, bots[1].labels, bots[1].params) == ("web", {"customer": "7"}, {"start_number": 5})
    assert bots[4].schedule == model.Schedule(cron="0 4 * * *", timezone="Europe/Berlin")
    assert (bots[5].restart.policy, bots[5].grace_s, bots[5].limits.nice) == (model.Policy.NEVER, 3.0, 3)
    exit_of_killed = bots[8].last_exit
    assert exit_of_killed is not None
    assert (exit_of_killed.signal, exit_of_killed.cause, bots[8].restarts) == ("SIGKILL", Cause.KILLED, 1)
    assert [bot.bot_id for bot in await ledger.bots_without_overrides()] == sorted(bots)


async def test_its_runs_and_events(ledger: Ledger) -> None:
    open_runs = {run.bot_id: run for run in await ledger.open_runs()}
    assert sorted(open_runs) == [1, 5, 7, 8]
    assert open_runs[1].identity == model.Identity(
        pid=28445, start_ticks=772291, inode=190653, boot_id="00000000-0000-4000-8000-000000000010"
    )
    crashed = await ledger.run(3)
    assert crashed is not None
    assert crashed.raised is not None
    assert (crashed.cause, crashed.exit_code, crashed.raised.message) == (Cause.CRASHED, 1, "no such price")
    assert (crashed.last_lines[-1], crashed.log_end, crashed.node) == ("ValueError: no such price", 620, None)
    assert {run.run_id: run.cause for run in (await ledger.runs(model.RunQuery())).items if run.cause} == {
        2: Cause.STOPPED,
        3: Cause.CRASHED,
        5: Cause.STOPPED,
        7: Cause.KILLED,
    }
    groups = (await ledger.crashes(model.CrashQuery())).items
    assert {group.kind: group.count for group in groups} == {"crashes": 1, "sleeper": 1}
    assert await ledger.latest_event() == 25
    assert [entry.event.event_id for entry in await ledger.events_after(0, limit=9, bot_id=2)] == [3, 4, 5, 6]


async def test_what_is_written_goes_on_behind_it(ledger: Ledger) -> None:
    new = model.NewBot(kind="limited", params={}, name=None, labels={}, restart=model.RestartPolicy(), grace_s=1.0)
    [(bot, run_id)], created = await ledger.create_bots(
        new, started_at=1796104759000000, budget=model.Budget(key="900", starts=1, per_s=86_400)
    )
    assert (bot.bot_id, run_id, created) == (9, None, True), "the start that 0.1.0 has counted is spent"
    await ledger.record(2, None, State.STOPPED, Goal.DOWN, "so", 1796104759000001)
    assert [entry.event.event_id > 25 for entry in await ledger.events_after(25, limit=9, bot_id=2)] == [True]


async def test_a_key_of_then_gives_its_bot(ledger: Ledger) -> None:
    """Whatever it was made with, which nobody has kept."""
    again = model.Idempotency(key="once", digest="of another body")
    assert [bot.bot_id for bot in await ledger.bots_of_key(again)] == [1]


async def test_no_table_differs_from_that_of_a_new_ledger(path: Path, tmp_path: Path) -> None:
    async def schema(path: Path) -> set[str]:
        await (await Ledger.open(path)).close()
        with contextlib.closing(sqlite3.connect(path)) as db:
            return {sql for (sql,) in db.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL")}

    assert await schema(path) == await schema(tmp_path / "new.sqlite3")
