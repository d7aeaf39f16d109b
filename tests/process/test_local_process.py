"""One process of the local engine, without zygote: what its verbs do when no descriptor is left."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from botproc import kernel
from supervisor.core import errors
from supervisor.core.model import Exit, Identity, now_us
from supervisor.engine import pidfd
from supervisor.engine.process import LocalProcess
from supervisor.logs.bot_logs import Output
from tests.process.benches import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


class Shortage:
    """No pidfd can be opened while it lasts. `tries` counts how often that was tried."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.lasts = True
        self.tries = 0
        self._open = pidfd.open_process
        patch.setattr(pidfd, "open_process", self._try)

    def _try(self, identity: Identity) -> int | None:
        if self.lasts:
            self.tries += 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return self._open(identity)


@pytest.fixture
def shortage(monkeypatch: pytest.MonkeyPatch) -> Shortage:
    return Shortage(monkeypatch)


def process_of(child: subprocess.Popen[bytes], directory: Path) -> LocalProcess:
    identity = Identity(
        pid=child.pid,
        start_ticks=kernel.start_ticks(child.pid),
        inode=kernel.pidfd_inode(child.pid),
        boot_id=pidfd.boot_id(),
    )
    output = Output(directory / "1.log", 0, lambda _: None)
    return LocalProcess(1, 1, identity, directory / "1.lock", output, lambda _: None)


def ended(process: LocalProcess) -> None:
    process.ended(Exit(exit_code=None, signal=9, ended_at=now_us(), cpu_seconds=None, max_rss_bytes=None))


async def test_the_latest_who_asked_is_told_of_the_end(
    child: subprocess.Popen[bytes], shortage: Shortage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its zygote asked first, and could not be served; then the zygote died, and the reaper waits for the end."""
    monkeypatch.setattr("supervisor.engine.process.RETRY_S", 0.0)
    process = process_of(child, tmp_path)
    told: list[str] = []
    process.when_over(lambda: told.append("the zygote's watchdog"))
    tries = shortage.tries
    await until(lambda: shortage.tries > tries)
    shortage.lasts = False
    process.when_over(lambda: told.append("the reaper"))
    # Behind the try that is put off.
    tried = asyncio.Event()
    asyncio.get_running_loop().call_later(0.0, tried.set)
    await tried.wait()
    process.kill()
    await until(lambda: told)
    assert told == ["the reaper"]
    assert process.over
    ended(process)


async def test_a_signal_that_cannot_be_sent_is_an_answer(
    child: subprocess.Popen[bytes], shortage: Shortage, tmp_path: Path
) -> None:
    process = process_of(child, tmp_path)
    with pytest.raises(errors.Unavailable, match=r"cannot signal bot 1, pid .*: Too many open files"):
        process.signal(10)
    shortage.lasts = False
    process.signal(10)
    assert child.wait() == -10
    with pytest.raises(ProcessLookupError):
        process.signal(10)
    ended(process)
