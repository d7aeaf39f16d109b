"""What the ledger does with the starts that count for a budget, on the connection that it is given."""

from __future__ import annotations

from peewee import SqliteDatabase

from supervisor.core import errors, model
from supervisor.store import tables
from supervisor.store.tables import Start

_TIDIED = 100
"""The most old starts that are deleted with a new one: a window that was shortened must not hold up the others."""


def take(db: SqliteDatabase, budget: model.Budget) -> None:
    """Counts a start, now. Raises BudgetSpent, and counts none, if there were enough within the window before now.

    Starts of later times, from before the clock was set back, count as well.
    """
    now, key, per_us = model.now_us(), model.storable(budget.key), round(budget.per_s * 1e6)
    full = "SELECT at FROM start WHERE key = ? AND at > ? ORDER BY at DESC LIMIT 1 OFFSET ?"
    for (at,) in db.execute_sql(full, (key, now - per_us, budget.starts - 1)):
        reason = f"the start budget of {budget.key} is used up: {budget.starts} starts in {budget.per_s:.15g} s"
        raise errors.BudgetSpent(reason, until=at + per_us)
    tables.insert(db, Start, {"key": budget.key, "at": now})
    old = "SELECT start_id FROM start WHERE key = ? AND at <= ? LIMIT ?"
    db.execute_sql(f"DELETE FROM start WHERE start_id IN ({old})", (key, now - per_us, _TIDIED))
