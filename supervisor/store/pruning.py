"""Which runs the ledger need not keep, and their deletion with their events, on the connection that it is given.

What is to go is found by reading, which holds up no writer. `delete` looks again, at each run that it is given: it may
be the last of a bot that goes on, and is then needed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

from peewee import SqliteDatabase

from supervisor.core import model
from supervisor.store import runs

_CAUSES = json.dumps([None, *model.Cause])

_SETTLED = ", ".join(f"'{state}'" for state in (model.State.STOPPED, model.State.EXITED))


def _of_bot(function: str, bot: str) -> str:
    """A term for the first (`min`) or the last (`max`) run of a bot. By way of each cause, as the index of its runs
    has the cause before the id: so it is one step for each, however many runs there are."""
    each = f"(SELECT {function}(run_id) FROM run WHERE bot_id = {bot} AND cause IS json_each.value)"
    return f"(SELECT {function}({each}) FROM json_each('{_CAUSES}'))"


_MAY_GO = f"""
    SELECT run_id, run.bot_id FROM json_each(?) CROSS JOIN run ON run_id = json_each.value
    JOIN bot ON bot.bot_id = run.bot_id
    WHERE cause IS NOT NULL
      AND (forgotten_at IS NOT NULL OR state IN ({_SETTLED}) OR run_id < {_of_bot("max", "bot.bot_id")})
"""
_LET_GO = "UPDATE event SET run_id = NULL WHERE run_id IN (SELECT value FROM json_each(?))"
_DELETE = "DELETE FROM run WHERE run_id IN (SELECT value FROM json_each(?))"
# Up to the first that is not older than the first run that is left: by number, so that none behind it is looked at.
_DELETE_EVENTS = f"""
    DELETE FROM event WHERE run_id IS NULL AND bot_id = ?1 AND event_id < coalesce(
        (
            SELECT event_id FROM event WHERE run_id IS NULL AND bot_id = ?1
              AND at >= (SELECT started_at FROM run WHERE run_id = {_of_bot("min", "?1")})
            ORDER BY event_id LIMIT 1
        ),
        (SELECT max(event_id) FROM event WHERE run_id IS NULL AND bot_id = ?1)
    )
"""


def old(db: SqliteDatabase, ended_before: int, *, after: int, limit: int) -> tuple[list[int], int | None]:
    """Some runs that ended before a time, lowest ids first, of those with an id above `after`; and what to continue
    after, None when there are no more."""
    first, last = runs.between(db, since=None, until=ended_before, after=after)
    if first is None or last is None:
        return [], None
    sql = "SELECT run_id, ended_at FROM run WHERE run_id BETWEEN ? AND ? ORDER BY run_id LIMIT ?"
    found = db.execute_sql(sql, (max(first, after + 1), last, limit)).fetchall()
    ids = [run_id for run_id, ended_at in found if ended_at is not None and ended_at < ended_before]
    return ids, found[-1][0] if len(found) == limit else None


def crowded(db: SqliteDatabase, keep: int) -> list[int]:
    """The bots with more than so many runs."""
    sql = "SELECT bot_id FROM run GROUP BY bot_id HAVING count(*) > ?"
    return [bot_id for (bot_id,) in db.execute_sql(sql, (keep,))]


def surplus(db: SqliteDatabase, bot_id: int, keep: int, *, limit: int) -> list[int]:
    """Some of the ended runs of a bot that are not among its newest `keep`."""
    newest = "SELECT run_id FROM run WHERE bot_id = ? ORDER BY run_id DESC LIMIT 1 OFFSET ?"
    for (last,) in db.execute_sql(newest, (bot_id, keep)):
        sql = "SELECT run_id FROM run WHERE bot_id = ? AND cause IS NOT NULL AND run_id <= ? LIMIT ?"
        return [run_id for (run_id,) in db.execute_sql(sql, (bot_id, last, limit))]
    return []


def delete(db: SqliteDatabase, run_ids: Collection[int]) -> int:
    """Delete those of the runs that have ended and are not needed, and what happened to their bots before the first
    run that is left; how many runs that were.

    The latest event of a bot stays: it says what the bot is now, and the numbers go on from the latest of all.
    """
    found = db.execute_sql(_MAY_GO, (json.dumps(list(run_ids)),)).fetchall()
    ids = (json.dumps([run_id for run_id, _ in found]),)
    # Of the events without a run the latest stays, and an event of a run that stays is not among them.
    db.execute_sql(_LET_GO, ids)
    db.execute_sql(_DELETE, ids)
    for bot_id in {bot_id for _, bot_id in found}:
        db.execute_sql(_DELETE_EVENTS, (bot_id,))
    return len(found)


def forgotten(db: SqliteDatabase, bot_ids: Sequence[int]) -> list[int]:
    """Those of the bots that were made once and are forgotten."""
    sql = "SELECT bot_id FROM bot WHERE bot_id IN (SELECT value FROM json_each(?)) AND forgotten_at IS NOT NULL"
    return [bot_id for (bot_id,) in db.execute_sql(sql, (json.dumps(list(bot_ids)),))]
