"""The supervisor that is killed, asked to end in every way, or started under odd circumstances."""

from __future__ import annotations

import concurrent.futures
import functools
import os
import pty
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import httpx
import psutil
import pytest

from supervisor import data_directory, handover
from tests.faults.observe import (
    copies,
    end,
    ends_well,
    free_port,
    is_alive,
    last_end,
    one_process_each,
    ready,
    warm_zygote,
)
from tests.program import Program
from tests.waiting import wait_for

KINDS = {
    "deaf": 'target = "misbehaving:deaf"',
    "gil": 'target = "misbehaving:holds_the_gil"',
    "exits": 'target = "misbehaving:exits"',
    "family": 'target = "misbehaving:has_a_family"',
    "stuck": 'target = "slow_import:main"',
    "leaves": 'target = "obedient:leaves"',
    "lingers": 'target = "obedient:lingers"',
    "tells": 'target = "obedient:tells"',
    "floods": 'target = "obedient:floods"',
}
NEVER = {"policy": "never"}
SOON = ["--shutdown-s", "0.5"]


def kinds(*names: str) -> Mapping[str, str]:
    """Just those that a test needs: each has a zygote that takes its time to be made."""
    return {name: KINDS[name] for name in names}


Make = Callable[..., Program]
Pool = concurrent.futures.ThreadPoolExecutor


def ordered(program: Program, bot_id: int) -> None:
    """Waits until the zygote, which is stopped, has been asked for the first process of a bot.

    Its run is in the ledger before the supervisor hears of that. Once the bot is among the active ones, which are not
    read there, the order goes out at once, and before whoever asks next is answered.
    """
    wait_for(lambda: bot_id in [bot["bot_id"] for bot in program.get("/bots").json()], 5, "the bot is made")
    program.get("/livez")


def has_the_lock(program: Program) -> bool:
    """Whether the supervisor that was launched has it. Who tries the lock to see that may take it from him."""
    lock = program.data_dir / "supervisor.lock"
    return lock.exists() and lock.read_text().startswith(f"{program.pid}\n")


def has_begun(program: Program) -> bool:
    """Whether the first instruction of the program that was launched is done. The interpreter's are not ours."""
    return blocked(Path(f"/proc/{program.pid}")) >= handover.SIGNALS or has_the_lock(program)


def blocked(task: Path) -> set[int]:
    """The signals that a thread blocks, by its directory in /proc."""
    mask = int(re.findall(r"SigBlk:\s*(\w+)", (task / "status").read_text())[0], 16)
    return {signum for signum in signal.valid_signals() if mask >> (signum - 1) & 1}


# ---- killed


def test_twenty_bots_outlive_their_supervisor(make_program: Make) -> None:
    program = make_program(kinds=kinds("deaf", "gil", "leaves"), flags=SOON).start()
    deaf, gil = program.start_bot("deaf", grace_s=0.2), program.start_bot("gil")
    by_code, by_signal = (program.start_bot("leaves", restart=NEVER) for _ in range(2))
    by_itself = program.start_bot("leaves", params={"code": 0})
    counters = [program.start_bot() for _ in range(15)]
    words = {deaf: "deaf", gil: "holding", by_code: "waiting", by_signal: "waiting", by_itself: "waiting"}
    pids = {bot_id: ready(program, bot_id, words.get(bot_id, "")) for bot_id in (*words, *counters)}
    frozen, prints = counters[:2]
    psutil.Process(pids[frozen]).suspend()
    printed = len(program.bot_log(prints))

    program.kill()
    wait_for(lambda: len(program.bot_log(prints)) > printed, 5, "bots go on without a supervisor")
    program.start()
    assert {bot_id: program.bot(bot_id)["pid"] for bot_id in pids} == pids
    assert {program.bot(bot_id)["state"] for bot_id in pids} == {"running"}

    program.kill()
    for bot_id, signum in ((by_code, signal.SIGUSR1), (by_signal, signal.SIGKILL), (by_itself, signal.SIGUSR1)):
        end(psutil.Process(pids.pop(bot_id)), signum)
    program.start()
    assert program.wait_state(by_code, "failed")["last_exit"]["exit_code"] == 44
    assert last_end(program, by_code) == ("crashed", 44, None)
    assert program.runs(by_code)[-1]["cpu_seconds"] > 0
    program.wait_state(by_signal, "failed")
    assert last_end(program, by_signal) == ("killed", None, "SIGKILL")
    program.wait_state(by_itself, "exited")
    assert last_end(program, by_itself) == ("exited", 0, None)
    assert {bot_id: program.bot(bot_id)["pid"] for bot_id in pids} == pids
    assert [copies(program, bot_id) for bot_id in pids] == [1] * 17

    for bot_id in (deaf, gil, frozen, prints):
        assert program.get(f"/stop/{bot_id}").json() == {"bot_id": bot_id, "state": "stopped"}
    assert last_end(program, deaf) == ("stop-timeout", None, "SIGKILL")
    assert last_end(program, gil) == ("stopped", None, "SIGTERM")
    assert last_end(program, frozen) == last_end(program, prints) == ("stopped", 0, None)
    ends_well(program, signal.SIGTERM)


