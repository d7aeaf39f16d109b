"""The ledger, or a lock, names the pid of an innocent process: it lives."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.observe import end, is_alive
from tests.program import Program
from tests.waiting import wait_for

KINDS = {
    "anything": 'target = "anything:main"\ngrace_s = 1.0',
    "sleeps": 'target = "misbehaving:sleeps"',
}
NEXT_PID = Path("/proc/sys/kernel/ns_last_pid")

Make = Callable[..., Program]


@contextlib.contextmanager
def unharmed(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with us lives as long as this."""
    try:
        yield process
        assert process.poll() is None, "an innocent process was killed"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def innocent() -> Iterator[subprocess.Popen[bytes]]:
    with unharmed(subprocess.Popen(["sleep", "600"])) as process:
        yield process


def kill_everything(program: Program) -> None:
    """All of ours at once, as a machine that stops does."""
    processes = program.family()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    program.kill()
    wait_for(lambda: not program.processes(every=True), what="nothing is left")


def identity_of(pid: int) -> dict[str, Any]:
    """The columns of a run whose process this would be."""
    fd = os.pidfd_open(pid)
    inode = os.fstat(fd).st_ino
    os.close(fd)
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return {"pid": pid, "start_ticks": ticks, "inode": inode, "boot_id": boot_id}


def claim(program: Program, bot_id: int, **columns: Any) -> None:
    """Writes it into the bot's run, the only one of it in the ledger."""
    names = ", ".join(f"{name} = ?" for name in columns)
    program.write(f"UPDATE run SET {names} WHERE bot_id = ?", *columns.values(), bot_id)


NOTHING: dict[str, Any] = {"pid": None, "start_ticks": None, "inode": None, "boot_id": None}
LIES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    # All but one mark of the innocent process are right: that is not enough.
    "another start": lambda innocent: innocent | {"start_ticks": innocent["start_ticks"] - 1},
    "another inode": lambda innocent: innocent | {"inode": innocent["inode"] - 1},
    "another boot": lambda innocent: innocent | {"boot_id": "00000000-0000-4000-8000-000000000000"},
    # The number alone is right; the rest is as it was, of the dead.
    "the number": lambda innocent: {"pid": innocent["pid"]},
    "the number of init": lambda innocent: {"pid": 1},
    # A damaged row must not keep the others from being read.
    "zero": lambda innocent: {"pid": 0},
    "a negative number": lambda innocent: {"pid": -innocent["pid"]},
    "a number that is too large": lambda innocent: {"pid": 2**22 + 1},
    "a number that fits no pid": lambda innocent: {"pid": 2**31},
    "a number that fits no register": lambda innocent: {"pid": 2**62},
    # As the ledger is when the supervisor was killed between the row and the fork.
    "nothing": lambda innocent: NOTHING,
}


def test_the_ledger_names_innocent_processes(make_program: Make) -> None:
    """They live; the runs are given up as lost, and every bot gets a process of its own."""
    with contextlib.ExitStack() as innocents:
        program = make_program(kinds=KINDS).start()
        bots = {lie: program.start_bot("sleeps") for lie in LIES}
        thread, to_stop, forgotten = (program.start_bot("sleeps") for _ in range(3))
        ids = [*bots.values(), thread, to_stop, forgotten]
        for bot_id in ids:
            program.wait_state(bot_id, "running")
        unready = "SELECT count(*) FROM run WHERE ready_at IS NULL"
        wait_for(lambda: program.ledger(unready)[0][0] == 0, what="the ledger has it")
        kill_everything(program)

        def innocent() -> int:
            return innocents.enter_context(unharmed(subprocess.Popen(["sleep", "600"]))).pid

        for lie, bot_id in bots.items():
            claim(program, bot_id, **LIES[lie](identity_of(innocent())))
        # Threads have numbers out of the same box.
        over = threading.Event()
        innocents.callback(over.set)
        innocent_thread = threading.Thread(target=over.wait)
        innocent_thread.start()
        claim(program, thread, pid=innocent_thread.native_id)
        claim(program, to_stop, pid=innocent())
        program.write("UPDATE bot SET goal = 'down', state = 'stopping' WHERE bot_id = ?", to_stop)
        claim(program, forgotten, pid=innocent())
        program.write("UPDATE bot SET forgotten_at = 1 WHERE bot_id = ?", forgotten)

        program.start()
        for bot_id in ids:
            wait_for(lambda: program.runs(bot_id)[0]["cause"], what=f"the run of bot {bot_id} is given up")  # noqa: B023
            first = program.runs(bot_id)[0]
            assert (first["exit_code"], first["signal"], first["cause"]) == (None, None, "lost")
        for bot_id in (*bots.values(), thread):
            pid = program.wait_state(bot_id, "running")["pid"]
            assert psutil.Process(pid).ppid() == program.zygote("sleeps").pid
        program.wait_state(to_stop, "stopped")
        assert len(program.runs(to_stop)) == 1
        assert program.get(f"/bots/{forgotten}").status_code == 404
        program.check_invariants()
        for bot_id in (*bots.values(), thread):
            assert program.get(f"/stop/{bot_id}").json()["state"] == "stopped"
        assert program.terminate() == 0


