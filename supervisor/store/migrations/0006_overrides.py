"""What each bot says itself, and does not leave to its kind; null where that is not known yet."""

from peewee import SqliteDatabase, TextField
from playhouse.migrate import SqliteMigrator, migrate


def up(migrator: SqliteMigrator, db: SqliteDatabase) -> None:
    migrate(migrator.add_column("bot", "overrides", TextField(null=True)))
