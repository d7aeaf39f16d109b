"""The database cannot be written: locked from outside, or on a full disk. An outage of the ledger, not of the bots."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path

import psutil
import pytest

from tests.faults.observe import end, last_end, ready
from tests.program import Program
from tests.waiting import wait_for

Make = Callable[..., Program]


@contextlib.contextmanager
def locked(program: Program) -> Iterator[None]:
    """Another program holds the lock on the ledger that a write needs."""
    path = program.data_dir / "ledger.sqlite3"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=5)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def test_a_short_lock_is_waited_for(program: Program, pool: Executor) -> None:
    bot_id = program.start_bot()
    pid = ready(program, bot_id)
    with locked(program):
        began = time.monotonic()
        started = pool.submit(program.start_bot)
        # Reads and the kernel's news do not wait for it.
        end(psutil.Process(pid), signal.SIGKILL)
        wait_for(lambda: program.bot(bot_id)["restarts"] == 1, what="it was started again")
        assert time.monotonic() - began < 4
    ready(program, started.result(10))
    ready(program, bot_id)


def test_a_long_lock_is_an_outage_of_the_ledger_alone(program: Program) -> None:
    """Nothing new is started, everything can be stopped, and what happened is written when it can be, in order."""
    killed, stopped, lives = (program.start_bot() for _ in range(3))
    pids = {bot_id: ready(program, bot_id) for bot_id in (killed, stopped, lives)}
    with locked(program):
        refused = program.post("/start")
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert "database is locked" in refused.json()["detail"]
        assert program.get("/readyz").status_code == 503
        assert program.get("/livez").status_code == 200
        assert "bot_supervisor_ledger_outage 1.0" in program.get("/metrics").text
        end(psutil.Process(pids[killed]), signal.SIGKILL)
        program.post(f"/bots/{stopped}/stop?wait=0")
        wait_for(lambda: not psutil.pid_exists(pids[stopped]), 5, "it is stopped all the same")
        began = time.monotonic()
        assert program.bot(lives)["pid"] == pids[lives]
        assert program.get("/bots?state=all").status_code == program.get("/bots_history").status_code == 200
        assert time.monotonic() - began < 4, "no read waits for the lock"
        assert [row[0] for row in program.ledger("SELECT cause FROM run WHERE cause IS NOT NULL")] == []
    wait_for(lambda: program.get("/readyz").status_code == 200, 5, "the outage is over")
    assert last_end(program, stopped) == ("stopped", 0, None)
    wait_for(lambda: program.runs(killed)[0]["signal"] == "SIGKILL", 5, "the exit that was kept is written")
    ready(program, killed)
    ready(program, program.start_bot())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Program]:
    """A running program whose data directory is a file system of 2 MiB. What must hold is checked before that goes."""
    program = Program(tmp_path)
    program.data_dir.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(program.data_dir)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    try:
        yield program.start()
        program.check_invariants()
        assert program.terminate() == 0
        program.check_invariants()
    finally:
        program.close()
        subprocess.run(["umount", "--lazy", str(program.data_dir)], check=True)


def test_a_full_disk(small_disk: Program) -> None:
    program = small_disk
    stopped, killed, lives = (program.start_bot() for _ in range(3))
    pids = {bot_id: ready(program, bot_id) for bot_id in (stopped, killed, lives)}
    ballast = program.data_dir / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as out:
        while True:
            out.write(bytes(512))
    answers = []

    def refused() -> bool:
        """Some more find room in what the database has taken of the disk already."""
        answers.append(program.post("/start"))
        return answers[-1].status_code == 503

    wait_for(refused, 20, "a start is refused")
    assert "full" in answers[-1].json()["detail"]
    assert int(answers[-1].headers["Retry-After"]) >= 1
    # Before its process was forked. Of the others the last may not be seen to write to its log yet.
    wait_for(lambda: len(program.processes()) >= len(pids) + len(answers) - 1)
    assert len(program.processes()) == len(pids) + len(answers) - 1
    end(psutil.Process(pids[killed]), signal.SIGKILL)
    program.post(f"/bots/{stopped}/stop?wait=0")
    wait_for(lambda: not psutil.pid_exists(pids[stopped]), 5, "it is stopped all the same")
    assert program.bot(lives)["pid"] == pids[lives]

    ballast.unlink()
    wait_for(lambda: program.get("/readyz").status_code == 200, 5, "the outage is over")
    assert last_end(program, stopped) == ("stopped", 0, None)
    wait_for(lambda: program.runs(killed)[0]["signal"] == "SIGKILL", 5, "the exit that was kept is written")
    ready(program, killed)
    ready(program, program.start_bot())


@pytest.mark.parametrize("how", ["moved", "replaced"])
def test_a_ledger_that_is_not_at_its_path_is_an_outage(program: Program, how: str) -> None:
    """It would be written to all the same, and that be gone after the next death. Bots do not notice."""
    stopped, lives = program.start_bot(), program.start_bot()
    pids = {bot_id: ready(program, bot_id) for bot_id in (stopped, lives)}
    ledger, aside = program.data_dir / "ledger.sqlite3", program.directory / "aside"
    ledger.rename(aside)
    if how == "replaced":
        shutil.copy(aside, ledger)
    not_ready, refused = program.get("/readyz"), program.post("/start")
    assert not_ready.status_code == refused.status_code == 503
    for answer in (not_ready, refused):
        assert f"{ledger} was {how}" in answer.json()["detail"]
    program.post(f"/bots/{stopped}/stop?wait=0")
    wait_for(lambda: not psutil.pid_exists(pids[stopped]), 5, "it is stopped all the same")
    assert program.get("/livez").status_code == 200
    assert program.bot(lives)["pid"] == pids[lives]
    aside.rename(ledger)
    wait_for(lambda: program.get("/readyz").status_code == 200, 5, "the outage is over")
    assert last_end(program, stopped) == ("stopped", 0, None)
    ready(program, program.start_bot())
    program.kill()
    program.start()
    assert ready(program, lives) == pids[lives]
    assert program.ledger("SELECT count(*) FROM bot")[0][0] == 3


def test_no_bot_that_was_answered_goes_with_a_lost_write_ahead_log(program: Program) -> None:
    first = program.start_bot()
    pid = ready(program, first)
    # A fact that is still to be written would have what is lost saved at once.
    settled = "bot_supervisor_ledger_queue_length 0.0"
    wait_for(lambda: settled in program.get("/metrics").text and program.bot(first)["state"] == "running")
    (program.data_dir / "ledger.sqlite3-wal").unlink()
    not_ready = program.get("/readyz")
    assert not_ready.status_code == 503
    assert "ledger.sqlite3-wal was" in not_ready.json()["detail"]
    assert program.post("/start").status_code == 503
    wait_for(lambda: program.get("/readyz").status_code == 200, 5, "what was in it is saved")
    second = program.start_bot()
    program.kill()
    program.start()
    assert ready(program, first) == pid
    assert ready(program, second)
