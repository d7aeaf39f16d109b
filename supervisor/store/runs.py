"""What the ledger does with runs, each in one statement or two, on the connection that it is given."""

from __future__ import annotations

import dataclasses
import functools
import json
import operator
from collections.abc import Iterable
from typing import Any

from peewee import SQL, Expression, SqliteDatabase

from supervisor.core import model, reasons, restart
from supervisor.store import crashes, tables
from supervisor.store.tables import Run

_OPEN = Run.cause.is_null()
_BY_CAUSE = [_OPEN, *(Run.cause == cause for cause in model.Cause)]


def insert(db: SqliteDatabase, bot_id: int, *, kind: str, params: model.Params, started_at: int) -> int:
    """Open a run; its id."""
    row = {
        "bot_id": bot_id,
        "kind": kind,
        "params": params,
        "started_at": started_at,
        "detail": "",
        "descendants_killed": 0,
        "log_start": 0,
        "last_lines": (),
    }
    return tables.insert(db, Run, row)


def identify(db: SqliteDatabase, run_id: int, identity: model.Identity, log_start: int) -> None:
    """Say which process a run is, and where its output begins in the bot's log."""
    tables.update(db, Run, run_id, {**dataclasses.asdict(identity), "log_start": log_start})


def mark_ready(db: SqliteDatabase, run_id: int, ready_at: int) -> None:
    tables.update(db, Run, run_id, {"ready_at": ready_at})


def close(
    db: SqliteDatabase,
    run_id: int,
    *,
    exit: model.Exit,
    cause: model.Cause,
    detail: str,
) -> None:
    """Say how a run ended, unless that is known already."""
    row = {
        "ended_at": exit.ended_at,
        "exit_code": exit.exit_code,
        "signal": None if exit.signal is None else reasons.signal_name(exit.signal),
        "cause": cause,
        "detail": detail,
        "cpu_seconds": exit.cpu_seconds,
        "max_rss_bytes": exit.max_rss_bytes,
        "log_end": exit.log_end,
        "last_lines": exit.last_lines,
        "raised": exit.raised and dataclasses.asdict(exit.raised),
        "fingerprint": restart.fingerprint(cause, exit),
    }
    if tables.update(db, Run, run_id, row, where="cause IS NULL"):
        sweep(db, run_id, exit.descendants_killed)


def sweep(db: SqliteDatabase, run_id: int, killed: int) -> None:
    """Raise the number of descendants that had to be killed."""
    if killed:
        sql = "UPDATE run SET descendants_killed = max(descendants_killed, ?) WHERE run_id = ?"
        db.execute_sql(sql, (killed, run_id))


def log_ends(db: SqliteDatabase, bot_id: int, after: int) -> list[int]:
    """Where in the bot's log runs ended, behind an offset."""
    found = db.execute_sql("SELECT log_end FROM run WHERE bot_id = ? AND log_end > ?", (bot_id, after))
    return [log_end for (log_end,) in found]


def get(db: SqliteDatabase, run_id: int) -> model.Run | None:
    return next(iter(_values(db, Run.run_id == run_id)), None)


def still_open(db: SqliteDatabase) -> list[model.Run]:
    return _values(db, _OPEN)


def latest(db: SqliteDatabase, bot_id: int) -> model.Run | None:
    ids = _merged((Run.bot == bot_id) & cause for cause in _BY_CAUSE)
    return next(iter(_values(db, Run.run_id.in_(ids.order_by(SQL("1").desc()).limit(1)))), None)


# Of a run's cause and bot there is an index, and the last in it is the latest run.
_ENDING = """
    SELECT bot.kind, name, labels, run_id, detail, raised, fingerprint FROM bot LEFT JOIN run ON run_id =
        (SELECT max(run_id) FROM run WHERE run.bot_id = bot.bot_id AND cause = ?)
    WHERE bot.bot_id = ?
"""


def latest_ending(db: SqliteDatabase, bot_id: int, cause: model.Cause | None) -> model.Ending:
    [row] = db.execute_sql(_ENDING, (cause, bot_id))
    kind, name, labels, run_id, detail, raised, fingerprint = row
    return model.Ending(
        kind=kind,
        name=name,
        labels=json.loads(labels),
        run_id=run_id,
        detail=detail,
        raised=None if raised is None else model.Raised(**json.loads(raised)),
        fingerprint=fingerprint,
    )


