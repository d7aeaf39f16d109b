"""Each system call of a start and of an end fails once: the first, the second, … until there is no more to fail.

As SQLite tests what becomes of it when memory is short. What the zygote and the bot call is not among it; of what the
supervisor calls, all that can be out of descriptors.
"""

from __future__ import annotations

import asyncio
import builtins
import dataclasses
import errno
import fcntl
import io
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from supervisor.core import errors
from supervisor.core.model import Exit, Limits
from supervisor.engine.protocol import Process
from tests.process.benches import LocalBench, until

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
OURS = (str(ROOT / "supervisor"), str(ROOT / "botproc"))
_DEPTH = 8
"""How far above a call it is looked for our own code: pathlib and psutil are below it, asyncio and pytest are not."""

CALLS: list[tuple[Any, str]] = [
    (builtins, "open"),
    (io, "open"),
    (fcntl, "flock"),
    (fcntl, "ioctl"),
    (signal, "pidfd_send_signal"),
    *((os, name) for name in ("open", "pipe", "pidfd_open", "read", "pread", "fstat", "stat", "lstat", "mkdir")),
    *((os, name) for name in ("unlink", "rmdir", "listdir", "scandir", "access", "readlink")),
]


class Faults:
    """The calls of `CALLS` that our code makes in this thread are counted, and one of them fails."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.failed = ""
        self._left: int | None = None
        self._thread = threading.get_ident()
        for module, name in CALLS:
            patch.setattr(module, name, self._failing(name, getattr(module, name)))

    def fail(self, number: int) -> None:
        """The call of this number, counted from 1 and from now on, fails."""
        self.failed = ""
        self._left = number

    def stop(self) -> str:
        """No call fails any more. Returns the name of the one that has."""
        self._left = None
        return self.failed

    def _failing(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            if self._left is not None and threading.get_ident() == self._thread and (ours := _ours()):
                self._left -= 1
                if self._left == 0:
                    self.failed = f"{name} in {ours}"
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return call(*args, **kwargs)

        return called


def _ours() -> str:
    """The line of our own code that makes this call; empty if it is none of ours."""
    frame = sys._getframe(2)
    for _ in range(_DEPTH):
        if frame.f_code.co_filename.startswith(OURS):
            return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        if frame.f_back is None:
            break
        frame = frame.f_back
    return ""


@pytest.fixture
def faults() -> Iterator[Faults]:
    with pytest.MonkeyPatch.context() as patch:
        yield Faults(patch)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[LocalBench]:
    made = await LocalBench(tmp_path).open()
    try:
        yield made
    finally:
        await made.close()


def bots_of(bench: LocalBench, kind: str) -> set[int]:
    pid = bench.engine.kind_status(kind).pid
    return {child.pid for child in psutil.Process(pid).children()}


async def test_a_start_is_answered_and_makes_nothing_by_half(bench: LocalBench, faults: Faults) -> None:
    seen = []
    for number in range(1, 100):
        await bench.engine.warm("sleeps")
        order = dataclasses.replace(bench.order("sleeps", number), limits=Limits(pids=100))
        faults.fail(number)
        process: Process | None = None
        try:
            async with asyncio.timeout(10):
                process = await bench.spawn(order)
        except errors.SpawnFailed:
            pass
        where = faults.stop()
        assert bots_of(bench, "sleeps") == ({process.identity.pid} if process else set()), where
        if process is not None:
            process.kill()
            async with asyncio.timeout(10):
                assert (await process.sweep()).signal == signal.SIGKILL, where
            process.acknowledge()
        bench.engine.forget(number)
        if not where:
            break
        seen.append(where)
    else:
        pytest.fail("there is always one more")
    assert [where for where in seen if where.startswith("pipe")], seen
    assert [where for where in seen if where.startswith("pidfd_open")], seen


async def ended(process: Process) -> Exit:
    async with asyncio.timeout(10):
        await process.wait()
        return await process.sweep()


@pytest.mark.parametrize("verb", ["terminate", "kill", "by itself"])
async def test_no_end_is_lost(bench: LocalBench, faults: Faults, verb: str) -> None:
    for number in range(1, 100):
        process = await bench.start("sleeps", number)
        await until(lambda: bench.notes and bench.notes[-1][0] == number)  # noqa: B023
        faults.fail(number)
        process.dump()
        match verb:
            case "terminate":
                process.terminate()
            case "kill":
                process.kill()
            case _:
                os.kill(process.identity.pid, signal.SIGABRT)
        exit_ = await ended(process)
        process.acknowledge()
        bench.engine.forget(number)
        where = faults.stop()
        expected = {"terminate": (0, None), "kill": (None, signal.SIGKILL)}.get(verb, (None, signal.SIGABRT))
        assert (exit_.exit_code, exit_.signal) == expected, where
        bench.engine.forget(number)
        if not where:
            break
        assert bots_of(bench, "sleeps") == set(), where
    else:
        pytest.fail("there is always one more")
    assert number > 3


async def test_no_end_of_an_orphan_is_lost(bench: LocalBench, faults: Faults) -> None:
    for number in range(1, 100):
        process = await bench.start("sleeps", number)
        await until(lambda: bench.notes and bench.notes[-1][0] == number)  # noqa: B023
        zygote = bench.engine.kind_status("sleeps").pid
        assert zygote is not None
        faults.fail(number)
        os.kill(zygote, signal.SIGKILL)
        await until(lambda: psutil.Process(process.identity.pid).ppid() == os.getpid())  # noqa: B023
        process.kill()
        exit_ = await ended(process)
        where = faults.stop()
        assert exit_.signal == signal.SIGKILL, where
        process.acknowledge()
        bench.engine.forget(number)
        if not where:
            break
    else:
        pytest.fail("there is always one more")
    assert number > 3
