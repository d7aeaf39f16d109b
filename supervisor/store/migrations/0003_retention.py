"""An index by which the events of a run are found, and those of a bot that name no run: so that they can be deleted."""

from peewee import SqliteDatabase
from playhouse.migrate import SqliteMigrator


def up(migrator: SqliteMigrator, db: SqliteDatabase) -> None:
    db.execute_sql('CREATE INDEX "event_by_run" ON "event" ("run_id", "bot_id")')