@pytest.fixture
def rest(make_program: Make, tmp_path: Path) -> Iterator[tuple[Program, int, psutil.Process]]:
    """A program that was killed with its zygote and its bot, of which a descendant lives on with the bot's lock."""
    program = make_program(kinds=KINDS).start()
    bot_id = program.start_bot("anything", params={"what": "descendants:has_a_child"})
    told = wait_for(lambda: re.search(r"^child (\d+)$", program.bot_log(bot_id), re.M), what="it has a child")
    assert told is not None
    child = psutil.Process(int(told[1]))
    # The bot's own end must not be seen by its zygote, which would sweep.
    family = [process for process in program.family() if process != child]
    for process in family:
        process.suspend()
    for process in family:
        process.kill()
    program.kill()
    wait_for(lambda: program.processes(every=True) == [child])
    yield program, bot_id, child
    assert not is_alive(child), "the test has not killed it"


def test_a_lock_that_names_an_innocent_process(
    rest: tuple[Program, int, psutil.Process], innocent: subprocess.Popen[bytes]
) -> None:
    """The lock is held by what a dead bot has left, and the pid in it went to somebody else since."""
    program, bot_id, child = rest
    lock = program.data_dir / "run" / "locks" / f"{bot_id}.lock"
    run_id, _, *others = lock.read_text().split()
    lock.write_text(" ".join([run_id, str(innocent.pid), *others]) + "\n")
    claim(program, bot_id, **NOTHING)
    program.start()
    wait_for(lambda: program.runs(bot_id)[0]["cause"] == "lost")
    program.check_invariants()
    end(child, signal.SIGKILL)


def test_no_second_copy_while_the_lock_is_held(rest: tuple[Program, int, psutil.Process]) -> None:
    """Whoever holds it, and however often it is asked for."""
    program, bot_id, child = rest
    program.start()
    for runs in (2, 3):
        bot = program.wait_state(bot_id, "failed")
        assert "another copy" in bot["reason"]
        assert len(program.ended_runs(bot_id)) == runs
        assert (bot["pid"], bot["last_exit"]["exit_code"]) == (None, 125)
        assert program.post(f"/bots/{bot_id}/start?wait=0").status_code == 202
        wait_for(lambda: len(program.runs(bot_id)) > runs)  # noqa: B023
    program.wait_state(bot_id, "failed")
    end(child, signal.SIGKILL)
    assert program.post(f"/bots/{bot_id}/start").json()["state"] == "running"
    assert program.get(f"/stop/{bot_id}").json()["state"] == "stopped"


# ---- a pid that is given out again


def process_with_pid(pid: int) -> subprocess.Popen[bytes]:
    """An innocent process that has just this pid, which must be free."""
    if os.geteuid() != 0 or not NEXT_PID.exists():
        pytest.skip("only root can say which pid comes next")
    for _ in range(100):
        NEXT_PID.write_text(str(pid - 1))
        process = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
        if process.pid == pid:
            return process
        # Somebody else on this machine was faster.
        process.kill()
        process.wait()
    pytest.skip(f"the pid {pid} cannot be had")


@contextlib.contextmanager
def taken_over(pid: int) -> Iterator[None]:
    """The pid is an innocent process's for a while, which must not be harmed."""
    with unharmed(process_with_pid(pid)):
        yield


