"""A log read from an offset on, while it grows, is cut and cannot be read."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.logs import Line, Reader, Skipped, bounded


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "1.log"


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def lines(reader: Reader) -> list[bytes]:
    return [piece.data for piece in reader.read() if isinstance(piece, Line)]


def test_a_line_is_told_when_it_is_complete(path: Path) -> None:
    reader = Reader(path, 0)
    assert reader.read() == [], "there is no log yet"
    append(path, b"one\ntw")
    assert reader.read() == [Line(next_offset=4, data=b"one")]
    assert reader.read() == []
    append(path, b"o\n")
    assert reader.read() == [Line(next_offset=8, data=b"two")]


def test_the_last_line_of_a_run_is_complete_without_newline(path: Path) -> None:
    reader = Reader(path, 0)
    append(path, b"one\ntwo")
    assert lines(reader) == [b"one"]
    append(path, b"three\n")
    reader.ended([len(b"one\ntwo")])
    assert lines(reader) == [b"two", b"three"]


def test_nothing_is_read_behind_the_stop(path: Path) -> None:
    append(path, b"one\ntwo\nthree\n")
    reader = Reader(path, 4, stop=len(b"one\ntwo\n"))
    assert lines(reader) == [b"two"]
    assert reader.is_done


@given(writes=st.lists(st.tuples(st.binary(max_size=200), st.booleans()), max_size=12))
def test_each_byte_comes_once_whenever_it_is_read(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[bytes, bool]]
) -> None:
    """Each write may be the last of a run. Who reads after each finds what one finds who reads them all at once."""
    path = tmp_path_factory.mktemp("logs") / "1.log"
    often, at = Reader(path, 0), 0
    found = []
    for data, is_last in writes:
        append(path, data)
        at += len(data)
        if is_last:
            often.ended([at])
        found += often.read()
    ends, at = [], 0
    for data, is_last in writes:
        at += len(data)
        ends += [at] if is_last else []
    once = Reader(path, 0)
    once.ended(ends)
    whole = once.read()
    assert [piece.next_offset for piece in found] == sorted({piece.next_offset for piece in found})
    assert found == whole


def test_what_was_cut_is_told(path: Path) -> None:
    page = os.sysconf("SC_PAGE_SIZE")
    line = b"x" * 99 + b"\n"
    append(path, line * page)
    reader = Reader(path, 0)
    with path.open("r+b") as file:
        try:
            bounded.punch(file.fileno(), 0, 2 * page)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            pytest.skip("the file system makes no holes")
    skipped, *rest = reader.read()
    assert isinstance(skipped, Skipped)
    assert skipped.next_offset == skipped.size == -(-2 * page // len(line)) * len(line)
    assert {piece.data for piece in rest if isinstance(piece, Line)} == {line[:-1]}
    assert rest[0].next_offset == skipped.next_offset + len(line)


def test_an_error_costs_no_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it comes once lines were found."""
    append(path, b"1\n" * 100_000)
    pread, calls = os.pread, iter(range(10))

    def failing(fd: int, length: int, offset: int) -> bytes:
        if next(calls) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(fd, length, offset)

    reader = Reader(path, 0)
    reader.ended([1])
    monkeypatch.setattr(os, "pread", failing)
    with pytest.raises(OSError, match="Input/output error"):
        reader.read()
    first, second, *_ = reader.read()
    assert (first.next_offset, second.next_offset) == (1, 2)
