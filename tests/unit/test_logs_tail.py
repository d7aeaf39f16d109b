"""The last lines of a log: the right ones, quickly, and in little memory."""

from __future__ import annotations

import json
import os
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor import logs
from supervisor.logs import bounded

GIB = 1024**3
MIB = 1024**2


class Reads:
    """Counts what is read of files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lengths: list[int] = []
        pread = os.pread

        def counted(fd: int, length: int, offset: int) -> bytes:
            data = pread(fd, length, offset)
            self.lengths.append(len(data))
            return data

        monkeypatch.setattr(os, "pread", counted)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return logs.log_path(tmp_path, 10)


@settings(deadline=None)
@given(st.lists(st.sampled_from([b"a", b"bb\n", b"\n", b"\xff\0\n", b"c" * 70_000]), max_size=8), st.data())
def test_the_lines_are_the_last_ones_of_the_region(blocks: list[bytes], data: st.DataObject) -> None:
    content = b"".join(blocks)
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.none() | st.integers(start, len(content) + 10))
    count = data.draw(st.integers(0, 10))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "10.log"
        path.write_bytes(content)
        assert logs.tail(path, count, start=start, end=end) == b"".join(
            content[start:end].splitlines(keepends=True)[-count:] if count else []
        )


def test_no_file_no_lines(path: Path) -> None:
    assert logs.tail(path, 10) == b""


def test_a_log_that_cannot_be_read_raises(path: Path) -> None:
    path.mkdir()
    with pytest.raises(OSError, match="not a regular file"):
        logs.tail(path, 10)


def test_too_much_is_cut_at_a_line(path: Path) -> None:
    path.write_bytes(b"".join(b"%09d\n" % n for n in range(1000)))
    assert logs.tail(path, 1000, max_bytes=25) == b"000000998\n000000999\n"
    assert logs.tail(path, 1000, max_bytes=30) == b"000000997\n000000998\n000000999\n"
    assert logs.tail(path, 1000, max_bytes=5) == b"0999\n"


def test_ten_lines_of_two_gigabytes_take_little_memory_and_few_reads(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with path.open("wb") as file:
        file.seek(2 * GIB - MIB)
        for n in range(MIB // 8):
            file.write(b"%07d\n" % n)
    reads = Reads(monkeypatch)
    tracemalloc.start()
    try:
        lines = logs.lines_of(logs.tail(path, 10))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert lines == tuple(f"{n:07d}" for n in range(MIB // 8 - 10, MIB // 8))
    assert peak < MIB
    assert len(reads.lengths) == 2


def test_a_hole_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with path.open("wb") as file:
        file.seek(2 * GIB)
        file.write(b"rest of a line\nwhole\n")
    reads = Reads(monkeypatch)
    assert logs.tail(path, 1000) == b"whole\n"
    assert sum(reads.lengths) < 100
    assert logs.tail(path, 1000, end=2 * GIB) == b""
    assert logs.tail(path, 1000, start=2 * GIB) == b"rest of a line\nwhole\n"


def test_a_huge_line_is_cut_to_the_memory_there_is(path: Path) -> None:
    path.write_bytes(b"x" * (20 * MIB) + b"\n")
    tracemalloc.start()
    try:
        assert len(logs.tail(path, 10)) == MIB
        assert tracemalloc.get_traced_memory()[1] < MIB + MIB // 4
    finally:
        tracemalloc.stop()


def test_what_is_given_away_while_it_is_read_is_left_out(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = os.sysconf("SC_PAGE_SIZE")
    path.write_bytes(b"%07d\n" % 0 * (page // 8 * 3 - 1) + b"last   \n")
    pread = os.pread

    def punched(fd: int, length: int, offset: int) -> bytes:
        with path.open("r+b") as file:
            bounded.punch(file.fileno(), 0, 2 * page)
        return pread(fd, length, offset)

    monkeypatch.setattr(os, "pread", punched)
    lines = logs.lines_of(logs.tail(path, 10_000))
    assert set(lines) == {"0000000", "last   "}
    assert len(lines) == page // 8 - 1


def test_lines_for_json_are_valid_whatever_was_printed() -> None:
    lines = logs.lines_of(b"a\0b\r\n\xff\xed\xa0\x80\n\xe2\x80\xa8\x0b\n\nlast")
    assert lines == ("a\0b", r"\xff\xed\xa0\x80", "\u2028\x0b", "", "last")
    assert logs.lines_of(b"") == ()
    assert logs.lines_of(b"\n") == ("",)


@given(st.binary())
def test_any_bytes_can_be_sent_as_json(data: bytes) -> None:
    lines = logs.lines_of(data)
    assert json.loads(json.dumps(lines, ensure_ascii=False).encode("utf-8")) == list(lines)
