"""The request that an idempotency key came with, as a digest; null where that is not known."""

from peewee import SqliteDatabase, TextField
from playhouse.migrate import SqliteMigrator, migrate


def up(migrator: SqliteMigrator, db: SqliteDatabase) -> None:
    migrate(migrator.add_column("bot", "idempotency_digest", TextField(null=True)))
