"""The floor: a warm, single-threaded process that does nothing but fork the same bot.

No supervisor, no HTTP, no ledger, no multiprocessing, no session, no lock. The child opens its log with O_APPEND as its
stdout and runs `botproc.counter.main`. The time begins right before the first fork, in the forking process, and
ends as ours does: when the benchmark sees the line in the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.lines import FirstLines
from botproc import counter


class Floor:
    """The forking process, or another that starts the same bots in its own way, driven over pipes."""

    def __init__(self, log_dir: Path, *starter: str) -> None:
        """`starter`: the module and its arguments before the directory."""
        self.first_lines = FirstLines(log_dir)
        self._next = 1
        self._process = subprocess.Popen(
            [sys.executable, "-m", *(starter or ["benchmarks.floor"]), str(log_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._ask("end")  # It is up, and warm.

    def start(self, count: int = 1) -> tuple[float, list[int]]:
        """Forks `count` bots, one right after the other. Seconds until the last first line, and their pids."""
        begin, *pids = self._ask(f"fork {self._next} {count}")
        self._next += count
        return self.first_lines.wait(count) - begin / 1e9, pids

    def end(self) -> None:
        """Kills and reaps all bots."""
        self._ask("end")

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


def main(log_dir: str) -> None:
    """The life of the forking process."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    gc.collect()
    gc.freeze()
    pids: list[int] = []
    for command in sys.stdin:
        match command.split():
            case ["fork", first, count]:
                begin = time.monotonic_ns()
                made = [_fork(f"{log_dir}/{int(first) + n}.log") for n in range(int(count))]
                pids += made
                print(begin, *made)
            case ["end"]:
                _end(pids)
                pids.clear()
                print()


def _fork(log_path: str) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), 1)
            asyncio.run(counter.main(start_number=0))
        finally:
            os._exit(1)
    return pid


def _end(pids: Sequence[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main(sys.argv[1])
