"""`bot-supervisor check`: what it says of data directories in all states, and that it changes none of them."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from supervisor.store import migrations
from tests.faults.observe import ready, warm_zygote
from tests.program import Program
from tests.waiting import wait_for

Make = Callable[..., Program]


def check(data_dir: Path) -> tuple[int, list[str]]:
    """Runs it, as a user would; its exit code, and its lines. Nothing on the disk changes by that."""
    before = contents(data_dir)
    command = [sys.executable, "-m", "supervisor", "check", "--data-dir", str(data_dir)]
    env = {k: v for k, v in os.environ.items() if not k.startswith("BOT_SUPERVISOR_")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=env)
    assert done.stderr == ""
    assert contents(data_dir) == before
    lines = done.stdout.splitlines()
    assert done.returncode == any(": wrong: " in line for line in lines)
    assert all(line.split(": ")[1] in ("ok", "wrong") for line in lines)
    return done.returncode, lines


def contents(data_dir: Path) -> Mapping[str, Any]:
    """Each file with its time and content; but for the -shm, in which SQLite has its locks, and the logs of bots."""
    found = [path for path in data_dir.rglob("*") if path.suffix not in (".log", ".sqlite3-shm")]
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes()) if path.is_file() else None
        for path in found
        if path.name != "run"
    }


def wrong(lines: list[str]) -> list[str]:
    return [line for line in lines if ": wrong: " in line]


def of(what: str, lines: list[str]) -> str:
    [line] = [line for line in lines if line.startswith(f"{what}: ")]
    return line


@pytest.fixture
def left(make_program: Make) -> Program:
    """A data directory as a supervisor left it that was stopped, with one bot that stopped and one that is wanted."""
    program = make_program().start()
    ready(program, program.start_bot())
    program.get(f"/stop/{program.start_bot()}")
    assert program.terminate() == 0
    return program


def test_all_is_well(left: Program) -> None:
    code, lines = check(left.data_dir)
    assert code == 0, lines
    assert "no supervisor works in it" in of("data", lines)
    newest = max(path.stem for path in migrations.DIRECTORY.glob("[0-9]*.py"))
    assert newest in of("ledger", lines)
    assert of("bots", lines) == "bots: ok: 2 stopped, 0 forgotten"
    assert of("runs", lines) == "runs: ok: 2, of which 0 open"
    assert of("logs", lines).startswith("logs: ok: 2, ")
    assert of("zygotes", lines) == "zygotes: ok: 0"


def test_beside_a_supervisor(program: Program) -> None:
    bot_id = program.start_bot()
    pid = ready(program, bot_id)
    done = subprocess.run(
        [sys.executable, "-m", "supervisor", "check", "--data-dir", program.data_dir],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert done.returncode == 0, lines
    assert f"a supervisor (pid {program.pid}) works in it" in of("data", lines)
    assert [line.split(":")[0] for line in lines] == ["data", "ledger", "bots", "runs"]
    assert ready(program, bot_id) == pid


def test_bots_that_wait_for_the_next_supervisor(make_program: Make) -> None:
    program = make_program().start()
    bots = [program.start_bot() for _ in range(2)]
    pids, zygote = [ready(program, bot_id) for bot_id in bots], warm_zygote(program)
    program.kill()
    code, lines = check(program.data_dir)
    assert code == 0, lines
    assert of("locks", lines).startswith("locks: ok: 2 bots of 2 with an open run live")
    assert of("zygotes", lines) == "zygotes: ok: 1"
    program.start()
    assert [ready(program, bot_id) for bot_id in bots] == pids
    assert warm_zygote(program) == zygote

    program.kill()
    program.write("UPDATE run SET cause = 'lost', ended_at = started_at WHERE bot_id = ?", bots[0])
    assert [line.partition(" is held")[0] for line in wrong(check(program.data_dir)[1])] == [
        f"locks: wrong: {program.data_dir}/run/locks/{bots[0]}.lock"
    ]
    program.write("UPDATE run SET cause = NULL, ended_at = NULL WHERE bot_id = ?", bots[0])
    for process in program.processes(every=True):
        process.kill()
        process.wait()
    code, lines = check(program.data_dir)
    assert code == 0, lines
    assert of("locks", lines).startswith("locks: ok: 0 bots of 2 with an open run live")
    assert of("zygotes", lines) == "zygotes: ok: 0, and 1 sockets without one, which the next start removes"
    program.start()
    assert all(ready(program, bot_id) not in pids for bot_id in bots)


def test_a_copy_beside_the_original(program: Program, tmp_path: Path) -> None:
    """Its open runs are of processes that are the original's."""
    pids = [ready(program, program.start_bot()) for _ in range(2)]
    copy = tmp_path / "copy"
    subprocess.run(["cp", "--archive", program.data_dir, copy], check=True)
    code, lines = check(copy)
    assert code == 0, lines
    assert "no supervisor works in it" in of("data", lines)
    told = of("locks", lines)
    assert told.startswith("locks: ok: 0 bots of 2 with an open run live; 2 live with another data directory")
    assert "takes them over" not in told
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(map(psutil.pid_exists, pids)), what="they are gone")
    assert of("locks", check(copy)[1]) == "locks: ok: 0 bots of 2 with an open run live"


