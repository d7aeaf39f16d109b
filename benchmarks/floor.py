"""The floor: a warm, single-threaded process that does nothing but fork the same bot.

No supervisor, no HTTP, no ledger, no multiprocessing, no session, no lock. The child opens its log with O_APPEND as its
stdout and runs the bot. The time begins right before the first fork, in the forking process, and ends as ours does:
when the benchmark sees the line in the file.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from benchmarks import bots
from benchmarks.lines import FirstLines


class Floor:
    """The forking process, or another that starts the same bots in its own way, driven over pipes."""

    def __init__(self, log_dir: Path, *starter: str) -> None:
        """`starter`: the module and its arguments before the directory."""
        self.first_lines = FirstLines(log_dir)
        self._next = 1
        self._process = subprocess.Popen(
            [sys.executable, "-m", *(starter or ["benchmarks.floor", "light"]), str(log_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._ask("end")  # It is up, and warm.

    def start(self, count: int = 1) -> tuple[float, list[int]]:
        """Forks `count` bots, one right after the other. Seconds until the last first line, and their pids."""
        begin, pids = self.fork(count)
        return self.first_lines.wait(count) - begin, pids

    def fork(self, count: int) -> tuple[float, list[int]]:
        """The same without waiting. The time at which it began (`time.monotonic()`), and their pids."""
        begin, *pids = self._ask(f"fork {self._next} {count}")
        self._next += count
        return begin / 1e9, pids

    def end(self, *pids: int) -> None:
        """Kills and reaps these bots; all of them when none is named."""
        self._ask(" ".join(map(str, ("end", *pids))))

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        self.end()
        self._process.communicate()
        self.first_lines.close()

    def _ask(self, command: str) -> list[int]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(command + "\n")
        return [int(word) for word in self._process.stdout.readline().split()]


@contextlib.contextmanager
def running(*starter: str) -> Iterator[Floor]:
    """A floor with a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="benchmark-floor-") as directory:
        floor = Floor(Path(directory), *starter)
        try:
            yield floor
        finally:
            floor.close()


def main(kind: str, log_dir: str) -> None:
    """The life of the forking process."""
    sys.stdout.reconfigure(line_buffering=True, write_through=False)  # type: ignore[union-attr]
    bot = bots.bot(kind)
    gc.collect()
    gc.freeze()
    pids: list[int] = []
    for command in sys.stdin:
        match command.split():
            case ["fork", first, count]:
                begin = time.monotonic_ns()
                made = [_fork(bot, f"{log_dir}/{int(first) + n}") for n in range(int(count))]
                pids += made
                print(begin, *made)
            case ["end", *named]:
                ended = {int(pid) for pid in named} or set(pids)
                _end(ended)
                pids = [pid for pid in pids if pid not in ended]
                print()


def _fork(bot: Callable[[str], None], path: str) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open(f"{path}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), 1)
            bot(f"{path}.json")
        finally:
            os._exit(1)
    return pid


def _end(pids: Collection[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
