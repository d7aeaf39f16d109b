"""What is asked of each that is compared, ours included."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from benchmarks import lines
from benchmarks.peers.environment import ROOT, VARIABLES

LIMIT_S = 60.0


class NotMeasured(Exception):
    """A measure that one of them has no part in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A live bot, as a listing shows it. CPU and memory are None where the listing has neither."""

    number: int
    pid: int
    cpu_percent: float | None = None
    rss_bytes: int | None = None


class Session(Protocol):
    """A manager that runs, with no bots at first. Bots have numbers, and a number's log is `<number>.log`."""

    @property
    def first_lines(self) -> lines.FirstLines: ...

    @property
    def root_pid(self) -> int:
        """The manager's process. All other processes of its own, and all bots, descend from it."""

    def start(self, count: int) -> list[int]:
        """Asks for `count` more bots, in the fastest way that its API has; their numbers. Need not wait for them."""

    def listing(self) -> list[Listed]:
        """The live bots."""

    def stop(self, numbers: Sequence[int]) -> None:
        """Asks that these end, for good. Need not wait for it."""

    def log(self, number: int) -> Path:
        """Where the bot's lines are."""

    def report(self, number: int) -> Path:
        """The file into which a bot of the kind `flood` writes what it has printed."""


class Peer(Protocol):
    """One that is compared."""

    @property
    def name(self) -> str: ...

    @property
    def lists(self) -> str:
        """What its listing shows; empty where it has none."""

    @property
    def restarts(self) -> bool:
        """Whether it starts a bot again that was killed."""

    def install(self) -> None:
        """Installs it into an environment of its own. Raises Unavailable."""

    def version(self) -> str:
        """What is installed. Raises Unavailable."""

    def running(self, kind: str, capacity: int) -> AbstractContextManager[Session]:
        """Runs it for bots of a kind of `benchmarks.bots`, at most `capacity` of them at the same time."""


def command(kind: str, report: Path) -> list[str]:
    """A bot as a program."""
    return [sys.executable, str(ROOT / "benchmarks" / "bots.py"), kind, str(report)]


def tree(root_pid: int) -> list[psutil.Process]:
    """A process and all its descendants."""
    root = psutil.Process(root_pid)
    return [root, *root.children(recursive=True)]


def wait_until(predicate: Callable[[], Any], what: str) -> None:
    """Raises TimeoutError."""
    deadline = time.monotonic() + LIMIT_S
    while not predicate():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {LIMIT_S:g} s: {what}")
        time.sleep(0.01)


def end(root_pid: int) -> None:
    """Kills what is left of a manager and of its bots, and waits until it is gone."""
    try:
        left = tree(root_pid)
    except psutil.NoSuchProcess:
        return
    kill(left)


def kill(processes: Sequence[psutil.Process]) -> None:
    """From the manager down, so that none starts another."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=LIMIT_S)


class Logs:
    """A directory in which bots have their logs and reports."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.first_lines = lines.FirstLines(directory)

    def log(self, number: int) -> Path:
        return self.directory / f"{number}.log"

    def report(self, number: int) -> Path:
        return self.directory / f"{number}.json"


class Client:
    """A peer's own client library, in a process of its own: one line of JSON asks, one answers."""

    def __init__(self, *arguments: str, **variables: str) -> None:
        self._process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=VARIABLES | variables,
        )

    def ask(self, verb: str, **fields: Any) -> Any:
        """Raises RuntimeError with what went wrong, TimeoutError."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"verb": verb, **fields}) + "\n")
        if not select.select([self._process.stdout], [], [], lines.LIMIT_S)[0]:
            self._process.kill()
            raise TimeoutError(f"{verb} was not answered within {lines.LIMIT_S:g} s")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the client has ended with {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["answer"]

    def close(self) -> None:
        self._process.communicate()


class Told:
    """A session that its own client library drives, told the verbs `start`, `stop` and `list`."""

    def __init__(self, pid: int, client: Client, kind: str, logs: Logs) -> None:
        self.root_pid = pid
        self.first_lines = logs.first_lines
        self.log = logs.log
        self.report = logs.report
        self._client = client
        self._kind = kind
        self._next = 1

    def start(self, count: int) -> list[int]:
        numbers = list(range(self._next, self._next + count))
        self._next += count
        bots = [
            {
                "name": str(number),
                "log": str(self.log(number)),
                "command": command(self._kind, self.report(number)),
            }
            for number in numbers
        ]
        self._client.ask("start", bots=bots)
        return numbers

    def stop(self, numbers: Sequence[int]) -> None:
        self._client.ask("stop", names=[str(number) for number in numbers])

    def listing(self) -> list[Listed]:
        return [Listed(**bot) for bot in self._client.ask("list")]
