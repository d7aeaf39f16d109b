"""A log gives its head back to the file system, and its offsets stay."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from supervisor import logs
from supervisor.logs import bounded

LIMIT_BYTES = 1024 * 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return logs.log_path(tmp_path, 10)


@pytest.fixture
def open_log(path: Path) -> Iterator[Callable[[], bounded.LogFile]]:
    opened: list[bounded.LogFile] = []

    def open_() -> bounded.LogFile:
        opened.append(bounded.LogFile(path, LIMIT_BYTES))
        return opened[-1]

    yield open_
    for log in opened:
        log.close()


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def allocated_bytes(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_the_path_and_the_size(tmp_path: Path, path: Path) -> None:
    assert path == tmp_path / "10.log"
    assert logs.size(path) == 0
    append(path, b"12345")
    assert logs.size(path) == 5


def test_a_small_log_is_left_alone(path: Path, open_log: Callable[[], bounded.LogFile]) -> None:
    append(path, b"x" * LIMIT_BYTES)
    log = open_log()
    log.look()
    assert (log.start, log.size) == (0, LIMIT_BYTES)
    assert path.read_bytes() == b"x" * LIMIT_BYTES


def test_the_end_is_kept_where_it_is(path: Path, open_log: Callable[[], bounded.LogFile]) -> None:
    append(path, b"begin\n")
    log = open_log()
    for n in range(20):
        append(path, b"%d\n" % n + b"x" * (LIMIT_BYTES // 3))
        log.look()
        assert allocated_bytes(path) <= LIMIT_BYTES
    last = log.size - LIMIT_BYTES // 3 - 3
    assert log.read(3, last) == b"19\n"
    assert log.start > 5 * LIMIT_BYTES
    assert log.size - log.start >= LIMIT_BYTES // 2


def test_another_supervisor_goes_on_where_the_hole_ends(path: Path, open_log: Callable[[], bounded.LogFile]) -> None:
    append(path, b"x" * (3 * LIMIT_BYTES))
    first = open_log()
    first.look()
    assert first.start > 0
    assert open_log().start == first.start


def test_a_log_that_somebody_truncated_begins_anew(path: Path, open_log: Callable[[], bounded.LogFile]) -> None:
    append(path, b"x" * (3 * LIMIT_BYTES))
    log = open_log()
    log.look()
    os.truncate(path, 0)
    append(path, b"anew\n")
    log.look()
    assert (log.start, log.size) == (0, 5)


def test_without_holes_a_full_log_is_truncated_and_that_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def cannot(fd: int, start: int, end: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(bounded, "punch", cannot)
    bounded._warn_no_holes.cache_clear()
    with caplog.at_level(logging.WARNING):
        for bot_id in (10, 11):
            path = logs.log_path(tmp_path, bot_id)
            append(path, b"x" * (3 * LIMIT_BYTES))
            log = bounded.LogFile(path, LIMIT_BYTES)
            log.look()
            log.close()
            assert (log.start, log.size) == (0, 0)
            assert logs.size(path) == 0
    assert len(caplog.records) == 1
    assert "cannot make holes" in caplog.text


def test_where_data_begins(path: Path) -> None:
    with path.open("w+b") as file:
        assert bounded.data_start(file.fileno(), 0) == 0
        file.truncate(LIMIT_BYTES)
        assert bounded.data_start(file.fileno(), 0) == LIMIT_BYTES
        file.seek(LIMIT_BYTES)
        file.write(b"data")
        file.flush()
        assert bounded.data_start(file.fileno(), 0) == LIMIT_BYTES
        assert bounded.data_start(file.fileno(), LIMIT_BYTES + 2) == LIMIT_BYTES + 2


def test_a_hole_that_cannot_be_made_raises(path: Path) -> None:
    path.write_bytes(b"x")
    with path.open("rb") as file, pytest.raises(OSError, match="Bad file descriptor"):
        bounded.punch(file.fileno(), 0, 4096)


def test_what_is_written_while_a_log_is_opened_is_no_hole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "1.log"
    path.touch()
    lseek = os.lseek

    def late(fd: int, offset: int, whence: int) -> int:
        try:
            return lseek(fd, offset, whence)
        finally:
            path.write_bytes(b"the first line\n")

    monkeypatch.setattr(os, "lseek", late)
    log = bounded.LogFile(path, 1 << 20)
    try:
        assert log.start == 0
    finally:
        log.close()
