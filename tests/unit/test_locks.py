"""The bots' lock files, in which anything may stand: they are the bots' own."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from botproc import kernel
from supervisor.engine.locks import Locks

T = TypeVar("T")


@pytest.fixture
def locks(tmp_path: Path) -> Locks:
    return Locks(tmp_path)


@pytest.fixture
def held(locks: Locks) -> Iterator[Callable[[str], None]]:
    """Holds the lock of bot 1, with this text in its file."""
    files = []

    def hold(text: str) -> None:
        locks.path(1).write_text(text)
        files.append(locks.path(1).open("rb"))
        fcntl.flock(files[-1], fcntl.LOCK_EX)

    yield hold
    for file in files:
        file.close()


def in_time(call: Callable[[], T]) -> T:
    """What the call returns, in a thread: one that hangs must not hang the tests."""
    returned: list[T] = []
    thread = threading.Thread(target=lambda: returned.append(call()), daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive(), "it hangs"
    return returned[0]


def test_a_lock_says_who_holds_it(locks: Locks, held: Callable[[str], None]) -> None:
    ticks = kernel.start_ticks(os.getpid())
    held(f"7 {os.getpid()} {ticks}\n")
    holder = locks.holder(1)
    assert holder is not None
    assert (holder.pid, holder.start_ticks) == (os.getpid(), ticks)
    assert locks.holder(1, 7) == holder
    assert locks.holder(1, 8) is None
    locks.remove(1)
    assert locks.path(1).exists()


@pytest.mark.parametrize("text", ["", "a b c\n", "7 8\n", "7 -1 3\n", "7 8 9 10\n", f"7 {2**70} 1\n", "\0" * 200])
def test_what_a_bot_has_written_there_harms_nobody(locks: Locks, held: Callable[[str], None], text: str) -> None:
    held(text)
    assert locks.holder(1) is None
    assert locks.holder(1, 7) is None


def test_a_lock_that_nobody_holds_is_removed(locks: Locks) -> None:
    assert locks.holder(1) is None
    locks.remove(1)
    locks.path(1).write_text("7 8 9\n")
    assert locks.holder(1) is None
    locks.remove(1)
    assert not locks.path(1).exists()


def _directory(path: Path) -> None:
    path.mkdir()


def _link(path: Path) -> None:
    path.symlink_to(path.with_name("elsewhere"))
    path.with_name("elsewhere").touch()


@pytest.mark.parametrize("put", [_directory, _link])
def test_what_is_no_file_is_left_alone(locks: Locks, put: Callable[[Path], None]) -> None:
    put(locks.path(1))
    assert locks.holder(1) is None
    locks.remove(1)
    assert os.path.lexists(locks.path(1))


def test_a_pipe_holds_nobody_up(locks: Locks) -> None:
    """A bot may put one in the place of its lock. To wait there for a writer would hold up all bots."""
    os.mkfifo(locks.path(1))
    assert in_time(lambda: locks.holder(1)) is None
    in_time(lambda: locks.remove(1))
    assert not locks.path(1).exists()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE])
def test_a_lock_that_cannot_be_opened(locks: Locks, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """It is not known then who holds it. Another user's stays so; a want of descriptors passes."""

    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    locks.path(1).touch()
    monkeypatch.setattr(os, "open", fail)
    if number == errno.EMFILE:
        with pytest.raises(OSError, match="Too many open files"):
            locks.holder(1)
    else:
        assert locks.holder(1) is None
    locks.remove(1)
    monkeypatch.undo()
    assert locks.path(1).exists()