@pytest.mark.parametrize("awake", ["before", "after"])
def test_killed_between_commit_and_fork(make_program: Make, pool: Pool, awake: str) -> None:
    """The zygote wakes up, and finds the order, before or after the next supervisor has come."""
    program = make_program(flags=SOON).start()
    first = program.start_bot()
    zygote = program.zygote()
    zygote.suspend()
    start = pool.submit(program.post, "/start", {"start_number": 7})
    wait_for(lambda: program.ledger("SELECT * FROM run WHERE pid IS NULL"), 5, "the run is in the ledger")
    ordered(program, first + 1)
    program.kill()
    with pytest.raises(httpx.TransportError):
        start.result()
    second = program.ledger("SELECT max(bot_id) FROM bot")[0][0]
    assert copies(program, second) == 0
    if awake == "before":
        zygote.resume()
        wait_for(lambda: copies(program, second) == 1, 5, "it is forked all the same")
        program.start()
    else:
        program.launch()
        wait_for(lambda: has_the_lock(program), 10, "the next supervisor is there")
        zygote.resume()
        program.listens()
    program.wait_state(second, "running")
    assert len(program.runs(second)) == 1
    # It counts as running as soon as it is found, be it just forked.
    wait_for(lambda: "7\n" in program.bot_log(second), 5)
    assert copies(program, first) == copies(program, second) == 1
    assert program.zygote() == zygote


def test_killed_between_fork_and_answer(make_program: Make, pool: Pool) -> None:
    program = make_program(flags=SOON).start()
    zygote = warm_zygote(program)
    zygote.suspend()
    start = pool.submit(program.post, "/start", {})
    wait_for(lambda: program.ledger("SELECT * FROM run"), 5, "the run is in the ledger")
    ordered(program, 1)
    psutil.Process(program.pid).suspend()
    zygote.resume()
    wait_for(lambda: copies(program, 1) == 1, 5, "it is forked")
    [pid] = [process.pid for process in program.processes()]
    program.kill()
    with pytest.raises(httpx.TransportError):
        start.result()
    assert program.ledger("SELECT pid FROM run")[0]["pid"] is None
    program.start()
    assert ready(program, 1) == pid
    wait_for(lambda: [run["pid"] for run in program.runs(1)] == [pid], what="the ledger has its pid")


def test_killed_together_with_the_zygote_before_the_fork(make_program: Make, pool: Pool) -> None:
    program = make_program(flags=SOON).start()
    zygote = warm_zygote(program)
    zygote.suspend()
    start = pool.submit(program.post, "/start", {})
    wait_for(lambda: program.ledger("SELECT * FROM run"), 5, "the run is in the ledger")
    program.get("/livez")
    program.kill()
    end(zygote, signal.SIGKILL)
    with pytest.raises(httpx.TransportError):
        start.result()
    program.start()
    ready(program, 1)
    assert [run["cause"] for run in program.runs(1)] == ["lost", None]
    assert copies(program, 1) == 1