def test_a_pipe_in_the_place_of_a_lock(left: Program) -> None:
    """A bot's lock is its own file: it can be anything, and must not hold us up."""
    os.mkfifo(left.data_dir / "run" / "locks" / "1.lock")
    code, lines = check(left.data_dir)
    assert code == 0, lines


def test_files_of_nobody(left: Program) -> None:
    (left.data_dir / "logs" / "77.log").touch()
    (left.data_dir / "bots" / "78").mkdir(parents=True)
    secret, unnamed = "0" * 32, "1" * 32
    (left.data_dir / "secrets" / unnamed).touch(0o600)
    left.write("UPDATE bot SET params = ? WHERE bot_id = 1", f'{{"token":"secret:{secret}"}}')
    _, lines = check(left.data_dir)
    log, data, missing = wrong(lines)
    assert f"{left.data_dir}/logs/77.log is of no bot in this ledger" in log
    assert f"{left.data_dir}/bots/78 is of no bot in this ledger" in data
    assert f"{left.data_dir}/secrets/{secret} is missing" in missing
    assert "secrets: ok: 0, and 1 that no bot names" in "\n".join(lines)


@pytest.fixture
def copy(left: Program, tmp_path: Path) -> Path:
    """A copy of a data directory, to be spoiled."""
    return Path(shutil.copytree(left.data_dir, tmp_path / "copy", ignore=shutil.ignore_patterns("*.sock")))


def garbage_at_the_end(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - 2000)
        file.write(os.urandom(2000))


def a_row_too_few(path: Path) -> None:
    with sqlite3.connect(path) as ledger:
        ledger.execute("DELETE FROM bot WHERE bot_id = 1")
    ledger.close()


def newer(path: Path) -> None:
    with sqlite3.connect(path) as ledger:
        ledger.execute("INSERT INTO schema_migration (name, applied) VALUES ('0942_later', '2026-01-01 00:00:00')")
    ledger.close()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (garbage_at_the_end, "damaged"),
        (a_row_too_few, "foreign_key_check"),
        (newer, "0942_later"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.rename(path.with_name("ledger.sqlite3-wal")), "it is missing, but"),
    ],
)
def test_a_ledger_that_is_not_well(copy: Path, spoil: Callable[[Path], object], words: str) -> None:
    spoil(copy / "ledger.sqlite3")
    [line] = wrong(check(copy)[1])
    assert line.startswith(f"ledger: wrong: cannot use the ledger {copy}/ledger.sqlite3: ")
    assert words in line


def test_no_data(tmp_path: Path) -> None:
    assert "--data-dir" in wrong(check(tmp_path / "nowhere")[1])[0]
    assert check(tmp_path)[1][-1] == "ledger: ok: there is none yet; the first start makes it"
    for argv in (["check", "--help"], ["--help"]):
        shown = subprocess.run(
            [sys.executable, "-m", "supervisor", *argv], capture_output=True, text=True, timeout=30, check=True
        )
        assert "Look for what is wrong in a data directory." in shown.stdout
