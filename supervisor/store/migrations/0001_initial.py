"""Bots, runs and events."""

from peewee import SQL, FloatField, ForeignKeyField, IntegerField, Model, SqliteDatabase, TextField
from playhouse.migrate import SqliteMigrator
from playhouse.sqlite_ext import AutoIncrementField


class Bot(Model):
    bot_id = AutoIncrementField()
    kind = TextField()
    params = TextField()
    name = TextField(null=True)
    labels = TextField()
    restart = TextField()
    grace_s = FloatField()
    goal = TextField()
    state = TextField()
    reason = TextField()
    restarts = IntegerField()
    created_at = IntegerField()
    last_exit = TextField(null=True)
    forgotten_at = IntegerField(null=True)
    idempotency_key = TextField(null=True, unique=True)

    class Meta:
        strict_tables = True


class Run(Model):
    run_id = AutoIncrementField()
    bot = ForeignKeyField(Bot, index=False)
    kind = TextField()
    params = TextField()
    pid = IntegerField(null=True)
    start_ticks = IntegerField(null=True)
    inode = IntegerField(null=True)
    boot_id = TextField(null=True)
    started_at = IntegerField()
    ready_at = IntegerField(null=True)
    ended_at = IntegerField(null=True)
    exit_code = IntegerField(null=True)
    signal = TextField(null=True)
    cause = TextField(null=True)
    detail = TextField()
    cpu_seconds = FloatField(null=True)
    max_rss_bytes = IntegerField(null=True)
    descendants_killed = IntegerField()
    log_start = IntegerField()
    log_end = IntegerField(null=True)
    last_lines = TextField()

    class Meta:
        strict_tables = True


class Event(Model):
    event_id = IntegerField(primary_key=True)
    at = IntegerField()
    bot = ForeignKeyField(Bot, index=False)
    run = ForeignKeyField(Run, index=False, null=True)
    state = TextField()
    goal = TextField()
    reason = TextField()

    class Meta:
        strict_tables = True


Bot.add_index(Bot.index(Bot.name, name="bot_by_name", unique=True, where=Bot.forgotten_at.is_null()))
Bot.add_index(Bot.index(Bot.state, name="bot_by_state", where=Bot.forgotten_at.is_null()))
Run.add_index(Run.index(Run.cause, name="run_by_cause"))
Run.add_index(Run.index(Run.bot, Run.cause, name="run_by_bot"))
Run.add_index(Run.index(Run.kind, Run.cause, name="run_by_kind"))
Run.add_index(Run.index(SQL("run_id >> 10"), Run.started_at, name="run_by_time"))


def up(migrator: SqliteMigrator, db: SqliteDatabase) -> None:
    models = [Bot, Run, Event]
    with db.bind_ctx(models):
        db.create_tables(models)
