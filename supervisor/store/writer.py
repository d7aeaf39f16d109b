"""The one thread that writes to the ledger, in groups.

Whatever is queued when the thread comes round is one transaction, and thus one fsync; each write has a savepoint of
its own, so that one that fails does not undo its neighbours. An error of the database itself is an outage: the whole
group is undone, its commands fail, its facts wait and are written before anything later.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from peewee import PeeweeException, SqliteDatabase

from supervisor.core import errors

log = logging.getLogger(__name__)

T = TypeVar("T")
Write = Callable[[SqliteDatabase], T]

GROUP = 256
FACT_WAITS_S = 0.005
"""In seconds: so long a fact that nobody waits for does so for others. The disk is waited for once for all of them."""
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 1.0
ASK_AGAIN_S = 0.1
"""SQLite's own busy timeout on the writing connection. The thread asks again and again, so that it can be closed."""

_OUTAGES = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
    }
)


_PASSING = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL})
"""Outages that say nothing against the connection."""


class LedgerLost(Exception):
    """The files that are open are not the ones at their paths."""


class Files(Protocol):
    """What the writer asks of the files that it writes to; see `file.Files`."""

    def opened(self) -> None: ...

    @property
    def moved(self) -> str | None: ...

    @property
    def log_lost(self) -> str | None: ...


@dataclass(frozen=True, slots=True, eq=False)
class _Op:
    write: Write[Any]
    future: asyncio.Future[Any]
    is_fact: bool
    then: Callable[[Any], None] | None


@dataclass(frozen=True, slots=True, eq=False)
class _Outcome:
    op: _Op
    value: Any = None
    error: Exception | None = None
    written: bool = True