def test_killed_again_and_again_amid_starts_and_stops(make_program: Make) -> None:
    """Nothing that was answered is lost, nothing runs twice, nothing runs unknown, and every run has an end."""
    chance = random.Random(20260101)
    program = make_program(kinds=kinds("leaves"), flags=SOON)
    up: set[int] = set()
    down: set[int] = set()
    for _ in range(5):
        program.start()
        lock, over = threading.Lock(), threading.Event()

        def churn(seed: int, over: threading.Event = over, lock: threading.Lock = lock) -> None:
            mine = random.Random(seed)
            with httpx.Client(base_url=program.client.base_url, timeout=20) as client:
                while not over.is_set():
                    with lock:
                        # A bot is asked for one thing at a time, or nobody could say what must have become of it.
                        victim = mine.choice(sorted(up)) if up and mine.random() < 0.4 else None
                        up.discard(victim or 0)
                    try:
                        if victim is None:
                            kind = mine.choice(["counter", "leaves"])
                            answer = client.post("/start", json={"kind": kind, "restart": {"delay_s": 0.05}})
                            assert answer.status_code == 200, answer.text
                            with lock:
                                up.add(answer.json()["bot_id"])
                        else:
                            assert client.get(f"/stop/{victim}").status_code == 200
                            with lock:
                                down.add(victim)
                    except httpx.TransportError:
                        return

        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            churning = [threads.submit(churn, chance.randrange(1 << 30)) for _ in range(4)]
            target = len(up | down) + chance.randrange(5, 15)
            wait_for(functools.partial(lambda least: len(up | down) >= least, target), 10)
            program.kill()
            over.set()
            for one in churning:
                one.result()

    program.start()
    bots = {bot["bot_id"]: bot for bot in program.get("/bots", params={"state": "all", "limit": 1000}).json()}
    assert up | down <= bots.keys()
    for bot_id in up:
        program.wait_state(bot_id, "running")
    assert {program.bot(bot_id)["state"] for bot_id in down} == {"stopped"}
    unanswered = bots.keys() - up - down
    for bot_id in unanswered:
        # A stop may have reached the process, which ended well, and not the ledger.
        program.wait_state(bot_id, "running", "stopped", "exited")
    # Asked again each time: one that was told to stop before the last death may still end, or start again.
    wait_for(lambda: one_process_each(program), 5, "one process for each that is active, and no other")
    ends_well(program, signal.SIGTERM)


@pytest.mark.parametrize(("what", "gone"), [("restart", "after"), ("shutdown", "before")])
def test_killed_while_a_bot_is_being_ended(make_program: Make, pool: Pool, what: str, gone: str) -> None:
    """It ends well, as it was told to, and has gone before or after the next supervisor comes: its goal is up."""
    program = make_program(kinds=kinds("lingers")).start()
    bot_id = program.start_bot("lingers")
    process = psutil.Process(ready(program, bot_id, "waiting"))
    if what == "restart":
        restart = pool.submit(program.post, f"/bots/{bot_id}/restart")
    else:
        os.kill(program.pid, signal.SIGTERM)
    wait_for(lambda: "SIGTERM" in program.bot_log(bot_id), 5)
    wait_for(lambda: program.ledger("SELECT state FROM bot")[0]["state"] == "stopping", 5)
    program.kill()
    if what == "restart":
        with pytest.raises(httpx.TransportError):
            restart.result()
    if gone == "before":
        end(process, signal.SIGUSR1)
    program.start()
    if gone == "after":
        assert program.bot(bot_id)["state"] == "stopping"
        end(process, signal.SIGUSR1)
    assert program.wait_state(bot_id, "running")["pid"] != process.pid
    assert [(run["cause"], run["exit_code"]) for run in program.runs(bot_id)] == [("restarted", 0), (None, None)]


def test_killed_while_a_kind_is_imported(make_program: Make) -> None:
    program = make_program(kinds={"slow": 'target = "a_second:main"'}, flags=SOON).start()
    pid = wait_for(lambda: program.get("/kinds/slow").json()["zygote_pid"], 5)
    # One that does not listen yet would end.
    wait_for(lambda: list((program.data_dir / "run").glob("slow.*.sock")), 10)
    program.kill()
    program.start()
    assert program.start_bot("slow")
    assert program.zygote("slow").pid == pid


def test_killed_before_its_zygote_listens(make_program: Make, tmp_path: Path) -> None:
    """Nobody will ever find that one: it ends by itself."""
    # The first zygote stops by itself, before any code of ours: from outside one might be too late.
    armed = tmp_path / "armed"
    armed.touch()
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        f"if 'spawn_main' in ' '.join(sys.orig_argv) and os.path.exists({str(armed)!r}):\n"
        f"    os.unlink({str(armed)!r})\n"
        "    os.kill(os.getpid(), signal.SIGSTOP)\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    program = make_program(flags=SOON, env={"PYTHONPATH": path})
    process = program.launch()

    def zygote() -> psutil.Process | None:
        children = psutil.Process(process.pid).children()
        return next((child for child in children if child.status() == psutil.STATUS_STOPPED), None)

    half_made = wait_for(zygote, 20)
    assert half_made is not None
    assert not list((program.data_dir / "run").glob("counter.*.sock"))
    program.kill()
    program.start()
    warm_zygote(program)
    half_made.resume()
    wait_for(lambda: not is_alive(half_made), 10, "it has ended")
    assert program.start_bot()


