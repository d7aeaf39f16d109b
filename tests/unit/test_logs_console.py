"""The console never makes anybody wait, and outlives whatever its descriptor does."""

from __future__ import annotations

import logging
import os
import select
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from supervisor.logs import Console, ConsoleHandler
from tests import belongings
from tests.waiting import wait_for

LIMIT_BYTES = 1024 * 1024


class Pipe:
    """A pipe as somebody's stdout."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.read_fd = read_fd
        self.write_fd = write_fd

    def is_full(self) -> bool:
        poll = select.poll()
        poll.register(self.write_fd, select.POLLOUT)
        return not poll.poll(0)

    def close_reader(self) -> None:
        if self.read_fd >= 0:
            os.close(self.read_fd)
            self.read_fd = -1

    def close_writer(self) -> None:
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1

    def rest(self) -> bytes:
        """All that was written, once the last writer is gone."""
        self.close_writer()
        with os.fdopen(os.dup(self.read_fd), "rb") as file:
            return file.read()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe(*os.pipe())
    yield pipe
    pipe.close_reader()
    pipe.close_writer()


@pytest.fixture
def make_console() -> Iterator[Callable[[int], Console]]:
    threads, descriptors = belongings.threads(), belongings.descriptors()
    consoles: list[Console] = []

    def make(fd: int) -> Console:
        consoles.append(Console(fd, limit_bytes=LIMIT_BYTES))
        return consoles[-1]

    yield make
    for console in consoles:
        console.close(0)
    # What an earlier test has left may go at any moment.
    wait_for(lambda: belongings.threads() <= threads, what="the thread is gone")
    assert belongings.descriptors() <= descriptors


def fill(console: Console, line: bytes = b"x" * 1023 + b"\n") -> bytes:
    """Writes until the console has no room; what it took."""
    taken = b""
    while console.write(line):
        taken += line
    return taken


def test_everything_comes_out_in_order(pipe: Pipe, make_console: Callable[[int], Console]) -> None:
    console = make_console(pipe.write_fd)
    for n in range(1000):
        assert console.write(b"%d\n" % n)
    console.say("that is all")
    assert console.close(5)
    assert pipe.rest() == b"".join(b"%d\n" % n for n in range(1000)) + b"supervisor | that is all\n"


def test_a_pipe_that_nobody_reads_fills_the_queue_and_no_more(
    pipe: Pipe, make_console: Callable[[int], Console]
) -> None:
    console = make_console(pipe.write_fd)
    called = threading.Event()
    console.on_room = called.set
    taken = fill(console)
    wait_for(pipe.is_full)
    taken += fill(console)
    assert LIMIT_BYTES <= len(taken) <= LIMIT_BYTES + 256 * 1024
    assert not console.close(0.01)
    assert not called.is_set()
    assert not console.write(b"after the end\n")
    pipe.close_reader()
    wait_for(lambda: not console._thread.is_alive())


def test_when_there_is_room_again_who_was_refused_is_called(pipe: Pipe, make_console: Callable[[int], Console]) -> None:
    console = make_console(pipe.write_fd)
    called = threading.Event()
    console.on_room = called.set
    read = b""

    def read_some() -> bool:
        nonlocal read
        read += os.read(pipe.read_fd, 65536)
        return called.is_set()

    taken = fill(console)
    wait_for(read_some)
    assert console.write(b"last\n")
    taken += b"last\n"
    reader = threading.Thread(target=lambda: console.close(5))
    reader.start()
    pipe.close_writer()
    while more := os.read(pipe.read_fd, 65536):
        read += more
    reader.join()
    assert read == taken


def test_lines_of_its_own_have_a_little_more_room_and_are_counted_when_dropped(
    pipe: Pipe, make_console: Callable[[int], Console]
) -> None:
    console = make_console(pipe.write_fd)
    fill(console)
    wait_for(pipe.is_full)
    fill(console)
    for n in range(10_000):
        console.say(f"message {n} {'x' * 100}")
    assert not console.write(b"of a bot\n")
    output: list[bytes] = []
    reader = threading.Thread(target=lambda: output.append(pipe.rest()))
    reader.start()
    assert console.close(5)
    reader.join()
    own = [line.decode() for line in output[0].split(b"\n") if line.startswith(b"supervisor | ")]
    said = [line for line in own if "message" in line]
    assert 1000 < len(said) < 10_000
    assert said == [f"supervisor | message {n} {'x' * 100}" for n in range(len(said))]
    assert own[len(said) :] == [f"supervisor | … {10_000 - len(said)} lines dropped"]


def test_a_reader_that_went_away_is_no_harm(pipe: Pipe, make_console: Callable[[int], Console]) -> None:
    console = make_console(pipe.write_fd)
    pipe.close_reader()
    for _ in range(5 * LIMIT_BYTES // 1000):
        wait_for(lambda: console.write(b"x" * 999 + b"\n"))
    assert console.close(5)


def test_a_stdout_that_was_closed_before_is_no_harm(make_console: Callable[[int], Console]) -> None:
    console = make_console(9_999)
    assert console.write(b"into nothing\n")
    console.say("into nothing")
    assert console.close(5)


def test_what_gets_the_number_of_a_closed_stdout_is_not_written_to(
    pipe: Pipe, make_console: Callable[[int], Console], tmp_path: Path
) -> None:
    console = make_console(pipe.write_fd)
    number = pipe.write_fd
    pipe.close_writer()
    ledger = os.open(tmp_path / "ledger", os.O_WRONLY | os.O_CREAT)
    try:
        assert ledger == number
        console.write(b"line\n")
        assert console.close(5)
        assert os.fstat(ledger).st_size == 0
    finally:
        os.close(ledger)
    assert pipe.rest() == b"line\n"


def test_a_full_disk_is_no_harm(make_console: Callable[[int], Console]) -> None:
    with open("/dev/full", "wb") as full:
        console = make_console(full.fileno())
        for _ in range(5 * LIMIT_BYTES // 1000):
            wait_for(lambda: console.write(b"x" * 999 + b"\n"))
        assert console.close(5)


def test_after_a_line_that_was_cut_short_the_next_begins_on_a_line_of_its_own(
    make_console: Callable[[int], Console], tmp_path: Path
) -> None:
    """A named pipe whose reader goes away in the middle of a line, and comes back."""
    fifo = tmp_path / "stdout"
    os.mkfifo(fifo)
    pipe = Pipe(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), os.open(fifo, os.O_WRONLY))
    try:
        console = make_console(pipe.write_fd)
        console.write(b"x" * 200_000 + b"\n")
        wait_for(pipe.is_full)
        pipe.close_reader()
        wait_for(lambda: console._waiting_bytes == 0)
        pipe.read_fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(pipe.read_fd, True)
        console.write(b"bot-11 | whole\n")
        output: list[bytes] = []
        reader = threading.Thread(target=lambda: output.append(pipe.rest()))
        reader.start()
        assert console.close(5)
        reader.join()
        assert output[0].lstrip(b"x") == b"\nbot-11 | whole\n"
    finally:
        pipe.close_reader()
        pipe.close_writer()


def test_a_descriptor_that_somebody_made_non_blocking_gets_everything(
    pipe: Pipe, make_console: Callable[[int], Console]
) -> None:
    os.set_blocking(pipe.write_fd, False)
    console = make_console(pipe.write_fd)
    taken = fill(console)
    wait_for(pipe.is_full)
    output: list[bytes] = []
    reader = threading.Thread(target=lambda: output.append(pipe.rest()))
    reader.start()
    assert console.close(5)
    reader.join()
    assert output == [taken]


def test_the_log_of_the_supervisor_goes_through_the_console(pipe: Pipe, make_console: Callable[[int], Console]) -> None:
    console = make_console(pipe.write_fd)
    logger = logging.Logger("supervisor.test")
    logger.addHandler(ConsoleHandler(console))
    logger.info("bot %s is ready", "a\nbot-11 | b\x1b[2J\ud800")
    assert console.close(5)
    assert pipe.rest() == b"supervisor | bot a\nsupervisor | bot-11 | b\\x1b[2J\\ud800 is ready\n"


def test_a_message_that_cannot_be_formatted_is_no_harm(
    pipe: Pipe, make_console: Callable[[int], Console], capsys: pytest.CaptureFixture[str]
) -> None:
    console = make_console(pipe.write_fd)
    logger = logging.Logger("supervisor.test")
    logger.addHandler(ConsoleHandler(console))
    logger.info("%d", "no number")
    logger.info("next")
    assert console.close(5)
    assert pipe.rest() == b"supervisor | next\n"
    assert "no number" in capsys.readouterr().err
