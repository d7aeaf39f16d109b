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


_AFTER = """
    SELECT event_id, at, event.bot_id, run_id, event.state, event.goal, event.reason, kind, name
    FROM event JOIN bot ON bot.bot_id = event.bot_id WHERE event_id > ? ORDER BY event_id LIMIT ?
"""


def after(db: SqliteDatabase, event_id: int, *, limit: int) -> list[tuple[model.Event, str, str | None]]:
    """Events with larger numbers, in their order, each with kind and name of its bot."""
    return [
        (
            model.Event(
                event_id=number,
                at=at,
                bot_id=bot_id,
                run_id=run_id,
                state=model.State(state),
                goal=model.Goal(goal),
                reason=reason,
            ),
            kind,
            name,
        )
        for number, at, bot_id, run_id, state, goal, reason, kind, name in db.execute_sql(_AFTER, (event_id, limit))
    ]
