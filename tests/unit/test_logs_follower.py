"""The follower against real files, real writers and a real pipe for stdout."""

from __future__ import annotations

import errno
import gc
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor import logs
from supervisor.logs import inotify
from supervisor.logs.transcript import Transcript
from tests import belongings
from tests.waiting import wait_for

MIB = 1024 * 1024
LIMIT_BYTES = 10 * MIB


class Stage:
    """A directory of logs that is followed, and the pipe where it all comes out."""

    def __init__(self, log_dir: Path) -> None:
        self.log_dir = log_dir
        self._read_fd, self._write_fd = os.pipe()
        self._writers: list[subprocess.Popen[bytes]] = []
        self._output = bytearray()
        self._reader: threading.Thread | None = None
        self.console = logs.Console(self._write_fd)
        self.follower = logs.Follower(log_dir, self.console, limit_bytes=LIMIT_BYTES)

    def path(self, bot_id: int) -> Path:
        return logs.log_path(self.log_dir, bot_id)

    def append(self, bot_id: int, data: bytes) -> None:
        with self.path(bot_id).open("ab") as file:
            file.write(data)

    def allocated_bytes(self, bot_id: int) -> int:
        return self.path(bot_id).stat().st_blocks * 512

    def start_writer(self, bot_id: int, program: str) -> subprocess.Popen[bytes]:
        """A process with its stdout in the bot's log, as bots have it."""
        with self.path(bot_id).open("ab", buffering=0) as file:
            writer = subprocess.Popen([sys.executable, "-c", program], stdout=file, stderr=file)
        self._writers.append(writer)
        return writer

    def read(self) -> None:
        """From here on somebody reads the pipe."""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while data := os.read(self._read_fd, 65536):
            self._output += data

    @property
    def lines(self) -> list[str]:
        return bytes(self._output).decode().splitlines()

    def wait_for_line(self, line: str) -> None:
        wait_for(lambda: f"{line}\n".encode() in self._output, what=f"the line {line!r}")

    def finish(self) -> list[str]:
        """All that was put on the console."""
        assert self.follower.drain(20)
        self.close()
        return self.lines

    def close(self) -> None:
        for writer in self._writers:
            writer.kill()
            writer.wait()
        self.follower.close()
        if self._reader is None and self._read_fd >= 0:
            os.close(self._read_fd)
            self._read_fd = -1
        self.console.close(20)
        if self._write_fd >= 0:
            os.close(self._write_fd)
            self._write_fd = -1
        if self._reader is not None:
            self._reader.join()
            self._reader = None
            os.close(self._read_fd)
            self._read_fd = -1


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    threads, descriptors = belongings.threads(), belongings.descriptors()
    stage = Stage(tmp_path)
    yield stage
    stage.close()
    # What an earlier test has left may go at any moment, such as a server's end of a connection that is kept alive.
    wait_for(lambda: belongings.threads() <= threads, what="the threads are gone")
    assert belongings.descriptors() <= descriptors


def test_lines_of_several_writers_come_whole_and_in_order(stage: Stage) -> None:
    program = """
import os
for n in range(3000):
    os.write(1, b"line %d be" % n)
    os.write(1, b"gins and ends\\n")
"""
    stage.read()
    for bot_id in range(4):
        stage.follower.follow(bot_id, 0)  # before there is a file
    writers = [stage.start_writer(bot_id, program) for bot_id in range(4)]
    assert [writer.wait(20) for writer in writers] == [0, 0, 0, 0]
    lines = stage.finish()
    for bot_id in range(4):
        of_bot = [line for line in lines if line.startswith(f"bot-{bot_id} | ")]
        assert of_bot == [f"bot-{bot_id} | line {n} begins and ends" for n in range(3000)]
    assert len(lines) == 12_000


def test_a_line_comes_without_being_asked_for(stage: Stage) -> None:
    stage.read()
    stage.follower.follow(10, 0)
    stage.append(10, b"one\n")
    stage.wait_for_line("bot-10 | one")
    stage.append(10, b"two\n")
    stage.wait_for_line("bot-10 | two")


def test_a_label_stands_behind_the_number(stage: Stage) -> None:
    stage.read()
    stage.follower.follow(10, 0, "trader\nsupervisor | forged")
    stage.append(10, b"one\n")
    assert stage.finish() == [r"bot-10 trader\nsupervisor | forged | one"]