def test_a_supervisor_that_was_held_up_blames_nobody(make_program: Make) -> None:
    """It was stopped, or starved, for longer than a zygote may keep silent: what it missed it is told now."""
    program = make_program(kinds=kinds("leaves")).start()
    bots = [program.start_bot("leaves", restart=NEVER) for _ in range(3)]
    pids = [ready(program, bot_id, "waiting") for bot_id in bots]
    counter, zygote = program.start_bot(), program.zygote("leaves")
    ready(program, counter)
    supervisor = psutil.Process(program.pid)
    supervisor.suspend()
    for pid in pids:
        end(psutil.Process(pid), signal.SIGUSR1)
    printed = len(program.bot_log(counter))
    wait_for(lambda: len(program.bot_log(counter)) >= printed + 4, 10, "two seconds have passed")
    supervisor.resume()
    for bot_id in bots:
        program.wait_state(bot_id, "failed")
        assert last_end(program, bot_id) == ("crashed", 44, None)
    assert program.zygote("leaves") == zygote
    assert is_alive(zygote)


# ---- asked to end


def test_sigterm_stops_all_bots_within_eight_seconds(make_program: Make) -> None:
    """With the usual grace, and one of everything that could hold it up."""
    program = make_program(kinds=kinds("deaf", "gil", "family", "leaves", "tells", "stuck")).start()
    bots = [program.start_bot(kind) for kind in ("counter", "deaf", "deaf", "gil", "family", "leaves")]
    for bot_id, word in zip(bots[1:], ("deaf", "deaf", "holding", "family", "waiting"), strict=True):
        ready(program, bot_id, word)
    psutil.Process(ready(program, bots[0])).suspend()
    # One with a bot, and one without.
    program.zygote("leaves").suspend()
    warm_zygote(program, "tells").suspend()
    wait_for(lambda: program.get("/kinds/stuck").json()["zygote_pid"], 5)
    host, port = program.client.base_url.host, program.client.base_url.port
    assert port is not None
    idle = [socket.create_connection((host, port)) for _ in range(20)]
    idle[0].sendall(b"POST /start HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    try:
        took_s = ends_well(program, signal.SIGTERM)
    finally:
        for connection in idle:
            connection.close()
    assert took_s >= 5, "a bot that ignores SIGTERM has the whole grace"
    ends = {run["bot_id"]: (run["cause"], run["signal"]) for run in program.ledger("SELECT * FROM run")}
    assert ends[bots[1]] == ends[bots[2]] == ("stop-timeout", "SIGKILL")
    assert {ends[bot_id][0] for bot_id in (bots[0], *bots[3:])} == {"stopped"}


@pytest.mark.parametrize(
    "signums",
    [
        [signal.SIGTERM, signal.SIGTERM, signal.SIGINT],
        [signal.SIGINT, signal.SIGINT, signal.SIGHUP],
    ],
    ids=lambda signums: "-".join(signal.Signals(s).name for s in signums),
)
def test_signals_that_end_it(make_program: Make, signums: Sequence[int]) -> None:
    program = make_program(kinds=kinds("deaf"), flags=SOON).start()
    deaf, counter = program.start_bot("deaf"), program.start_bot()
    ready(program, deaf, "deaf"), ready(program, counter)
    # Something is still to be done when the second signal comes.
    assert ends_well(program, *signums) < 3
    ends = {run["bot_id"]: run["cause"] for run in program.ledger("SELECT * FROM run")}
    assert ends == {deaf: "stop-timeout", counter: "stopped"}


def test_goals_are_honoured_at_the_next_start(make_program: Make) -> None:
    program = make_program(kinds=kinds("exits"), flags=SOON).start()
    up, down, exited, failed = (
        program.start_bot(), program.start_bot(), program.start_bot("exits"),
        program.start_bot("exits", params={"code": 1}, restart=NEVER),
    )  # fmt: skip
    program.get(f"/stop/{down}")
    program.wait_state(exited, "exited")
    program.wait_state(failed, "failed")
    runs = {bot_id: len(program.runs(bot_id)) for bot_id in (down, exited)}
    ends_well(program, signal.SIGTERM)
    program.start()
    ready(program, up)
    assert [run["cause"] for run in program.runs(up)] == ["stopped", None]
    assert program.bot(down)["state"] == "stopped"
    assert program.bot(exited)["state"] == "exited"
    assert {bot_id: len(program.runs(bot_id)) for bot_id in (down, exited)} == runs


def test_sighup_does_no_harm(program: Program) -> None:
    bot_id = program.start_bot()
    pid = ready(program, bot_id)
    for _ in range(3):
        os.kill(program.pid, signal.SIGHUP)
    wait_for(lambda: "SIGHUP" in program.log(), 5)
    assert program.bot(bot_id)["pid"] == pid
    assert program.running


def test_signals_while_it_starts(make_program: Make) -> None:
    """At any moment: it ends, soon and well, and leaves nothing that the next one could not find."""
    program = make_program(kinds=kinds("leaves"), flags=SOON)
    moments: list[Callable[[], object]] = [
        lambda: True,
        lambda: has_the_lock(program),
        lambda: (program.data_dir / "run").exists(),
        lambda: list((program.data_dir / "run").glob("*.sock")),
        lambda: "listening" in program.log(),
    ]
    for moment in moments:
        process = program.launch()
        wait_for(lambda: has_begun(program), 10)
        wait_for(moment, 10)
        process.terminate()
        assert process.wait(8) == 0
        assert program.processes(every=True) == []
    program.start()
    assert ready(program, program.start_bot())


def until_it_serves(program: Program, *signums: int) -> None:
    """Sends the signals all the time, until the supervisor that is being started or replaced serves."""
    before = data_directory.said(program.data_dir)

    def serves() -> bool:
        for signum in signums:
            os.kill(program.pid, signum)
        assert program.running, f"it ended: {program.process and program.process.returncode}\n{program.log()[-3000:]}"
        pid, since = data_directory.said(program.data_dir)
        return pid == program.pid and since not in ("", before[1])

    wait_for(serves, 60, "it serves")


def test_no_signal_ends_one_that_starts(make_program: Make) -> None:
    program = make_program(flags=SOON)
    program.launch()
    wait_for(lambda: has_begun(program))
    until_it_serves(program, signal.SIGHUP, signal.SIGUSR2)
    program.listens()
    assert "got SIGHUP: reads the kinds again" in program.log()
    # It may still be about to replace itself, as the last SIGUSR2 asks for.
    wait_for(lambda: program.post("/start").status_code == 200)
    ends_well(program, signal.SIGTERM)


def test_no_signal_ends_one_that_is_replaced(make_program: Make) -> None:
    program = make_program(flags=SOON).start()
    bot_id = program.start_bot()
    pid = ready(program, bot_id)
    os.kill(program.pid, signal.SIGUSR2)
    until_it_serves(program, signal.SIGHUP)
    until_it_serves(program, signal.SIGUSR2, signal.SIGHUP)
    program.listens()
    assert program.bot(bot_id)["pid"] == pid
    ends_well(program, signal.SIGTERM)


def is_executed_anew(program: Program) -> bool:
    """Whether the process has become the supervisor that was to take over."""
    return b"LISTEN_FDS=" in Path(f"/proc/{program.pid}/environ").read_bytes()


@pytest.mark.parametrize("moment", ["begun", "going", "executed", "serving"])
def test_a_stop_amid_a_replacement_is_a_stop(make_program: Make, moment: str) -> None:
    """By the supervisor that goes, or by the one that comes: with all bots, and a good exit code."""
    program = make_program(flags=SOON).start()
    ready(program, program.start_bot())
    before = data_directory.said(program.data_dir)
    moments: Mapping[str, Callable[[], object]] = {
        "begun": lambda: True,
        "going": lambda: data_directory.said(program.data_dir) != before,
        "executed": lambda: is_executed_anew(program),
        "serving": lambda: data_directory.said(program.data_dir)[1] not in ("", before[1]),
    }
    os.kill(program.pid, signal.SIGUSR2)
    wait_for(moments[moment], 20, moment)
    ends_well(program, signal.SIGTERM, limit_s=20)
    assert [run["cause"] for run in program.ledger("SELECT cause FROM run")] == ["stopped"]


def test_signals_until_the_very_end(make_program: Make) -> None:
    """A second one changes nothing, also when there is nobody left to hear of it."""
    program = make_program(flags=SOON).start()
    ready(program, program.start_bot())
    process = program.process
    assert process is not None

    def ended() -> bool:
        for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2, signal.SIGINT):
            process.send_signal(signum)
        return process.poll() is not None

    wait_for(ended, 8)
    assert process.returncode == 0
    assert program.processes(every=True) == []


