"""The tables, as Peewee sees them. They belong to no database: each query is told where to run, `.execute(db)`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from peewee import (
    SQL,
    FloatField,
    ForeignKeyField,
    IntegerField,
    Model,
    SqliteDatabase,
    TextField,
)
from playhouse.sqlite_ext import AutoIncrementField

from supervisor.core import model


class Text(TextField):
    """Any `str`, as `model.storable` makes it."""

    def db_value(self, value: str | None) -> str | None:
        return None if value is None else model.storable(value)


class Json(TextField):
    """A JSON value. Written in ASCII, so that every `str` in it, lone surrogates too, comes back as it was."""

    encode = json.JSONEncoder(default=dict, separators=(",", ":")).encode

    def db_value(self, value: Any) -> str | None:
        return None if value is None else self.encode(value)


class Bot(Model):
    """`forgotten_at`: since when nobody can see the bot; its runs stay, its name is free, its id and key are not.

    `overrides` is what the bot says itself; `restart`, `grace_s`, `limits` and `schedule` are what held at its latest
    start. `idempotency_digest` is that of the request which the key came with.
    """

    bot_id = AutoIncrementField()
    kind = Text()
    params = Json()
    name = Text(null=True)
    labels = Json()
    restart = Json()
    grace_s = FloatField()
    goal = Text()
    state = Text()
    reason = Text()
    restarts = IntegerField()
    created_at = IntegerField()
    last_exit = Json(null=True)
    forgotten_at = IntegerField(null=True)
    idempotency_key = Text(null=True, unique=True)
    limits = Json(null=True)
    schedule = Json(null=True)
    overrides = Json(null=True)
    idempotency_digest = Text(null=True)
    unchecked = IntegerField(null=True)

    class Meta:
        strict_tables = True


class Run(Model):
    """`pid` to `boot_id` are the process's identity, all set or none; `cause` is null while the run is open."""

    run_id = AutoIncrementField()
    bot = ForeignKeyField(Bot, index=False)
    kind = Text()
    params = Json()
    pid = IntegerField(null=True)
    start_ticks = IntegerField(null=True)
    inode = IntegerField(null=True)
    boot_id = Text(null=True)
    started_at = IntegerField()
    ready_at = IntegerField(null=True)
    ended_at = IntegerField(null=True)
    exit_code = IntegerField(null=True)
    signal = Text(null=True)
    cause = Text(null=True)
    detail = Text()
    cpu_seconds = FloatField(null=True)
    max_rss_bytes = IntegerField(null=True)
    descendants_killed = IntegerField()
    log_start = IntegerField()
    log_end = IntegerField(null=True)
    last_lines = Json()
    raised = Json(null=True)
    fingerprint = Text(null=True)
    node = Text(null=True)

    class Meta:
        strict_tables = True


class Event(Model):
    """The numbers are handed out by the ledger, in the order of its writes."""

    event_id = IntegerField(primary_key=True)
    at = IntegerField()
    bot = ForeignKeyField(Bot, index=False)
    run = ForeignKeyField(Run, index=False, null=True)
    state = Text()
    goal = Text()
    reason = Text()

    class Meta:
        strict_tables = True


class Start(Model):
    """One start that counts for a budget: `at` is in microseconds since the epoch, as the budget outlives us."""

    start_id = AutoIncrementField()
    key = Text()
    at = IntegerField()

    class Meta:
        strict_tables = True


# Every index ends, as all in SQLite do, in the row's id: with the columns before it fixed, its rows come in the order
# of the pages.
Bot.add_index(Bot.index(Bot.name, name="bot_by_name", unique=True, where=Bot.forgotten_at.is_null()))
Bot.add_index(Bot.index(Bot.state, name="bot_by_state", where=Bot.forgotten_at.is_null()))
Run.add_index(Run.index(Run.cause, name="run_by_cause"))
Run.add_index(Run.index(Run.bot, Run.cause, name="run_by_bot"))
Run.add_index(Run.index(Run.kind, Run.cause, name="run_by_kind"))
# The first and the last start of each block of 1024 runs, see `runs.between`.
Run.add_index(Run.index(SQL("run_id >> 10"), Run.started_at, name="run_by_time"))
Run.add_index(Run.index(Run.kind, Run.fingerprint, name="run_by_fingerprint", where=SQL("fingerprint IS NOT NULL")))
Event.add_index(Event.index(Event.run, Event.bot, name="event_by_run"))
Event.add_index(Event.index(Event.bot, name="event_by_bot"))
Start.add_index(Start.index(Start.key, Start.at, name="start_by_key"))


def insert(db: SqliteDatabase, table: type[Model], row: Mapping[str, Any]) -> int:
    """Insert values by column name; the id of the row. Peewee's own takes 100 µs to build, and 10 to run."""
    names = ", ".join(row)
    marks = ", ".join("?" * len(row))
    cursor = db.execute_sql(f"INSERT INTO {table._meta.table_name} ({names}) VALUES ({marks})", _bound(table, row))
    row_id: int = cursor.lastrowid
    return row_id


def update(db: SqliteDatabase, table: type[Model], row_id: int, changes: Mapping[str, Any], *, where: str = "") -> bool:
    """Set values by column name in the row with this id, if it also fulfils `where`; whether there was such a row."""
    settings = ", ".join(f"{name} = ?" for name in changes)
    name = table._meta.table_name
    sql = f"UPDATE {name} SET {settings} WHERE {name}_id = ? {where and f'AND {where}'}"
    cursor = db.execute_sql(sql, [*_bound(table, changes), row_id])
    return bool(cursor.rowcount)


def _bound(table: type[Model], row: Mapping[str, Any]) -> list[Any]:
    fields = table._meta.columns
    return [fields[name].db_value(value) for name, value in row.items()]