def test_following_begins_at_the_offset(stage: Stage) -> None:
    stage.read()
    stage.append(10, b"before\n")
    stage.follower.follow(10, logs.size(stage.path(10)))
    stage.append(10, b"after\n")
    assert stage.finish() == ["bot-10 | after"]


def test_the_words_of_a_crash_come_out_and_the_next_run_on_a_line_of_its_own(stage: Stage) -> None:
    stage.read()
    stage.follower.follow(10, 0)
    crash = stage.start_writer(10, "import os; os.write(1, b'last words'); os.kill(os.getpid(), 9)")
    assert crash.wait(20) == -9
    end = logs.size(stage.path(10))
    stage.follower.ended(10, end)
    stage.follower.follow(10, end)
    stage.append(10, b"again\n")
    assert stage.finish() == ["bot-10 | last words", "bot-10 | again"]


def test_a_line_of_fifty_megabytes_comes_in_pieces_that_can_be_told(stage: Stage) -> None:
    stage.read()
    stage.follower.follow(10, 0)
    writer = stage.start_writer(
        10, "import os\nfor _ in range(50): os.write(1, b'x' * 1_000_000)\nos.write(1, b'\\nend\\n')"
    )
    assert writer.wait(20) == 0
    lines = stage.finish()
    assert lines[-1] == "bot-10 | end"
    assert max(map(len, lines)) <= 64 * 1024 + len("bot-10 |  \\")
    shown = sum(line.count("x") for line in lines if "skipped" not in line)
    skipped = sum(float(line.split()[3]) for line in lines if "skipped" in line)
    assert shown / 1e6 + skipped == pytest.approx(50, abs=0.1 * len(lines))
    assert all(line.endswith(" \\") for line in lines[:-2] if "skipped" not in line)


def test_whatever_is_printed_no_line_lacks_its_prefix(stage: Stage) -> None:
    stage.read()
    stage.follower.follow(10, 0)
    program = r"""
import os
os.write(1, b"nul \0 bad \xff esc \x1b[2J\x1b[1;1H\xe2\x80\xaetxt.exe\n")
os.write(1, b"\rsupervisor | forged\n\x1b[Gsupervisor | forged\xc2\x85supervisor | forged\n\nbot-11 | forged\n")
os.write(1, os.urandom(1_000_000))
"""
    assert stage.start_writer(10, program).wait(20) == 0
    stage.follower.ended(10, logs.size(stage.path(10)))
    lines = stage.finish()
    assert lines[0] == r"bot-10 | nul \x00 bad \xff esc \x1b[2J\x1b[1;1H\u202etxt.exe"
    assert len(lines) > 1000
    assert all(line.startswith("bot-10 | ") for line in lines)


FLOOD = """
import os, time
block = b"".join(b"%08d 2024-04-06 21:29:35 INFO order filled at 17.23 EUR\\n" % n for n in range(1000))
began = time.monotonic()
for n in range(1, 81_000_000 // len(block)):
    os.write(1, block)
    time.sleep(max(0, began + n * len(block) / 100e6 - time.monotonic()))
os.write(1, b"the end\\n")
"""


def flood(stage: Stage, bot_id: int, program: str = FLOOD) -> int:
    """80 MB at 100 MB a second. Returns what the log took of the disk at most."""
    writer = stage.start_writer(bot_id, program)
    most_bytes = 0

    def is_over() -> bool:
        nonlocal most_bytes
        most_bytes = max(most_bytes, stage.allocated_bytes(bot_id))
        return writer.poll() is not None

    wait_for(is_over, limit_s=30)
    assert logs.size(stage.path(bot_id)) > 80_000_000
    return most_bytes


def test_a_flood_is_bounded_on_the_disk_and_what_is_skipped_is_said(stage: Stage) -> None:
    stage.read()
    stage.follower.follow(10, 0)
    assert flood(stage, 10) < 3 * LIMIT_BYTES
    lines = stage.finish()
    assert lines[-1] == "bot-10 | the end"
    whole = re.compile(r"bot-10 \| (\d{8} 2024-04-06 21:29:35 INFO order filled at 17\.23 EUR|the end)")
    skips = [line for line in lines if not whole.fullmatch(line)]
    assert skips
    assert all(re.fullmatch(r"bot-10 \| … \d+\.\d MB skipped", line) for line in skips)


