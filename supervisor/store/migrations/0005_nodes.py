"""The machine on which a run is; null on the supervisor's own."""

from peewee import SqliteDatabase, TextField
from playhouse.migrate import SqliteMigrator, migrate


def up(migrator: SqliteMigrator, db: SqliteDatabase) -> None:
    migrate(migrator.add_column("run", "node", TextField(null=True)))
