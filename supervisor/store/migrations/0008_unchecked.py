"""Whether a bot's parameters were not checked, since its kind could not be imported; null where that is not known."""

from peewee import IntegerField, SqliteDatabase
from playhouse.migrate import SqliteMigrator, migrate


def up(migrator: SqliteMigrator, db: SqliteDatabase) -> None:
    migrate(migrator.add_column("bot", "unchecked", IntegerField(null=True)))