# ---- at a terminal


def at_terminal(program: Program, *, output: bool = False) -> tuple[int, subprocess.Popen[bytes]]:
    """Launches the program in the foreground of a terminal of its own; the terminal's other end."""
    master, slave = pty.openpty()
    streams = {"stdin": slave, **({"stdout": slave, "stderr": slave} if output else {})}
    take_it = (
        "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        " os.execv(sys.argv[1], sys.argv[1:])"
    )
    process = program.launch(wrapper=[sys.executable, "-c", take_it], **streams)
    os.close(slave)
    return master, process


def test_ctrl_c_reaches_the_supervisor_alone(make_program: Make) -> None:
    program = make_program(kinds=kinds("tells"), flags=SOON)
    master, process = at_terminal(program)
    try:
        program.listens()
        bot_id = program.start_bot("tells")
        ready(program, bot_id, "listening")
        family = program.family()
        os.write(master, b"\x03")
        assert process.wait(8) == 0
    finally:
        os.close(master)
    assert [process for process in family if is_alive(process)] == []
    assert program.bot_log(bot_id).split() == ["listening", "SIGTERM", "SIGCONT"] or program.bot_log(
        bot_id
    ).split() == ["listening", "SIGTERM"]
    assert program.ledger("SELECT cause, exit_code FROM run")[0][:] == ("stopped", 0)