class Writer:
    """Runs functions of a connection, one after the other, in a thread of its own. Made and called on the event loop.

    Attributes:
        queued: the writes that are not settled yet.
        outage: why the database could not be written when last tried; None when it could.
        generation: how often the database had to be opened again since its write-ahead log was lost: other
            connections, which still have that open, must do so, too.
    """

    def __init__(
        self,
        db: SqliteDatabase,
        files: Files,
        *,
        busy_timeout_s: float,
        on_commit: Callable[[float], None] | None = None,
    ) -> None:
        """`on_commit` is told how many seconds each transaction took, in the thread that writes."""
        self.queued = 0
        self.outage: str | None = None
        self.generation = 0
        self._db = db
        self._files = files
        self._busy_timeout_s = busy_timeout_s
        self._on_commit = on_commit
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Op | None] = queue.SimpleQueue()
        self._latest: asyncio.Future[Any] = self._loop.create_future()
        self._held: list[_Op] = []
        self._due: asyncio.TimerHandle | None = None
        self._waiting: list[_Op] = []
        self._closing_by: float | None = None
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
        self._thread.start()

    def command(self, write: Write[T], then: Callable[[T], None] | None = None) -> asyncio.Future[T]:
        """Queue a write that may fail: with what it raises, or with `LedgerUnavailable`.

        `then` is called with its value, in the order of the writes, once it is durable; whoever waits or does not.
        """
        future = self._submit(write, then, is_fact=False)
        self.hurry()
        return future

    def fact(self, write: Write[T], then: Callable[[T], None] | None = None) -> asyncio.Future[None]:
        """Queue a write that must not be lost. The future is done once it is durable. `then` is as for a command.

        It is begun with the next command, when somebody is in a hurry, or `FACT_WAITS_S` from now.
        """
        future = self._submit(write, then, is_fact=True)
        if self._held and self._due is None:
            self._due = self._loop.call_later(FACT_WAITS_S, self.hurry)
        return future

    def hurry(self) -> None:
        """Begin to write all that there is."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        for op in self._held:
            self._queue.put(op)
        self._held.clear()

    async def settled(self, limit_s: float) -> None:
        """Waits until all that is queued now is settled; not in an outage, and for `limit_s` at most."""
        if self.queued and self.outage is None:
            self.hurry()
            await asyncio.wait([self._latest], timeout=limit_s)

    def close(self, timeout_s: float) -> None:
        """Take nothing more, write what is queued within the limit, and end the thread. `join` waits for that."""
        self.hurry()
        self._closing_by = time.monotonic() + timeout_s
        self._queue.put(None)

    def join(self) -> None:
        """Wait for the thread to end; not on the event loop, which the thread still needs."""
        self._thread.join()

    def _submit(self, write: Write[Any], then: Callable[[Any], None] | None, *, is_fact: bool) -> asyncio.Future[Any]:
        op = _Op(write, self._loop.create_future(), is_fact, then)
        self.queued += 1
        self._latest = op.future
        if self._closing_by is None:
            self._held.append(op)
        else:
            self._resolve([_given_up(op, "the ledger is closed")])
        return op.future

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while self._has_work():
            group = self._collect(pause_s)
            # What has waited goes first, and alone: a command too big for the disk must not hold it up for ever.
            if self._write_waiting() and (not group or self._commit(group)):
                pause_s = FIRST_PAUSE_S
            else:
                self._put_off(group)
                pause_s = min(LONGEST_PAUSE_S, pause_s * 2)
        self._end()

    def _has_work(self) -> bool:
        if self._closing_by is None or not self._queue.empty():
            return True
        return self.outage is not None and time.monotonic() < self._closing_by

    def _collect(self, pause_s: float) -> list[_Op]:
        """Wait for writes and take them: at once, or, in an outage, whatever comes until the pause is over."""
        ops: list[_Op | None] = []  # None, which comes when the writer is to close, ends a wait.
        if self.outage is None:
            ops.append(self._queue.get())
        else:
            resume_at = self._not_after_closing(time.monotonic() + pause_s)
            with contextlib.suppress(queue.Empty):
                while ops[-1:] != [None] and (left_s := resume_at - time.monotonic()) > 0:
                    ops.append(self._queue.get(timeout=left_s))
        while len(ops) < GROUP and not self._queue.empty():
            ops.append(self._queue.get())
        return [op for op in ops if op is not None]

    def _not_after_closing(self, moment: float) -> float:
        return moment if self._closing_by is None else min(moment, self._closing_by)

    def _write_waiting(self) -> bool:
        """End an outage, if it is over: write all that waited, or, if nothing did, anything at all."""
        while self.outage is not None or self._waiting:
            group = self._waiting[:GROUP]
            if not self._commit(group):
                return False
            del self._waiting[: len(group)]
        return True

    def _put_off(self, group: Iterable[_Op]) -> None:
        self._waiting += (op for op in group if op.is_fact)
        self._settle([_given_up(op, f"the ledger cannot be written: {self.outage}") for op in group if not op.is_fact])

    def _commit(self, group: Sequence[_Op]) -> bool:
        """Carry the group out in one transaction and settle it; False if the database cannot be written."""
        began = time.monotonic()
        try:
            self._open()
            outcomes = [self._apply(op) for op in group]
            if not group:
                self._db.execute_sql("PRAGMA user_version = 0")  # The smallest write there is.
            if (lost := self._files.moved or self._files.log_lost) is not None:
                raise LedgerLost(lost)
            self._db.commit()
        except Exception as error:
            self._undo(error)
            reason = describe(error)
            if self.outage is None:
                log.error("cannot write to the ledger: %s", reason, extra={"action": "ledger-outage"})
            self.outage = reason
            return False
        if self.outage is not None:
            log.warning("the ledger can be written again", extra={"action": "ledger-outage-over"})
            self.outage = None
        if self._on_commit is not None:
            self._on_commit(time.monotonic() - began)
        self._settle(outcomes)
        return True

    def _open(self) -> None:
        """Connect if need be, and begin a transaction."""
        if (moved := self._files.moved) is not None:
            # Connecting alone would write to another.
            raise LedgerLost(moved)
        if not self._db.is_closed():
            self._begin()
            return
        self._db.connect()
        try:
            self._begin()
            self._files.opened()
        except PeeweeException:
            self._db.close()
            raise

    def _undo(self, error: Exception) -> None:
        """Undo the transaction. The next one has a new connection, but where only this one leads to what is written."""
        if self._db.is_closed():
            return
        with contextlib.suppress(PeeweeException):  # There may be no transaction.
            self._db.rollback()
        if self._files.moved is not None:
            # At once, while the log is there: somebody who moves files may move or delete that, too.
            self._is_log_saved()
        elif self._files.log_lost is not None:
            if self._is_log_saved():
                self.generation += 1
                self._db.close()
        elif code(error) not in _PASSING:
            self._db.close()

    def _is_log_saved(self) -> bool:
        """Bring what is in the write-ahead log, which may have lost its name, into the ledger, while both are open.

        As long as another connection reads from the log that cannot be done. A new log would not go with what is in
        the ledger then: SQLite finds the file damaged, or loses what follows.
        """
        try:
            is_busy, _, _ = self._db.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except PeeweeException:
            return False
        return not is_busy

    def _begin(self) -> None:
        """Wait for the lock as long as the busy timeout; in an outage just ask."""
        give_up_at = time.monotonic() + (self._busy_timeout_s if self.outage is None else 0)
        while True:
            try:
                self._db.begin("IMMEDIATE")
                return
            except PeeweeException as error:
                if code(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= self._not_after_closing(give_up_at):
                    raise

    def _apply(self, op: _Op) -> _Outcome:
        self._db.execute_sql("SAVEPOINT op")
        try:
            value = op.write(self._db)
        except Exception as error:
            if code(error) in _OUTAGES:
                raise
            self._db.execute_sql("ROLLBACK TO op")
            self._db.execute_sql("RELEASE op")
            if op.is_fact:
                # Only a bug can bring us here, and the facts behind this one are not to suffer from it.
                log.error("a fact cannot be written and is dropped", exc_info=error, extra={"action": "ledger-drop"})
                return _Outcome(op, written=False)
            return _Outcome(op, error=error, written=False)
        self._db.execute_sql("RELEASE op")
        return _Outcome(op, value)

    def _end(self) -> None:
        if self._waiting:
            self._settle([_given_up(op, f"the ledger cannot be written: {self.outage}") for op in self._waiting])
        # Where the checkpoint cannot be made, the next to open the ledger makes it.
        if self._files.moved is None or not self._db.is_closed():
            with contextlib.suppress(PeeweeException):
                self._db.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()

    def _settle(self, outcomes: Sequence[_Outcome]) -> None:
        # A loop that is closed has nobody left who waits.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._resolve, outcomes)

    def _resolve(self, outcomes: Sequence[_Outcome]) -> None:
        self.queued -= len(outcomes)
        for outcome in outcomes:
            if outcome.written and outcome.op.then is not None:
                outcome.op.then(outcome.value)
            if outcome.op.future.done():
                continue  # Nobody waits for it any more.
            if outcome.error is not None:
                outcome.op.future.set_exception(outcome.error)
            else:
                outcome.op.future.set_result(None if outcome.op.is_fact else outcome.value)


def _given_up(op: _Op, reason: str) -> _Outcome:
    """How an operation ends that is not carried out: a command fails, a fact is lost, and the log says so."""
    if op.is_fact:
        log.error("a fact is lost: %s", reason, extra={"action": "ledger-drop"})
        return _Outcome(op, written=False)
    return _Outcome(op, error=errors.LedgerUnavailable(reason, retry_after_s=1), written=False)


def code(error: Exception) -> int:
    """SQLite's primary result code behind an error of Peewee; 0 if there is none."""
    result: int = getattr(getattr(error, "orig", None), "sqlite_errorcode", 0)
    return result & 0xFF


def describe(error: Exception) -> str:
    """An error of Peewee in SQLite's words, such as "database is locked (SQLITE_BUSY)"."""
    if isinstance(error, LedgerLost):
        return str(error)
    name = getattr(getattr(error, "orig", None), "sqlite_errorname", type(error).__name__)
    return f"{error} ({name})"
