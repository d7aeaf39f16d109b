"""What bots may use and when they run, how runs failed, and the starts that count for a budget."""

from peewee import IntegerField, Model, SqliteDatabase, TextField
from playhouse.migrate import SqliteMigrator, migrate
from playhouse.sqlite_ext import AutoIncrementField


class Start(Model):
    start_id = AutoIncrementField()
    key = TextField()
    at = IntegerField()

    class Meta:
        strict_tables = True


Start.add_index(Start.index(Start.key, Start.at, name="start_by_key"))


def up(migrator: SqliteMigrator, db: SqliteDatabase) -> None:
    migrate(
        migrator.add_column("bot", "limits", TextField(null=True)),
        migrator.add_column("bot", "schedule", TextField(null=True)),
        migrator.add_column("run", "raised", TextField(null=True)),
        migrator.add_column("run", "fingerprint", TextField(null=True)),
    )
    index = 'CREATE INDEX "run_by_fingerprint" ON "run" ("kind", "fingerprint") WHERE fingerprint IS NOT NULL'
    db.execute_sql(index)
    with db.bind_ctx([Start]):
        db.create_tables([Start])