def test_the_terminal_goes_away(make_program: Make) -> None:
    port = free_port()
    program = make_program(kinds=kinds("tells"), flags=[*SOON, "--port", str(port)])
    master, process = at_terminal(program, output=True)
    try:
        program.answers_at(port)
        bot_id = program.start_bot("tells")
        pid = ready(program, bot_id, "listening")
    finally:
        os.close(master)
    assert program.bot(bot_id)["pid"] == pid
    assert program.start_bot()
    assert program.bot_log(bot_id).split() == ["listening"]
    assert process.poll() is None
    ends_well(program, signal.SIGTERM)


# ---- standard streams and signals as others leave them


def streams(pid: int) -> list[str]:
    return [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)]


@pytest.mark.parametrize("closed", ["0", "1", "2", "0 1 2"])
def test_standard_streams_closed(make_program: Make, closed: str) -> None:
    port = free_port()
    program = make_program(kinds=kinds("leaves"), flags=[*SOON, "--port", str(port)])
    close = " ".join(f"{fd}>&-" for fd in closed.split())
    program.launch(wrapper=["sh", "-c", f'exec "$@" {close}', "sh"])
    program.answers_at(port)
    bot_id = program.start_bot("leaves", restart=NEVER)
    pid = ready(program, bot_id, "waiting")
    log, imports = (str(program.data_dir / part) for part in (f"logs/{bot_id}.log", "kinds/leaves.log"))
    assert streams(pid) == [os.devnull, log, log]
    assert streams(program.zygote("leaves").pid) == [os.devnull, imports, imports]
    # Nothing else has got their numbers, to be written to by whatever prints.
    assert {streams(program.pid)[int(fd)] for fd in closed.split()} == {os.devnull}
    end(psutil.Process(pid), signal.SIGUSR1)
    program.wait_state(bot_id, "failed")
    assert last_end(program, bot_id) == ("crashed", 44, None)
    assert ready(program, program.start_bot())
    # A zygote that is made later, too.
    end(program.zygote(), signal.SIGKILL)
    assert ready(program, program.start_bot())
    ends_well(program, signal.SIGTERM)


@pytest.mark.parametrize("reader", ["stuck", "gone"])
def test_a_stdout_that_nobody_reads(make_program: Make, reader: str) -> None:
    port = free_port()
    program = make_program(kinds=kinds("floods"), flags=[*SOON, "--port", str(port), "--log-limit-bytes", "4194304"])
    read, write = os.pipe()
    program.launch(stdout=write, stderr=write)
    os.close(write)
    if reader == "gone":
        os.close(read)
    program.answers_at(port)
    bot_id = program.start_bot("floods", params={"lines": 40_000})
    # More than the pipe and the console's queue can take.
    wait_for(lambda: "39999 " in program.bot_log(bot_id), 10, "the bot is not held up")
    begin = time.monotonic()
    assert ready(program, program.start_bot())
    assert program.get(f"/stop/{bot_id}").status_code == 200
    assert time.monotonic() - begin < 1
    assert ends_well(program, signal.SIGTERM) < 4
    if reader == "stuck":
        os.close(read)


