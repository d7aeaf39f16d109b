"""What tests of faults look at, from outside, and what they do to processes behind the program's back."""

from __future__ import annotations

import contextlib
import os
import socket
import time

import psutil

from tests.program import Program
from tests.waiting import wait_for


def kernel() -> tuple[int, ...]:
    """The kernel's version, such as (6, 15): from there on it tells how a process ended that somebody else reaped."""
    return tuple(int(number) for number in os.uname().release.split("-")[0].split(".")[:2])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; one that has ended and waits to be reaped does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end(process: psutil.Process, signum: int, *, reaped: bool = False) -> None:
    """Sends a signal that ends the process, and returns when it has ended, and been reaped by whoever does that."""
    process.send_signal(signum)
    wait_for(lambda: not (process.is_running() if reaped else is_alive(process)), 10, f"{process} has ended")


def ready(program: Program, bot_id: int, word: str = "") -> int:
    """Waits until a bot runs and has printed a word; its pid."""
    wait_for(lambda: word in program.bot_log(bot_id), 10, f"bot {bot_id} prints {word}")
    return int(program.wait_state(bot_id, "running")["pid"])


def warm_zygote(program: Program, kind: str = "counter") -> psutil.Process:
    """The zygote of a kind, once it has imported it."""
    wait_for(lambda: program.get(f"/kinds/{kind}").json()["warm"], 30, f"{kind} is warm")
    return program.zygote(kind)


def copies(program: Program, bot_id: int) -> int:
    """How many live processes write to the log of the bot and lead a session of their own."""
    log = str(program.data_dir / "logs" / f"{bot_id}.log")
    found = 0
    for process in program.processes():
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/{process.pid}/fd/1") == log and os.getsid(process.pid) == process.pid
    return found


def last_end(program: Program, bot_id: int) -> tuple[str | None, int | None, str | None]:
    """Cause, exit code and signal of the latest run, once it has ended."""
    run = program.ended_runs(bot_id)[-1]
    return run["cause"], run["exit_code"], run["signal"]


def ends_well(program: Program, *signums: int, limit_s: float = 8) -> float:
    """Sends the signals and waits for a clean end: exit code 0, nothing left of it. Returns how long that took."""
    family = program.family()
    assert program.process is not None
    begin = time.monotonic()
    for signum in signums:
        program.process.send_signal(signum)
    assert program.process.wait(limit_s) == 0, program.log()[-3000:]
    took_s = time.monotonic() - begin
    # At that moment, and not some time after.
    assert [process for process in family if is_alive(process)] == []
    assert program.processes(every=True) == []
    assert program.ledger("SELECT * FROM run WHERE cause IS NULL") == []
    return took_s


def one_process_each(program: Program) -> bool:
    """Whether each active bot has its process, and no other process runs."""
    pids = [bot["pid"] for bot in program.get("/bots", params={"limit": 1000}).json()]
    # One that is about to start again has none.
    return None not in pids and sorted(process.pid for process in program.processes()) == sorted(pids)
