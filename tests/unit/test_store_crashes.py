"""The ledger's account of runs that failed: fingerprints, groups, pages, and what finding them costs."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import pytest

from supervisor.core import model
from supervisor.core.model import Cause
from supervisor.store import Ledger, crashes, file, runs
from tests.ledgers import create_bot_and_run

pytestmark = pytest.mark.anyio

RAISED = model.Raised(type="ValueError", message="no such town: \ud800", fingerprint="0b1d")


async def ended(
    ledger: Ledger,
    cause: Cause,
    code: int | None = None,
    *,
    signal: int | None = None,
    raised: model.Raised | None = None,
    kind: str = "counter",
    at: int = 1,
) -> model.Run:
    """A run of a bot of its own that ended like this."""
    new = model.NewBot(kind=kind, params={})
    _, run_id, _ = await create_bot_and_run(ledger, new, started_at=at)
    assert run_id is not None
    exit_ = model.Exit(exit_code=code, signal=signal, ended_at=at, cpu_seconds=None, max_rss_bytes=None, raised=raised)
    await ledger.close_run(run_id, exit=exit_, cause=cause, detail=f"it was {cause}")
    run = await ledger.run(run_id)
    assert run is not None
    return run


@pytest.mark.parametrize(
    ("cause", "code", "signal", "fingerprint"),
    [
        (Cause.CRASHED, 3, None, "crashed:3"),
        (Cause.KILLED, None, 11, "killed:SIGSEGV"),
        (Cause.OOM, None, 9, "oom:SIGKILL"),
        (Cause.HEARTBEAT, 0, None, "heartbeat:0"),
        (Cause.START_TIMEOUT, None, 15, "start-timeout:SIGTERM"),
        (Cause.SPAWN_FAILED, 126, None, "spawn-failed:126"),
        (Cause.EXITED, 0, None, None),
        (Cause.STOPPED, 1, None, None),
        (Cause.RESTARTED, None, 15, None),
        (Cause.STOP_TIMEOUT, None, 9, None),
        (Cause.LOST, None, None, None),
    ],
)
async def test_the_fingerprint_of_an_end(
    ledger: Ledger, cause: Cause, code: int | None, signal: int | None, fingerprint: str | None
) -> None:
    run = await ended(ledger, cause, code, signal=signal)
    assert (run.fingerprint, run.raised) == (fingerprint, None)


@pytest.mark.parametrize("cause", [Cause.CRASHED, Cause.STOPPED, Cause.HEARTBEAT])
async def test_the_fingerprint_of_an_exception(ledger: Ledger, cause: Cause) -> None:
    run = await ended(ledger, cause, 1, raised=RAISED)
    assert (run.fingerprint, run.raised) == ("0b1d", RAISED)


async def test_groups(ledger: Ledger) -> None:
    await ended(ledger, Cause.CRASHED, 1, raised=RAISED, at=10)
    await ended(ledger, Cause.CRASHED, 2, at=20)
    await ended(ledger, Cause.EXITED, 0, at=25)
    await ended(ledger, Cause.CRASHED, 2, kind="trader", at=30)
    last = await ended(ledger, Cause.CRASHED, 1, raised=RAISED, at=40)
    page = await ledger.crashes(model.CrashQuery())
    assert [(group.kind, group.fingerprint, group.count, group.run_id) for group in page.items] == [
        ("counter", "0b1d", 2, 5),
        ("trader", "crashed:2", 1, 4),
        ("counter", "crashed:2", 1, 2),
    ]
    assert page.next_after is None
    assert page.items[0] == model.CrashGroup(
        kind="counter",
        fingerprint="0b1d",
        cause=Cause.CRASHED,
        detail="it was crashed",
        raised=RAISED,
        count=2,
        first_at=10,
        last_at=40,
        run_id=last.run_id,
        bot_id=last.bot_id,
    )

    async def found(**query: object) -> list[int]:
        return [group.run_id for group in (await ledger.crashes(model.CrashQuery(**query))).items]  # type: ignore[arg-type]

    assert await found(kind="trader") == [4]
    assert await found(kind="\ud800") == []
    assert await found(since=30) == [5, 4]
    assert await found(since=41) == []
    assert await found(kind="counter", before=5) == [2]


async def test_pages_of_groups(ledger: Ledger) -> None:
    for code in (1, 2, 3, 2):
        await ended(ledger, Cause.CRASHED, code)
    page = await ledger.crashes(model.CrashQuery(limit=2))
    assert ([group.run_id for group in page.items], page.next_after) == ([4, 3], 3)
    page = await ledger.crashes(model.CrashQuery(limit=2, before=page.next_after))
    assert ([group.run_id for group in page.items], page.next_after) == ([1], None)


async def test_runs_with_a_fingerprint(ledger: Ledger) -> None:
    assert (await ledger.runs(model.RunQuery(fingerprint="crashed:1"))).items == []
    for code, kind in ((1, "trader"), (1, "counter"), (2, "counter"), (1, "trader")):
        await ended(ledger, Cause.CRASHED, code, kind=kind)
    await ended(ledger, Cause.HEARTBEAT, 1)

    async def found(**query: object) -> list[int]:
        query = {"fingerprint": "crashed:1", **query}
        return [run.run_id for run in (await ledger.runs(model.RunQuery(**query))).items]  # type: ignore[arg-type]

    assert await found() == [1, 2, 4]
    assert await found(kind="trader") == [1, 4]
    assert await found(bot_id=2) == [2]
    assert await found(causes=frozenset({Cause.HEARTBEAT})) == []
    assert await found(after=1, limit=1) == [2]
    assert await found(fingerprint="crashed:9") == []


@pytest.mark.parametrize(
    "query",
    [
        model.CrashQuery(),
        model.CrashQuery(kind="counter"),
        model.CrashQuery(since=1, before=5),
        model.RunQuery(fingerprint="crashed:1"),
        model.RunQuery(fingerprint="crashed:1", kind="counter", causes=frozenset({Cause.CRASHED, Cause.OOM})),
        model.RunQuery(fingerprint="crashed:1", bot_id=1),
    ],
)
def test_runs_that_did_not_fail_are_not_looked_at(tmp_path: Path, query: model.CrashQuery | model.RunQuery) -> None:
    """As the plans of all its statements say: each of their steps has an id or the index of failures."""

    async def fill() -> None:
        ledger = await Ledger.open(tmp_path / "ledger.db")
        await ended(ledger, Cause.CRASHED, 1)
        await ledger.close()

    asyncio.run(fill())
    db = file.reading(tmp_path / "ledger.db", busy_timeout_s=1)
    statements: list[str] = []
    db.connection().set_trace_callback(statements.append)
    page = runs.page(db, query) if isinstance(query, model.RunQuery) else crashes.page(db, query)
    db.close()
    assert len(page.items) == 1
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db")) as plain:
        plans = [row[3] for statement in statements for row in plain.execute(f"EXPLAIN QUERY PLAN {statement}")]
    of_runs = [
        step for step in plans if step.startswith(("SCAN run", "SEARCH run", "SEARCH t1", "SCAN t1", "SEARCH first"))
    ]
    assert of_runs
    for step in of_runs:
        assert "run_by_fingerprint" in step or step.endswith("USING INTEGER PRIMARY KEY (rowid=?)"), plans
