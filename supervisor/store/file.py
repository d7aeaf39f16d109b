"""The file of the ledger: made whole or not at all, judged before it is touched, brought to the newest schema."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peewee import PeeweeException, SqliteDatabase
from playhouse.migrations import Runner

from supervisor.core import errors
from supervisor.store import migrations, writer

APPLICATION_ID = 0x626F7473
"""Says in the file's header whose it is: "bots" in ASCII."""

CHECKED_BYTES = 64 * 2**20
"""A larger file is not checked page by page at every start (1 GB takes a second when it is cached, many when not)."""

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def writing(path: Path) -> SqliteDatabase:
    """The connection of the writer thread. In WAL mode a commit is durable only with `synchronous=FULL`."""
    pragmas = {"journal_mode": "wal", "synchronous": "full", "foreign_keys": 1}
    return _database(path, "rw", pragmas=pragmas, lock_type="IMMEDIATE", timeout=writer.ASK_AGAIN_S)


def reading(path: Path, *, busy_timeout_s: float) -> SqliteDatabase:
    """The connection of the reader thread, which cannot write. Only recovery after a crash can keep it waiting."""
    return _database(path, "rw", pragmas={"query_only": 1}, timeout=busy_timeout_s)


def _database(path: Path, mode: str, **settings: Any) -> SqliteDatabase:
    # A URI, because connecting to a bare path makes a new database where there is none.
    return SqliteDatabase(f"{path.absolute().as_uri()}?mode={mode}", uri=True, **settings)


class Files:
    """The two files that an open ledger is in, its own and the write-ahead log beside it.

    SQLite holds them by descriptors and does not notice when somebody moves, deletes or replaces them; what it writes
    then is lost at the next start. So they are compared with what is at their paths before each commit.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log_path = _log(path)
        self._main = _identity(path)
        self._log: tuple[int, int] | None = None

    def opened(self) -> None:
        """A connection has opened both."""
        self._log = _identity(self._log_path)

    @property
    def moved(self) -> str | None:
        """Why the file of the ledger is not the one at its path; None when it is."""
        if _identity(self._path) == self._main:
            return None
        what = "was replaced by another file" if self._path.exists() else "was moved or deleted"
        return f"{self._path} {what} while the supervisor used it; put it back"

    @property
    def log_lost(self) -> str | None:
        """Why the write-ahead log is not the one at its path; None when it is."""
        if self._log is None or _identity(self._log_path) == self._log:
            return None
        return f"{self._log_path} was moved, deleted or replaced while the supervisor used it"


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def prepare(path: Path) -> None:
    """Make the ledger, or check and migrate the one that is there. No connection to it may be open in this process.

    Raises:
        LedgerRefused: it cannot be made or used. What is refused for what it is, is left as it is, byte for byte.
    """
    with explained(path):
        if path.exists():
            judge(path)
        else:
            _make(path)
        _migrate(path)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """What goes wrong with a ledger in the block is told as `LedgerRefused`."""
    try:
        yield
    except OSError as error:
        raise _refused(path, str(error)) from error
    except PeeweeException as error:
        if writer.code(error) in _DAMAGED:
            raise damaged(path, str(error)) from error
        what_to_do = "see whether another program uses it, and whether the disk is full or failing"
        raise _refused(path, f"{writer.describe(error)}; {what_to_do}") from error


def _refused(path: Path, reason: str) -> errors.LedgerRefused:
    return errors.LedgerRefused(f"cannot use the ledger {path}: {reason}")


def _check_writable(place: Path) -> None:
    # Root may write anywhere; what is marked as read-only is meant to stay as it is all the same.
    if not place.stat().st_mode & 0o222 or not os.access(place, os.W_OK):
        raise OSError(f"{place} is read-only; make it writable for the user who runs the supervisor")


def looking(path: Path) -> SqliteDatabase:
    """A connection that cannot write. Without a write-ahead log to be read as well, nothing at all need be made beside
    the file."""
    return _database(path, "ro" if _log(path).exists() else "ro&immutable=1")


def judge(path: Path) -> None:
    """Refuse what this program must not write to."""
    _check_writable(path.parent)
    if not path.is_file():
        raise _refused(path, "it is not a file; remove it or set another data directory")
    _check_writable(path)
    if path.stat().st_size == 0:
        raise _refused(path, "it is empty; restore it from a backup, or move it away to begin a new one")
    db = looking(path)
    try:
        if db.application_id != APPLICATION_ID:
            raise _refused(path, "it is another program's database; move it away or set another data directory")
        unknown = [step.name for step in Runner(db, migrations.DIRECTORY).status() if step.path is None]
        if unknown:
            what_to_do = "run that version, or restore the backup from before the update"
            raise _refused(path, f"a newer version wrote it ({unknown[-1]} is unknown here); {what_to_do}")
        if path.stat().st_size <= CHECKED_BYTES:
            [verdict] = db.execute_sql("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise damaged(path, verdict.splitlines()[-1])
    finally:
        db.close()


def damaged(path: Path, reason: str) -> errors.LedgerRefused:
    return _refused(path, f"it is damaged ({reason}); restore it from a backup, or move it away to begin a new one")


def _make(path: Path) -> None:
    """Make the ledger beside its place and move it there when it is complete: a crash leaves none, or a whole one."""
    _check_writable(path.parent)
    refuse_lone_log(path)
    draft = path.with_name(path.name + ".new")
    for rest in ("", "-journal", "-wal", "-shm"):
        draft.with_name(draft.name + rest).unlink(missing_ok=True)
    handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        os.fchmod(handle, 0o600)  # The umask may have taken more away.
    finally:
        os.close(handle)
    db = writing(draft)
    try:
        db.application_id = APPLICATION_ID
    finally:
        db.close()
    _migrate(draft)
    draft.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def refuse_lone_log(path: Path) -> None:
    """Refuse a write-ahead log whose ledger is missing: SQLite would take its pages for those of a new ledger."""
    if _log(path).exists() and not path.exists():
        raise _refused(path, f"it is missing, but {_log(path).name} is there; restore it, or move that away as well")


def _log(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _migrate(path: Path) -> None:
    """Bring the schema up to date."""
    db = writing(path)
    try:
        runner = Runner(db, migrations.DIRECTORY)
        if any(not step.applied for step in runner.status()):
            runner.up()
    finally:
        db.close()