def test_a_flood_of_what_is_slow_to_print_is_cheap(stage: Stage) -> None:
    stage.read()
    stage.follower.follow(10, 0)
    began = time.monotonic()
    flood(stage, 10, FLOOD.replace("os.write(1, block)", "os.write(1, bytes(len(block)))"))
    assert sum(time_on_a_core_ns()) < 0.2e9 * (time.monotonic() - began)


def test_a_flood_is_not_announced(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of the time: when the follower looks is when it is seen to be watching or not."""
    rested: list[bool] = []
    watches: set[inotify.Watch] = set()
    changed = inotify.Watch.changed

    def noted(watch: inotify.Watch) -> set[int] | None:
        rested.append(watch.rests)
        watches.add(watch)
        return changed(watch)

    monkeypatch.setattr(inotify.Watch, "changed", noted)
    stage.read()
    stage.follower.follow(10, 0)
    flood(stage, 10)
    assert rested.count(True) > len(rested) / 2
    # And when it is over, the next line is seen at once.
    [watch] = watches
    wait_for(lambda: not watch.rests)
    stage.append(10, b"quiet\n")
    stage.wait_for_line("bot-10 | quiet")


def test_a_flood_does_not_starve_the_others(stage: Stage) -> None:
    stage.read()
    stage.follower.follow(10, 0)
    stage.follower.follow(11, 0)
    writer = stage.start_writer(10, FLOOD.replace("81_000_000", "10_000_000_000"))
    wait_for(lambda: stage.lines)
    stage.append(11, b"quiet\n")
    stage.wait_for_line("bot-11 | quiet")
    assert writer.poll() is None


def test_a_console_that_nobody_reads_does_not_stop_the_bounding_and_loses_nothing_that_is_left(stage: Stage) -> None:
    stage.follower.follow(10, 0)
    stage.follower.follow(11, 0)
    assert flood(stage, 10) < 3 * LIMIT_BYTES
    wait_for(lambda: stage.allocated_bytes(10) <= LIMIT_BYTES)
    stage.append(11, b"quiet\n")
    assert not stage.follower.drain(0.01)
    stage.read()
    lines = stage.finish()
    assert "bot-11 | quiet" in lines
    assert [line for line in lines if line.startswith("bot-10 | ")][-1] == "bot-10 | the end"
    assert any("skipped" in line for line in lines)


def test_when_the_kernel_lost_count_all_logs_are_looked_at(stage: Stage) -> None:
    stage.read()
    stage.follower.follow(10, 0)
    asleep, awake = threading.Event(), threading.Event()

    def sleep() -> None:
        asleep.set()
        awake.wait(20)

    stage.follower._inbox.post(sleep)
    asleep.wait(20)
    overflow(stage.log_dir)
    stage.append(10, b"one\n")
    awake.set()
    stage.wait_for_line("bot-10 | one")


def overflow(log_dir: Path) -> None:
    """More changes than the kernel queues; it does not merge those of two files in turn."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    with logs.log_path(log_dir, 1).open("ab", buffering=0) as a, logs.log_path(log_dir, 2).open("ab", buffering=0) as b:
        for _ in range(limit // 2 + 1):
            a.write(b"\n")
            b.write(b"\n")


def test_the_kernel_names_the_logs_that_changed(tmp_path: Path) -> None:
    watch = inotify.Watch(tmp_path)
    try:
        assert watch.changed() == set()
        for name in ("7.log", "12345678901234567890.log", "8.log.old", "x.log"):
            (tmp_path / name).write_bytes(b"x")
        assert watch.changed() == {7, 12345678901234567890}
        assert watch.changed() == set()
        overflow(tmp_path)
        assert watch.changed() is None
        assert watch.changed() == set()
    finally:
        watch.close()


def test_a_watch_that_rests_is_told_of_nothing_and_then_knows_that(tmp_path: Path) -> None:
    watch = inotify.Watch(tmp_path)
    try:
        watch.rest()
        watch.rest()
        (tmp_path / "7.log").write_bytes(b"x")
        assert (watch.changed(), watch.rests) == (None, False)
        (tmp_path / "8.log").write_bytes(b"x")
        assert watch.changed() == {8}
        watch.rest()
        tmp_path.rename(tmp_path.with_name("elsewhere"))
        # It cannot watch again, and asks again to look at all.
        for _ in range(2):
            assert (watch.changed(), watch.rests) == (None, True)
    finally:
        watch.close()


@pytest.mark.parametrize("how", ["deleted", "moved away"])
def test_a_directory_that_was_made_again_is_followed(tmp_path: Path, how: str) -> None:
    """Bots make it when they find it missing. What they print then is printed, and their logs are bounded."""
    log_dir = tmp_path / "logs"
    log_dir.mkdir()
    stage = Stage(log_dir)
    try:
        stage.read()
        stage.append(10, b"one\n")
        stage.follower.follow(10, 0)
        stage.wait_for_line("bot-10 | one")
        if how == "deleted":
            shutil.rmtree(log_dir)
        else:
            log_dir.rename(tmp_path / "elsewhere")
        log_dir.mkdir()
        stage.follower.follow(11, 0)
        stage.append(11, b"two\n")
        stage.wait_for_line("bot-11 | two")
        stage.append(11, b"three\n")
        stage.wait_for_line("bot-11 | three")
    finally:
        stage.close()


def test_a_watch_goes_on_in_the_directory_that_takes_the_place_of_the_first(tmp_path: Path) -> None:
    log_dir = tmp_path / "logs"
    log_dir.mkdir()
    watch = inotify.Watch(log_dir)
    try:
        with (log_dir / "6.log").open("wb"):
            shutil.rmtree(log_dir)
            assert watch.changed() is None
            watch.rest()
            assert (watch.changed(), watch.rests) == (None, True)
            log_dir.mkdir()
            assert (watch.changed(), watch.rests) == (None, False)
            (log_dir / "7.log").write_bytes(b"x")
            assert watch.changed() == {7}
            (tmp_path / "other").mkdir()
            assert watch.changed() == set()
    finally:
        watch.close()


def test_without_a_watch_the_logs_are_looked_at_from_time_to_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def cannot(log_dir: Path) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(inotify, "Watch", cannot)
    stage = Stage(tmp_path)
    try:
        stage.read()
        stage.follower.follow(10, 0)
        stage.append(10, b"one\n")
        stage.wait_for_line("bot-10 | one")
    finally:
        stage.close()
    assert "cannot watch the logs" in caplog.text


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        inotify.Watch(tmp_path / "nowhere")


def test_a_log_that_cannot_be_read_is_said_once_and_the_others_go_on(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.read()
    stage.path(10).mkdir()
    with caplog.at_level(logging.WARNING):
        stage.follower.follow(10, 0)
        stage.follower.follow(11, 0)
        stage.append(11, b"one\n")
        stage.follower.ended(10, 0)
        stage.wait_for_line("bot-11 | one")
        assert stage.follower.drain(10)
    assert [record.getMessage() for record in caplog.records] == ["cannot follow the log of bot 10: Is a directory"]
    stage.path(10).rmdir()
    stage.append(10, b"well again\n")
    stage.wait_for_line("bot-10 | well again")


def test_an_error_while_reading_is_said_once_and_overcome(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(fd: int, length: int, offset: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    stage.read()
    stage.follower.follow(10, 0)
    with monkeypatch.context() as context:
        context.setattr(os, "pread", broken)
        stage.append(10, b"one\n")
        assert stage.follower.drain(10)
    stage.append(10, b"two\n")
    assert stage.finish() == ["bot-10 | one", "bot-10 | two"]
    assert [record.getMessage() for record in caplog.records] == ["cannot follow the log of bot 10: Input/output error"]


def test_what_is_forgotten_is_printed_first_and_then_no_more(stage: Stage) -> None:
    stage.read()
    stage.follower.follow(10, 0)
    stage.follower.follow(11, 0)
    stage.append(10, b"one\n")
    stage.append(11, b"one\nlast words")
    stage.follower.forget(10)
    stage.follower.ended(11, logs.size(stage.path(11)))
    stage.follower.forget(11, delete=True)
    assert stage.follower.drain(10)
    stage.append(10, b"two\n")
    assert stage.path(10).exists()
    assert not stage.path(11).exists()
    assert stage.finish() == ["bot-10 | one", "bot-11 | one", "bot-11 | last words"]


def test_what_is_left_is_printed_to_its_end_and_then_no_more_until_the_next_run(stage: Stage) -> None:
    def transcripts() -> int:
        return sum(isinstance(kept, Transcript) for kept in gc.get_objects())

    gc.collect()
    others = transcripts()
    lines = [f"{n} {'x' * 90}" for n in range(20_000)]
    stage.append(10, "".join(f"{line}\n" for line in lines).encode() + b"last words")
    stage.follower.follow(10, 0)
    stage.follower.ended(10, logs.size(stage.path(10)))
    stage.follower.leave(10)
    # More than the console takes before somebody reads it.
    stage.read()
    stage.wait_for_line("bot-10 | last words")
    assert stage.follower.drain(10)
    stage.append(10, b"nobody's\n")
    assert stage.follower.drain(10)
    assert transcripts() <= others
    stage.follower.follow(10, logs.size(stage.path(10)))
    stage.append(10, b"again\n")
    assert stage.finish() == [f"bot-10 | {line}" for line in (*lines, "last words", "again")]


def test_commands_for_a_bot_that_is_not_followed_are_no_harm(stage: Stage) -> None:
    stage.read()
    stage.append(10, b"one\n")
    stage.follower.ended(10, 0)
    stage.follower.leave(10)
    stage.follower.forget(11, delete=True)
    stage.follower.forget(10, delete=True)
    assert stage.finish() == []
    assert not stage.path(10).exists()
    stage.follower.follow(10, 0)  # after the end nobody hears it


def test_silent_bots_cost_nothing(stage: Stage) -> None:
    stage.read()
    for bot_id in range(100):
        stage.append(bot_id, b"one\nunfinished")
        stage.follower.follow(bot_id, 0)
    assert stage.follower.drain(10)
    wait_for(lambda: len(stage.lines) == 100)
    wait_for(threads_are_asleep)


def test_a_console_that_nobody_reads_costs_nothing(stage: Stage) -> None:
    for bot_id in range(10):
        stage.append(bot_id, b"x" * 63 + b"\n" + bytes(1_000_000))
        stage.follower.follow(bot_id, 0)
    assert not stage.follower.drain(1)
    wait_for(threads_are_asleep)


def time_on_a_core_ns() -> list[int]:
    """Of the follower and of the console, to the nanosecond."""
    threads = [thread.native_id for thread in threading.enumerate() if thread.name in ("logs", "console")]
    assert len(threads) == 2
    return [int(Path(f"/proc/self/task/{thread}/schedstat").read_text().split()[0]) for thread in threads]


def threads_are_asleep() -> bool:
    before = time_on_a_core_ns()
    subprocess.run(["sleep", "0.3"], check=True)  # three times as long as changes are gathered
    return before == time_on_a_core_ns()


def test_many_small_changes_are_gathered(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    changed = inotify.Watch.changed

    def counted(watch: inotify.Watch) -> set[int] | None:
        nonlocal looks
        looks += 1
        return changed(watch)

    monkeypatch.setattr(inotify.Watch, "changed", counted)
    stage.read()
    stage.follower.follow(10, 0)
    program = "import os, time\nfor n in range(500): os.write(1, b'%d\\n' % n); time.sleep(0.001)"
    assert stage.start_writer(10, program).wait(20) == 0
    assert stage.finish() == [f"bot-10 | {n}" for n in range(500)]
    assert looks < 100


def test_logs_with_much_to_print_take_turns(stage: Stage) -> None:
    stage.read()
    for bot_id in range(3):
        stage.append(bot_id, (bytes(99) + b"\n") * 20_000)
        stage.follower.follow(bot_id, 0)
    lines = [line.split(" ")[0] for line in stage.finish()]
    assert len(lines) == 60_000
    assert lines.index("bot-2") < 20_000


class HastyConsole(logs.Console):
    """Refuses the first write, and has room before the refusal has come through."""

    refused = False

    def write(self, data: bytes) -> bool:
        if self.refused:
            return super().write(data)
        self.refused = True
        assert self.on_room is not None
        self.on_room()
        return False


def test_room_that_comes_early_is_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "Console", HastyConsole)
    stage = Stage(tmp_path)
    try:
        stage.read()
        stage.follower.follow(10, 0)
        stage.append(10, b"one\n")
        stage.wait_for_line("bot-10 | one")
    finally:
        stage.close()
