"""What the ledger tells of runs that failed in the same way, on the connection that it is given."""

from __future__ import annotations

import json
from typing import Any

from peewee import SqliteDatabase

from supervisor.core import model

# The index of fingerprints holds the runs that failed, and no others, in the order of the groups, and with their ids
# all that is asked of each of them; two rows of each group are looked at.
_GROUPS = """
    WITH failures AS (
        SELECT count(*) AS number, min(run_id) AS earliest, max(run_id) AS latest
        FROM run WHERE fingerprint IS NOT NULL {of_kind} GROUP BY kind, fingerprint
    )
    SELECT run.kind, run.fingerprint, run.cause, run.detail, run.raised, number, first.ended_at, run.ended_at,
        run.run_id, run.bot_id
    FROM failures JOIN run ON run.run_id = latest JOIN run AS first ON first.run_id = earliest
    WHERE latest < ? AND run.ended_at >= ? ORDER BY latest DESC LIMIT ?
"""
_FIRST, _LAST = -(2**63), 2**63 - 1

# One step for each kind, however many runs of it failed.
_KINDS = """
    WITH RECURSIVE failed (kind) AS (
        SELECT min(kind) FROM run WHERE fingerprint IS NOT NULL UNION ALL
        SELECT (SELECT min(kind) FROM run WHERE fingerprint IS NOT NULL AND kind > failed.kind)
        FROM failed WHERE kind IS NOT NULL
    )
    SELECT kind FROM failed WHERE kind IS NOT NULL
"""


def page(db: SqliteDatabase, query: model.CrashQuery) -> model.Page[model.CrashGroup]:
    before = _LAST if query.before is None else query.before
    since = _FIRST if query.since is None else query.since
    of_kind = [] if query.kind is None else [model.storable(query.kind)]
    sql = _GROUPS.format(of_kind="AND kind = ?" if of_kind else "")
    found = [_value(row) for row in db.execute_sql(sql, (*of_kind, before, since, query.limit + 1))]
    items = found[: query.limit]
    return model.Page(items, items[-1].run_id if len(found) > query.limit else None)


def kinds(db: SqliteDatabase) -> list[str]:
    """The kinds of all runs that failed."""
    return [kind for (kind,) in db.execute_sql(_KINDS)]


def _value(row: tuple[Any, ...]) -> model.CrashGroup:
    kind, fingerprint, cause, detail, raised, count, first_at, last_at, run_id, bot_id = row
    return model.CrashGroup(
        kind=kind,
        fingerprint=fingerprint,
        cause=model.Cause(cause),
        detail=detail,
        raised=None if raised is None else model.Raised(**json.loads(raised)),
        count=count,
        first_at=first_at,
        last_at=last_at,
        run_id=run_id,
        bot_id=bot_id,
    )
