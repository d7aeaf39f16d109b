"""The floors: what starting a process costs with nobody to manage it."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import floor
from benchmarks.peers import peer
from benchmarks.peers.peer import Listed, Session


class _Processes:
    """The bots of a session by their numbers: nobody else keeps a list of them."""

    def __init__(self) -> None:
        self._pids: dict[int, int] = {}
        self._next = 1

    def _numbers(self, count: int) -> list[int]:
        """The numbers of so many that are about to be made."""
        self._next += count
        return list(range(self._next - count, self._next))

    def listing(self) -> list[Listed]:
        return [Listed(number=number, pid=pid) for number, pid in self._pids.items()]


class Fork:
    """A warm process that forks the same bot: see `benchmarks.floor`."""

    name = "fork"
    lists = ""
    restarts = False

    def install(self) -> None:
        """It is the operating system's."""

    def version(self) -> str:
        return f"Linux {platform.release()}"

    @contextlib.contextmanager
    def running(self, kind: str, capacity: int) -> Iterator[Session]:
        with tempfile.TemporaryDirectory(prefix="benchmark-fork-") as name:
            bare = floor.Floor(Path(name), "benchmarks.floor", kind)
            try:
                yield _Forks(bare, Path(name))
            finally:
                bare.close()


class _Forks(_Processes):
    def __init__(self, bare: floor.Floor, directory: Path) -> None:
        super().__init__()
        self.root_pid = bare.pid
        self.first_lines = bare.first_lines
        self._bare = bare
        self._directory = directory

    def start(self, count: int) -> list[int]:
        numbers = self._numbers(count)
        self._pids |= zip(numbers, self._bare.fork(count)[1], strict=True)
        return numbers

    def stop(self, numbers: Sequence[int]) -> None:
        self._bare.end(*(self._pids.pop(number) for number in numbers))

    def log(self, number: int) -> Path:
        return self._directory / f"{number}.log"

    def report(self, number: int) -> Path:
        return self._directory / f"{number}.json"


class Spawn:
    """`posix_spawn` of `sleep`, by the measuring process. It prints nothing: that it is spawned counts as its line."""

    name = "posix_spawn"
    lists = ""
    restarts = False

    def install(self) -> None:
        """It is the operating system's."""

    def version(self) -> str:
        return f"Linux {platform.release()}"

    @contextlib.contextmanager
    def running(self, kind: str, capacity: int) -> Iterator[Session]:
        if kind != "light":
            raise peer.NotMeasured("sleep is a bot of one kind")
        with tempfile.TemporaryDirectory(prefix="benchmark-spawn-") as name:
            logs = peer.Logs(Path(name))
            running = _Spawned(logs)
            try:
                yield running
            finally:
                running.stop([bot.number for bot in running.listing()])
                logs.first_lines.close()


class _Spawned(_Processes):
    def __init__(self, logs: peer.Logs) -> None:
        super().__init__()
        self.root_pid = os.getpid()
        self.first_lines = logs.first_lines
        self.log = logs.log
        self.report = logs.report

    def start(self, count: int) -> list[int]:
        numbers = self._numbers(count)
        for number in numbers:
            self._pids[number] = os.posix_spawn("/bin/sleep", ["sleep", "3600"], os.environ)
            self.log(number).write_text("0\n")
        return numbers

    def stop(self, numbers: Sequence[int]) -> None:
        pids = [self._pids.pop(number) for number in numbers]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)
