"""The ledger's file: how it is made, what is refused and left alone, migrations, and which indexes pages walk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from peewee import OperationalError

from supervisor.core import errors, model
from supervisor.core.model import Cause, State
from supervisor.store import Ledger, bots, crashes, file, migrations, runs
from supervisor.store.tables import Bot, Event, Run, Start
from tests.ledgers import create_bot, create_bot_and_run

NEW = model.NewBot(kind="counter", params={"start_number": 12})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed ledger with two hundred bots."""
    path = tmp_path / "data" / "ledger.db"
    path.parent.mkdir()
    _fill(path, 200)
    return path


def _fill(path: Path, number: int) -> None:
    async def fill() -> None:
        ledger = await Ledger.open(path)
        await asyncio.gather(*(create_bot_and_run(ledger, NEW, started_at=1) for _ in range(number)))
        await ledger.close()

    asyncio.run(fill())


def _number_of_runs(path: Path) -> int:
    async def count() -> int:
        ledger = await Ledger.open(path)
        number = len(await ledger.open_runs())
        await ledger.close()
        return number

    return asyncio.run(count())


def _execute(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


def _refusal(path: Path) -> str:
    """The one line with which the ledger is refused; no file in its directory changes by that."""

    def files() -> dict[str, tuple[bytes, int]]:
        found = {entry.name: entry for entry in path.parent.iterdir() if entry.is_file()}
        # SQLite keeps locks in the -shm, which holds nothing that must last.
        return {name: (entry.read_bytes(), entry.stat().st_mode) for name, entry in found.items() if "-shm" not in name}

    before = files()
    with pytest.raises(errors.LedgerRefused) as refused:
        asyncio.run(Ledger.open(path))
    assert files() == before
    assert str(path) in refused.value.detail
    assert "\n" not in refused.value.detail
    return refused.value.detail


@pytest.fixture(params=[0o000, 0o377], ids=["umask 000", "umask 377"])
def umask(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    """A mask that takes nothing away, and one that takes too much; but not from the test's own directory."""
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_only_the_owner_can_open_its_files(tmp_path: Path) -> None:
    async def modes() -> dict[str, int]:
        ledger = await Ledger.open(tmp_path / "ledger.db")
        await create_bot(ledger, NEW)
        found = {name: os.stat(tmp_path / name).st_mode & 0o7777 for name in os.listdir(tmp_path)}
        await ledger.close()
        return found

    assert asyncio.run(modes()) == {"ledger.db": 0o600, "ledger.db-wal": 0o600, "ledger.db-shm": 0o600}


def test_a_crash_while_it_is_made_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    for rest in ("", "-journal", "-wal", "-shm"):
        path.with_name("ledger.db.new" + rest).write_bytes(b"half of it")
    assert _number_of_runs(path) == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["ledger.db"]


def test_a_ledger_that_was_not_closed_is_complete(path: Path, tmp_path: Path) -> None:
    async def copy() -> None:
        ledger = await Ledger.open(path)
        await create_bot_and_run(ledger, NEW, started_at=1)
        shutil.copytree(path.parent, tmp_path / "copy", ignore=lambda *_: ["ledger.db-shm"])
        await ledger.close()

    asyncio.run(copy())
    assert (tmp_path / "copy" / "ledger.db-wal").stat().st_size > 0
    assert _number_of_runs(tmp_path / "copy" / "ledger.db") == 201


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "no database": lambda _: b"a letter to my aunt\n" * 1000,
    "header gone": lambda data: bytes(100) + data[100:],
    "cut off": lambda data: data[: len(data) // 2],
    "cut off in a page": lambda data: data[: len(data) // 2 + 100],
    "pages overwritten": lambda data: data[:8192] + b"\xff" * 8192 + data[16384:],
    "last page overwritten": lambda data: data[:-4096] + os.urandom(4096),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_ledger_is_refused(path: Path, damage: Callable[[bytes], bytes]) -> None:
    path.write_bytes(damage(path.read_bytes()))
    assert re.search("it is damaged .*; restore it from a backup, or move it away", _refusal(path))


def test_an_empty_file_is_refused(path: Path) -> None:
    path.write_bytes(b"")
    assert "it is empty; restore it" in _refusal(path)


def test_a_directory_in_its_place_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.mkdir()
    assert "it is not a file" in _refusal(path)


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    _execute(path, "CREATE TABLE bot (id INTEGER)")
    assert "another program's database" in _refusal(path)


def test_a_log_without_its_ledger_is_refused(path: Path) -> None:
    path.with_name("ledger.db-wal").write_bytes(b"what was written last")
    path.unlink()
    assert "it is missing, but ledger.db-wal is there" in _refusal(path)


def test_a_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.LedgerRefused, match=r"No such file or directory: .*/nowhere"):
        asyncio.run(Ledger.open(tmp_path / "nowhere" / "ledger.db"))


def test_a_newer_ledger_is_refused(path: Path) -> None:
    _execute(path, "INSERT INTO schema_migration (name, applied) VALUES ('0009_later', '2030-01-01')")
    assert "a newer version wrote it (0009_later is unknown here)" in _refusal(path)


def test_a_newer_ledger_that_was_not_closed_is_left_alone_with_its_log(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("INSERT INTO schema_migration (name, applied) VALUES ('0009_later', '2030-01-01')")
        shutil.copytree(path.parent, copy, ignore=lambda *_: ["ledger.db-shm"])
    assert (copy / "ledger.db-wal").stat().st_size > 0
    assert "0009_later" in _refusal(copy / "ledger.db")
    assert (copy / "ledger.db-wal").stat().st_size > 0


@pytest.mark.parametrize(("place", "mode"), [(".", 0o500), ("ledger.db", 0o400)])
def test_what_is_marked_as_read_only_is_refused(path: Path, place: str, mode: int) -> None:
    """Also when the program runs as root, who may write to it."""
    marked = path.parent / place
    before = marked.stat().st_mode
    marked.chmod(mode)
    assert f"{marked} is read-only; make it writable" in _refusal(path)
    marked.chmod(before)


def test_a_new_ledger_in_a_read_only_directory_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "is read-only; make it writable" in _refusal(tmp_path / "ledger.db")
    tmp_path.chmod(0o700)


def test_a_read_only_file_system_is_refused(path: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount")
    try:
        shutil.copy(path, disk)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        assert "is read-only; make it writable" in _refusal(disk / "ledger.db")
        assert "is read-only; make it writable" in _refusal(disk / "another.db")
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the migrations, to which a test adds its own."""
    directory = tmp_path / "steps"
    directory.mkdir()
    for step in migrations.DIRECTORY.glob("[0-9]*.py"):
        shutil.copy(step, directory)
    monkeypatch.setattr(migrations, "DIRECTORY", directory)
    return directory


def test_an_older_ledger_is_migrated(path: Path, steps: Path) -> None:
    (steps / "0900_colour.py").write_text(
        "def up(migrator, db):\n    db.execute_sql(\"ALTER TABLE bot ADD COLUMN colour TEXT DEFAULT 'red'\")\n"
    )
    assert _number_of_runs(path) == 200
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT DISTINCT colour FROM bot").fetchall() == [("red",)]
        assert db.execute("SELECT name FROM schema_migration ORDER BY name").fetchall()[-1] == ("0900_colour",)


def test_a_ledger_from_before_kinds_had_limits(tmp_path: Path, steps: Path) -> None:
    """With bots and runs in it: they are all there, and have what nobody had said of them."""
    path = tmp_path / "ledger.db"
    later = [step for step in steps.iterdir() if step.name > "0002"]
    for step in later:
        step.rename(step.with_suffix(".later"))
    file.prepare(path)
    _execute(
        path,
        """
        INSERT INTO bot (kind, params, name, labels, restart, grace_s, goal, state, reason, restarts, created_at)
        VALUES ('counter', '{"start_number":12}', 'web', '{}', '{"policy":"never"}', 10, 'up', 'failed', 'so', 2, 1)
        """,
        """
        INSERT INTO run (bot_id, kind, params, started_at, ended_at, exit_code, cause, detail, descendants_killed,
            log_start, last_lines)
        VALUES (1, 'counter', '{"start_number":12}', 1, 2, 3, 'crashed', 'it crashed', 0, 0, '["12"]')
        """,
        "INSERT INTO event (event_id, at, bot_id, run_id, state, goal, reason) VALUES (7, 2, 1, 1, 'failed', 'up', '')",
    )
    for step in later:
        step.with_suffix(".later").rename(step)

    async def read() -> None:
        ledger = await Ledger.open(path)
        bot, run = await ledger.bot(1), await ledger.run(1)
        assert bot is not None
        assert (bot.name, bot.params, bot.restarts, bot.state) == ("web", {"start_number": 12}, 2, State.FAILED)
        assert (bot.limits, bot.schedule) == (model.Limits(), None)
        assert run is not None
        assert (run.cause, run.exit_code, run.last_lines) == (Cause.CRASHED, 3, ("12",))
        assert (run.raised, run.fingerprint) == (None, None)
        assert (await ledger.crashes(model.CrashQuery())).items == []
        await ledger.record(1, 1, State.STARTING, model.Goal.UP, "", 3)
        assert await ledger.latest_event() == 8
        budget = model.Budget(key="k", starts=1, per_s=1)
        bot, run_id, created = await create_bot_and_run(ledger, NEW, started_at=4, budget=budget)
        assert (bot.bot_id, run_id, created) == (2, 2, True)
        await ledger.close()

    asyncio.run(read())


def test_a_migration_that_fails_changes_nothing(path: Path, steps: Path) -> None:
    (steps / "0900_wrong.py").write_text(
        "def up(migrator, db):\n"
        "    db.execute_sql('DELETE FROM run')\n"
        "    db.execute_sql('ALTER TABLE bot ADD COLUMN colour TEXT')\n"
        "    db.execute_sql('ALTER TABLE nowhere ADD COLUMN colour TEXT')\n"
    )
    with pytest.raises(errors.LedgerRefused, match="no such table: nowhere"):
        asyncio.run(Ledger.open(path))
    (steps / "0900_wrong.py").unlink()
    assert _number_of_runs(path) == 200


def test_the_migrations_add_up_to_the_models(path: Path, tmp_path: Path) -> None:
    models = tmp_path / "models.db"
    models.touch()
    db = file.writing(models)
    with db.bind_ctx([Bot, Run, Event, Start]):
        db.create_tables([Bot, Run, Event, Start])
    db.close()

    def schema(path: Path) -> set[tuple[str, str]]:
        with contextlib.closing(sqlite3.connect(path)) as db:
            query = "SELECT name, sql FROM sqlite_master WHERE sql NOT NULL AND tbl_name <> 'schema_migration'"
            return set(db.execute(query))

    assert schema(path) == schema(models)
    assert len(schema(models)) > 6


def test_migrations_import_nothing_of_the_application() -> None:
    steps = list(migrations.DIRECTORY.glob("[0-9]*.py"))
    assert steps
    for step in steps:
        assert not re.search(r"^\s*(from|import)\s+(supervisor|botproc)", step.read_text(), re.MULTILINE), step


def test_how_the_connections_are_set_up(path: Path) -> None:
    writing = file.writing(path)
    assert [writing.pragma(name) for name in ("journal_mode", "synchronous", "foreign_keys")] == ["wal", 2, 1]
    writing.close()
    reading = file.reading(path, busy_timeout_s=1)
    with pytest.raises(OperationalError, match="readonly"):
        reading.execute_sql("DELETE FROM run")
    reading.close()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger of fifty thousand runs: half of them of the first bot, one out of memory, the last ten open."""
    path = tmp_path_factory.mktemp("large") / "ledger.db"
    _fill(path, 1)
    numbers = "WITH RECURSIVE n (id) AS (SELECT 2 UNION ALL SELECT id + 1 FROM n WHERE id < 50000)"
    _execute(
        path,
        f"""
        INSERT INTO bot (kind, params, labels, restart, grace_s, goal, state, reason, restarts, created_at) {numbers}
        SELECT kind, params, labels, restart, grace_s, goal, 'stopped', reason, restarts, created_at
        FROM n, bot WHERE bot_id = 1
        """,
        f"""
        INSERT INTO run (bot_id, kind, params, started_at, ended_at, cause, detail, descendants_killed, log_start,
            last_lines, fingerprint)
        {numbers}
        SELECT CASE id % 2 WHEN 0 THEN 1 ELSE id END, kind, params, id, CASE WHEN id <= 49990 THEN id END,
            CASE WHEN id = 25000 THEN 'oom' WHEN id <= 49990 THEN 'exited' END, '', 0, 0, '[]',
            CASE WHEN id = 25000 THEN 'oom:SIGKILL' END
        FROM n, bot WHERE bot_id = 1
        """,
    )
    return path


PAGES = [
    model.RunQuery(),
    model.RunQuery(after=40_000),
    model.RunQuery(kind="counter"),
    model.RunQuery(kind="counter", causes=frozenset({Cause.OOM, Cause.LOST})),
    model.RunQuery(kind="trader"),
    model.RunQuery(bot_id=1),
    model.RunQuery(bot_id=1, kind="trader"),
    model.RunQuery(bot_id=1, causes=frozenset({Cause.LOST})),
    model.RunQuery(bot_id=49_999, kind="counter"),
    model.RunQuery(causes=frozenset({Cause.OOM, Cause.LOST})),
    model.RunQuery(since=49_000),
    model.RunQuery(since=25_000, until=49_000, kind="counter", causes=frozenset({Cause.OOM})),
    model.RunQuery(until=100, after=50),
    model.RunQuery(fingerprint="oom:SIGKILL"),
    model.CrashQuery(kind="counter"),
    model.BotQuery(),
    model.BotQuery(states=frozenset(State), after=10),
    model.BotQuery(states=frozenset({State.STOPPED, State.FAILED})),
    model.BotQuery(name="x", states=frozenset(State)),
    model.BotQuery(bot_ids=frozenset(range(49_900, 50_000)), states=frozenset(State)),
    *(lambda db: runs.latest(db, 1), runs.still_open),
]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_costs_little_however_long_the_list(large: Path, page: object) -> None:
    """In steps of SQLite's virtual machine: looking at every run would take hundreds of thousands."""
    db = file.reading(large, busy_timeout_s=1)
    hundreds: list[None] = []
    db.connection().set_progress_handler(lambda: hundreds.append(None), 100)
    match page:
        case model.RunQuery():
            runs.page(db, page)
        case model.CrashQuery():
            crashes.page(db, page)
        case model.BotQuery():
            bots.listed(db, page, exclude=())
        case _:
            page(db)  # type: ignore[operator]
    db.close()
    assert len(hundreds) * 100 < 30_000
