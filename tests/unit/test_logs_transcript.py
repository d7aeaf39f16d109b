"""Which lines a log becomes: whole, in order, and the same however they were written."""

from __future__ import annotations

import operator
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor import logs
from supervisor.logs import lines
from supervisor.logs.transcript import Transcript

PREFIX = b"bot-10 | "
LIMIT_BYTES = 10 * 1024 * 1024


class Log:
    """A log and its transcript."""

    def __init__(self, path: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self.path = path
        self.transcript = Transcript(path, 0, limit_bytes)
        self.transcript.begin(PREFIX)

    def write(self, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data)

    def end(self) -> None:
        self.transcript.end(logs.size(self.path))

    def print(self) -> bytes:
        self.transcript.look()
        printed = b""
        while self.transcript.unread:
            printed += self.transcript.take(1000)
        return printed


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path / "10.log")
    yield log
    log.transcript.close()


def print_in_chunks(chunks: list[bytes]) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        log = Log(Path(directory) / "10.log")
        printed = b""
        for chunk in chunks:
            log.write(chunk)
            printed += log.print()
        log.end()
        return printed + log.print()


BLOCKS = st.one_of(
    st.binary(max_size=50),
    st.sampled_from([b"\n", b"\r", b"\r\n", "€".encode(), b"\xe2", b"\0"]),
    st.builds(operator.mul, st.sampled_from([b"x", "€".encode(), b"\r"]), st.integers(60_000, 70_000)),
)


@settings(deadline=None)
@given(st.lists(BLOCKS, max_size=6), st.lists(st.floats(0, 1), max_size=5))
def test_any_bytes_in_any_chunks_become_the_same_prefixed_lines(blocks: list[bytes], shares: list[float]) -> None:
    whole = b"".join(blocks)
    cuts = sorted(int(share * len(whole)) for share in shares)
    chunks = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    printed = print_in_chunks(chunks)
    assert printed == print_in_chunks([whole])
    assert all(line.startswith(PREFIX) for line in printed.split(b"\n")[:-1])


@settings(deadline=None)
@given(st.lists(st.text(st.characters(categories=["L", "N"]), max_size=40), max_size=20))
def test_each_line_comes_once_and_in_order(texts: list[str]) -> None:
    printed = print_in_chunks([f"{line}\n".encode() for line in texts])
    assert printed == b"".join(PREFIX + f"{line}\n".encode() for line in texts)


def test_an_unfinished_line_is_held_back_until_it_is_complete(log: Log) -> None:
    log.write(b"one\ntw")
    assert log.print() == b"bot-10 | one\n"
    log.write(b"")
    assert log.print() == b""
    log.write(b"o\n")
    assert log.print() == b"bot-10 | two\n"


def test_the_end_of_a_run_completes_its_last_line(log: Log) -> None:
    log.write(b"Traceback")
    assert log.print() == b""
    log.end()
    log.transcript.begin(PREFIX)
    log.write(b"next run\nand its unfinished line")
    assert log.print() == b"bot-10 | Traceback\nbot-10 | next run\n"


def test_the_end_of_a_run_that_printed_nothing_prints_nothing(log: Log) -> None:
    log.end()
    assert log.print() == b""
    log.write(b"later\n")
    assert log.print() == b"bot-10 | later\n"


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
@pytest.mark.parametrize("length", [lines.LINE_BYTES - 1, lines.LINE_BYTES, lines.LINE_BYTES + 1, 5 * lines.LINE_BYTES])
def test_a_line_that_is_too_long_comes_in_marked_pieces(log: Log, length: int, ending: bytes) -> None:
    log.write(b"x" * length + ending)
    printed = log.print().removesuffix(b"\n").split(b"\n")
    pieces = [line.removeprefix(PREFIX) for line in printed]
    assert all(len(piece) <= lines.LINE_BYTES + 2 for piece in pieces)
    assert all(piece.endswith(b" \\") for piece in pieces[:-1])
    assert not pieces[-1].endswith(b" \\")
    assert b"".join(piece.removesuffix(b" \\") for piece in pieces) == b"x" * length
    assert len(pieces) == 1 or length + len(ending) > lines.LINE_BYTES + 1


def test_a_piece_does_not_end_within_a_character(log: Log) -> None:
    log.write("x€€€€".encode() + "€".encode() * lines.LINE_BYTES + b"\n")
    assert rb"\x" not in log.print()


def test_what_was_given_away_is_passed_over_and_the_next_line_is_whole(tmp_path: Path) -> None:
    log = Log(tmp_path / "10.log", limit_bytes=1_000_000)
    log.write(b"".join(b"%09d\n" % n for n in range(300_000)))
    printed = log.print().split(b"\n")
    log.transcript.close()
    assert printed[0] == "bot-10 | … 2.7 MB skipped".encode()
    numbers = [int(line.removeprefix(PREFIX)) for line in printed[1:-1]]
    assert numbers == list(range(numbers[0], 300_000))
    assert len(numbers) > 20_000


def test_a_log_that_somebody_truncated_is_followed_from_its_start(log: Log) -> None:
    log.write(b"a long line of before\n")
    log.print()
    os.truncate(log.path, 0)
    log.write(b"after\n")
    assert log.print() == "bot-10 | … the log was truncated\nbot-10 | after\n".encode()


def test_the_file_is_open_only_while_a_run_goes_on(log: Log) -> None:
    def is_open() -> bool:
        descriptors = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        return str(log.path) in [os.readlink(link) for link in descriptors if os.path.lexists(link)]

    log.write(b"one\n")
    log.print()
    assert is_open()
    log.end()
    log.print()
    assert not is_open()
    log.write(b"a late word of something that the run left behind\n")
    assert log.print() != b""
    assert not is_open()
