"""What the ledger does with events, on the connection that it is given."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterable
from typing import Any

from peewee import SqliteDatabase, fn

from supervisor.core import model
from supervisor.store import tables
from supervisor.store.tables import Bot, Event


def append(
    db: SqliteDatabase,
    *,
    at: int,
    bot_id: int,
    run_id: int | None,
    state: model.State,
    goal: model.Goal,
    reason: str,
) -> model.Event:
    """Write an event alone, with the next number."""
    row = {"at": at, "bot_id": bot_id, "run_id": run_id, "state": state, "goal": goal, "reason": reason}
    # SQLite takes the number after the largest, which is never deleted: see `pruning.delete`.
    event_id = tables.insert(db, Event, row)
    return model.Event(event_id=event_id, at=at, bot_id=bot_id, run_id=run_id, state=state, goal=goal, reason=reason)


def record(
    db: SqliteDatabase,
    *,
    at: int,
    bot_id: int,
    run_id: int | None,
    state: model.State,
    goal: model.Goal,
    reason: str,
    last_exit: model.LastExit | None = None,
) -> model.Event:
    """Write an event with the next number, and what it says into the row of its bot."""
    event = append(db, at=at, bot_id=bot_id, run_id=run_id, state=state, goal=goal, reason=reason)
    present: dict[str, Any] = {"state": state, "goal": goal, "reason": reason}
    if last_exit is not None:
        present["last_exit"] = dataclasses.asdict(last_exit)
    tables.update(db, Bot, bot_id, present)
    return event


def latest(db: SqliteDatabase) -> int:
    """The number of the latest event, 0 if there is none."""
    return db.execute(Event.select(fn.max(Event.event_id))).fetchone()[0] or 0


_LATEST = "(SELECT max(event_id) FROM event AS latest WHERE latest.bot_id = bot.bot_id)"
_ENTRIES = f"""
    SELECT event_id, at, event.bot_id, run_id, event.state, event.goal, event.reason, kind, name,
        forgotten_at IS NOT NULL AND event_id = {_LATEST}
    FROM event JOIN bot ON bot.bot_id = event.bot_id
"""


def after(db: SqliteDatabase, event_id: int, *, limit: int, bot_id: int | None) -> list[model.Entry]:
    """Events with larger numbers, in their order; those of one bot, if one is named."""
    of_bot = "" if bot_id is None else "AND event.bot_id = ?3"
    sql = f"{_ENTRIES} WHERE event_id > ?1 {of_bot} ORDER BY event_id LIMIT ?2"
    return _entries(db.execute_sql(sql, (event_id, limit, *([] if bot_id is None else [bot_id]))))


def numbered(db: SqliteDatabase, event_ids: Collection[int]) -> list[model.Entry]:
    """The events with these numbers, as far as they are still there, in their order."""
    sql = f"{_ENTRIES} WHERE event_id IN (SELECT value FROM json_each(?)) ORDER BY event_id"
    return _entries(db.execute_sql(sql, (json.dumps(list(event_ids)),)))


def latest_of_each(db: SqliteDatabase, bot_id: int | None) -> list[int]:
    """The numbers of the latest event of each bot that is not forgotten, or of the one that is named; sorted."""
    of_bot = "" if bot_id is None else "AND bot_id = ?"
    sql = f"SELECT {_LATEST} FROM bot WHERE forgotten_at IS NULL {of_bot}"
    found = db.execute_sql(sql, () if bot_id is None else (bot_id,))
    return sorted(event_id for (event_id,) in found if event_id is not None)


def _entries(rows: Iterable[tuple[Any, ...]]) -> list[model.Entry]:
    return [
        model.Entry(
            event=model.Event(
                event_id=event_id,
                at=at,
                bot_id=bot_id,
                run_id=run_id,
                state=model.State(state),
                goal=model.Goal(goal),
                reason=reason,
            ),
            kind=kind,
            name=name,
            deleted=bool(deleted),
        )
        for event_id, at, bot_id, run_id, state, goal, reason, kind, name, deleted in rows
    ]