@pytest.mark.parametrize(
    ("call", "statuses"),
    [
        (lambda program, bot_id: program.get(f"/stop/{bot_id}"), {200}),
        (lambda program, bot_id: program.post(f"/bots/{bot_id}/stop", {"grace_s": 0}), {200}),
        (lambda program, bot_id: program.post(f"/bots/{bot_id}/signal", {"signal": "SIGKILL"}), {409}),
        (lambda program, bot_id: program.client.delete(f"/bots/{bot_id}"), {204}),
    ],
    ids=["stop", "kill", "signal", "delete"],
)
def test_a_pid_given_out_again_before_the_supervisor_knows(
    shared: Program, call: Callable[[Program, int], Any], statuses: set[int]
) -> None:
    """The bot has died and been reaped, and somebody has its pid, when the command comes."""
    bot_id = shared.start_bot("sleeps", restart={"policy": "never"})
    pid = shared.wait_state(bot_id, "running")["pid"]
    supervisor = psutil.Process(shared.pid)
    supervisor.suspend()
    try:
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not psutil.pid_exists(pid), what="the zygote has reaped it")
        with taken_over(pid), ThreadPoolExecutor() as thread:
            answer = thread.submit(call, shared, bot_id)
            supervisor.resume()
            assert answer.result().status_code in statuses
    finally:
        supervisor.resume()


@pytest.mark.parametrize("zygote_lives", [True, False])
def test_a_pid_given_out_again_between_two_supervisors(make_program: Make, zygote_lives: bool) -> None:
    program = make_program(kinds=KINDS).start()
    bot_id = program.start_bot("sleeps")
    pid = program.wait_state(bot_id, "running")["pid"]
    wait_for(lambda: program.ledger("SELECT ready_at FROM run")[0][0], what="the ledger has it")
    zygote = program.zygote("sleeps")
    program.kill()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not psutil.pid_exists(pid), what="the zygote has reaped it")
    if not zygote_lives:
        end(zygote, signal.SIGKILL)
    with taken_over(pid):
        program.start()
        wait_for(lambda: len(program.runs(bot_id)) == 2)
        first = program.runs(bot_id)[0]
        assert (first["signal"], first["cause"]) == (("SIGKILL", "killed") if zygote_lives else (None, "lost"))
        program.wait_state(bot_id, "running")
        program.check_invariants()
        assert program.get(f"/stop/{bot_id}").json()["state"] == "stopped"
        assert program.terminate() == 0


def test_a_bot_killed_at_the_moment_of_its_stop(shared: Program) -> None:
    """Many times over: whoever is first, the run has one end, and it is told once."""
    for n in range(30):
        bot_id = shared.start_bot("sleeps", restart={"policy": "never"})
        pid = shared.bot(bot_id)["pid"]
        with ThreadPoolExecutor() as thread:
            stop = thread.submit(shared.get, f"/stop/{bot_id}")
            time.sleep(n / 10_000)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            assert stop.result().json() == {"bot_id": bot_id, "state": "stopped"}
        [run] = shared.runs(bot_id)
        assert run["cause"] in ("killed", "stopped")
        assert (run["exit_code"], run["signal"]) in ((0, None), (None, "SIGKILL"), (None, "SIGTERM"))


def test_a_copy_of_a_data_directory_is_another_fleet(make_program: Make) -> None:
    """The original's bots are neither adopted nor ended, and the supervisor there does not notice."""
    original = make_program(kinds=KINDS).start()
    ids = [original.start_bot("sleeps") for _ in range(3)]
    pids = {bot_id: original.wait_state(bot_id, "running")["pid"] for bot_id in ids}
    unready = "SELECT count(*) FROM run WHERE ready_at IS NULL"
    wait_for(lambda: original.ledger(unready)[0][0] == 0, what="the ledger has it")
    copy = make_program(kinds=KINDS)
    subprocess.run(["cp", "-a", original.data_dir, copy.data_dir], check=True)
    copy.start()
    for bot_id in ids:
        wait_for(lambda: copy.runs(bot_id)[0]["cause"] == "lost", what=f"the run of bot {bot_id} is given up")  # noqa: B023
        assert copy.wait_state(bot_id, "running")["pid"] != pids[bot_id]
    copy.terminate()
    assert {bot_id: original.bot(bot_id)["pid"] for bot_id in ids} == pids
    assert all(len(original.runs(bot_id)) == 1 for bot_id in ids)
    original.check_invariants()
