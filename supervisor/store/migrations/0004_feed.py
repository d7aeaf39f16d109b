"""An index by which the events of a bot are found, and the latest of them."""

from peewee import SqliteDatabase
from playhouse.migrate import SqliteMigrator


def up(migrator: SqliteMigrator, db: SqliteDatabase) -> None:
    db.execute_sql('CREATE INDEX "event_by_bot" ON "event" ("bot_id")')