def page(db: SqliteDatabase, query: model.RunQuery) -> model.Page[model.Run]:
    wanted = Run.run_id > query.after
    if query.bot_id is not None:
        wanted &= Run.bot == query.bot_id
    elif query.kind is not None:
        wanted &= Run.kind == query.kind
    if query.since is not None:
        wanted &= Run.started_at >= query.since
    if query.until is not None:
        wanted &= Run.started_at < query.until
    if query.since is not None or query.until is not None:
        first, last = between(db, since=query.since, until=query.until, after=query.after)
        wanted &= Run.run_id.between(first, last)
    if query.fingerprint is None:
        arms = [Run.cause == cause for cause in query.causes] or _BY_CAUSE
    else:
        wanted &= Run.fingerprint == query.fingerprint
        if query.causes:
            wanted &= Run.cause.in_(list(query.causes))
        arms = [Run.kind == kind for kind in crashes.kinds(db)]
        if not arms:
            return model.Page([], None)
    ids = _merged(wanted & arm for arm in arms)
    found = _values(db, Run.run_id.in_(ids.order_by(SQL("1")).limit(query.limit + 1)))
    if query.kind is not None and found and found[0].kind != query.kind:
        found = []  # The runs of a bot, which alone were asked for, are of one kind: all of another.
    items = found[: query.limit]
    return model.Page(items, items[-1].run_id if len(found) > query.limit else None)


def _merged(arms: Iterable[Expression]) -> Any:
    """A query for the ids of the runs that fit one of `arms`, to be ordered by `SQL("1")` and limited.

    SQLite merges such arms as it walks the index of each, and stops at the limit. What it finds without them, by the
    bot alone, it would have to collect to the last and sort, since its index has the cause before the id. The arms
    must exclude each other.
    """
    return functools.reduce(operator.add, (Run.select(Run.run_id).where(arm) for arm in arms))


# Starts follow each other in time but where somebody set the clock back, so `since` and `until` cannot be found by
# halving, and walking `started_at` for the first and the last run_id takes 0.1 s for a million runs. The index of
# starts by blocks of 1024 runs has the earliest and the latest of each one step away: 3 ms.
_BLOCKS = """
    WITH RECURSIVE block (n) AS (
        SELECT ? >> 10 UNION ALL SELECT n + 1 FROM block WHERE n < (SELECT max(run_id) >> 10 FROM run)
    )
    SELECT min(n) << 10, (max(n) << 10) + 1023 FROM block
    WHERE (SELECT max(started_at) FROM run WHERE run_id >> 10 = n) >= ?
      AND (SELECT min(started_at) FROM run WHERE run_id >> 10 = n) < ?
"""
_FIRST, _LAST = -(2**63), 2**63 - 1


def between(db: SqliteDatabase, *, since: int | None, until: int | None, after: int) -> tuple[int | None, int | None]:
    """The ids between which all runs are that started in a time and, but for up to 1023 of them, have an id above
    `after`; None and None if there is no such run."""
    since = _FIRST if since is None else since
    until = _LAST if until is None else until
    first, last = db.execute_sql(_BLOCKS, (after, since, until)).fetchone()
    return first, last


def _values(db: SqliteDatabase, condition: Any) -> list[model.Run]:
    return [_value(row) for row in db.execute(Run.select().where(condition).order_by(Run.run_id))]


def _value(row: tuple[Any, ...]) -> model.Run:
    """The value of a row with all the columns of the table."""
    run_id, bot_id, kind, params, pid, start_ticks, inode, boot_id, started_at, ready_at, ended_at, *rest = row
    (
        exit_code,
        signal,
        cause,
        detail,
        cpu_seconds,
        max_rss_bytes,
        killed,
        log_start,
        log_end,
        last_lines,
        raised,
        fingerprint,
        node,
    ) = rest
    identity = None
    if pid is not None:
        identity = model.Identity(pid=pid, start_ticks=start_ticks, inode=inode, boot_id=boot_id)
    return model.Run(
        run_id=run_id,
        bot_id=bot_id,
        kind=kind,
        params=json.loads(params),
        identity=identity,
        started_at=started_at,
        ready_at=ready_at,
        ended_at=ended_at,
        exit_code=exit_code,
        signal=signal,
        cause=None if cause is None else model.Cause(cause),
        detail=detail,
        cpu_seconds=cpu_seconds,
        max_rss_bytes=max_rss_bytes,
        descendants_killed=killed,
        log_start=log_start,
        log_end=log_end,
        last_lines=tuple(json.loads(last_lines)),
        raised=None if raised is None else model.Raised(**json.loads(raised)),
        fingerprint=fingerprint,
        node=node,
    )
