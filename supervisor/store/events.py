"""What the ledger does with events, on the connection that it is given."""

from __future__ import annotations

import dataclasses
from typing import Any

from peewee import SqliteDatabase, fn

from supervisor import model
from supervisor.store import tables
from supervisor.store.tables import Bot, Event


def append(db: SqliteDatabase, event: model.Event) -> None:
    """Write the event alone."""
    row = {
        "event_id": event.event_id,
        "at": event.at,
        "bot_id": event.bot_id,
        "run_id": event.run_id,
        "state": event.state,
        "goal": event.goal,
        "reason": event.reason,
    }
    tables.insert(db, Event, row)


def insert(db: SqliteDatabase, event: model.Event, last_exit: model.LastExit | None) -> None:
    """Write the event, and what it says into the row of its bot."""
    append(db, event)
    present: dict[str, Any] = {"state": event.state, "goal": event.goal, "reason": event.reason}
    if last_exit is not None:
        present["last_exit"] = dataclasses.asdict(last_exit)
    tables.update(db, Bot, event.bot_id, present)


def latest(db: SqliteDatabase) -> int:
    """The number of the latest event, 0 if there is none."""
    return db.execute(Event.select(fn.max(Event.event_id))).fetchone()[0] or 0