def test_signals_ignored_and_blocked_by_the_parent(make_program: Make) -> None:
    everything = (
        "import os, signal, sys\n"
        "for signum in (signal.SIGCHLD, signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):\n"
        "    signal.signal(signum, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    program = make_program(kinds=kinds("exits", "leaves"), flags=SOON).start(wrapper=[sys.executable, "-c", everything])
    masks = {int(task.name): blocked(task) for task in Path(f"/proc/{program.pid}/task").iterdir()}
    assert masks.pop(program.pid) == set()
    assert all(mask in (set(), handover.SIGNALS) for mask in masks.values())
    by_code, by_itself, stops, told = (
        program.start_bot(k, restart=NEVER) for k in ("leaves", "exits", "counter", "leaves")
    )
    end(psutil.Process(ready(program, by_code, "waiting")), signal.SIGUSR1)
    program.wait_state(by_code, "failed")
    assert last_end(program, by_code) == ("crashed", 44, None)
    program.wait_state(by_itself, "exited")
    assert last_end(program, by_itself) == ("exited", 0, None)
    begin = time.monotonic()
    ready(program, stops), ready(program, told, "waiting")
    program.get(f"/stop/{stops}"), program.get(f"/stop/{told}")
    assert time.monotonic() - begin < 2
    assert last_end(program, stops) == ("stopped", 0, None)
    assert last_end(program, told) == ("stopped", None, "SIGTERM")
    end(program.zygote(), signal.SIGKILL, reaped=True)
    ready(program, program.start_bot())
    ends_well(program, signal.SIGTERM)


PENDING = (
    "import os, signal, sys\n"
    "signals = [getattr(signal, name) for name in sys.argv[1].split()]\n"
    "signal.pthread_sigmask(signal.SIG_BLOCK, signals)\n"
    "for signum in signals:\n"
    "    os.kill(os.getpid(), signum)\n"
    "os.execv(sys.argv[2], sys.argv[2:])"
)
"""Executes a program for which these signals came before its first instruction."""


def test_signals_that_come_before_there_are_handlers_end_nothing(make_program: Make) -> None:
    program = make_program(flags=SOON).start(wrapper=[sys.executable, "-c", PENDING, "SIGHUP"])
    assert ready(program, program.start_bot())
    assert ends_well(program, signal.SIGTERM) < 4


def test_a_stop_that_comes_before_there_are_handlers_is_one(make_program: Make) -> None:
    program = make_program(flags=SOON)
    process = program.launch(wrapper=[sys.executable, "-c", PENDING, "SIGHUP SIGTERM"])
    assert process.wait(60) == 0
    assert "stopping all bots" in program.log()


def test_the_directory_of_the_logs_is_gone(program: Program) -> None:
    """/readyz says so; the next bot makes it again, and has its log there."""
    ready(program, program.start_bot())
    directory = program.data_dir / "logs"
    shutil.rmtree(directory)
    refused = program.get("/readyz")
    assert refused.status_code == 503
    assert f"logs: {directory} is missing" in refused.json()["detail"]
    second = program.start_bot()
    wait_for(lambda: program.get(f"/bots/{second}/logs").text.startswith("0\n"), what="it has a log")
    assert program.get("/readyz").status_code == 200


def test_no_directory_for_the_logs(program: Program) -> None:
    """No bot can be started; those that run are not touched, and all is well when the cause is gone."""
    first = program.start_bot()
    pid = ready(program, first)
    directory = program.data_dir / "logs"
    aside = directory.rename(program.directory / "aside")
    directory.touch()
    assert f"logs: {directory} is not a directory" in program.get("/readyz").json()["detail"]
    second = program.start_bot()
    assert "Not a directory" in program.wait_state(second, "failed")["reason"]
    directory.unlink()
    aside.rename(directory)
    assert program.get("/readyz").status_code == 200
    program.post(f"/bots/{second}/start")
    assert ready(program, second)
    assert program.bot(first)["pid"] == pid
