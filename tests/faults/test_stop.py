"""Bots that do not want to end, and what they leave behind."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.program import Program
from tests.waiting import wait_for

KINDS = {
    "anything": 'target = "anything:main"\ngrace_s = 5.0',
    "sleeps": 'target = "misbehaving:sleeps"',
}
FREEZER = Path("/sys/fs/cgroup/freezer")


class Bot:
    """A bot of the kind `anything`, whose descendants are found by their directory, wherever they hide."""

    def __init__(self, program: Program, directory: Path, what: str, params: dict[str, Any], **fields: Any) -> None:
        self.program = program
        self.directory = directory
        parameters = {"what": what, "params": params, "cwd": str(directory)}
        self.bot_id = program.start_bot("anything", params=parameters, **fields)

    @property
    def pid(self) -> int:
        """Waited for: a bot that is started again may print before the supervisor knows its process."""
        return int(wait_for(lambda: self.program.bot(self.bot_id)["pid"], what="it has a process"))

    def says(self, text: str) -> str:
        """Waits until the bot has printed this; its whole log."""
        wait_for(lambda: text in self.program.bot_log(self.bot_id), what=f"{text!r} is printed")
        return self.program.bot_log(self.bot_id)

    def processes(self) -> list[psutil.Process]:
        """The bot and all its descendants; zombies have no directory, and do not count."""
        found = []
        for pid in psutil.pids():
            try:
                if os.readlink(f"/proc/{pid}/cwd") == str(self.directory):
                    found.append(psutil.Process(pid))
            except (OSError, psutil.NoSuchProcess):
                continue
        return found

    def has(self, number: int) -> None:
        """Waits until there are so many processes."""
        wait_for(lambda: len(self.processes()) == number, what=f"there are {number} processes, not {self.processes()}")

    def stop(self, **body: Any) -> float:
        """Stops the bot, and how many seconds that took. Nothing of it is left the moment this is answered."""
        begin = time.monotonic()
        answer = self.program.post(f"/bots/{self.bot_id}/stop", body or None)
        took_s = time.monotonic() - begin
        left = self.processes()
        assert answer.status_code == 200, answer.text
        assert answer.json()["state"] == "stopped"
        assert not left, "there is something left of it"
        return took_s

    def child(self) -> int:
        """The pid of the child of `has_a_child`."""
        found = wait_for(lambda: re.search(r"^child (\d+)$", self.program.bot_log(self.bot_id), re.M), what="its child")
        assert found is not None
        return int(found[1])

    def run(self) -> dict[str, Any]:
        """Its latest run, which has ended."""
        return self.program.ended_runs(self.bot_id)[-1]


Make = Callable[..., Bot]


@pytest.fixture
def make(shared: Program, tmp_path: Path) -> Make:
    """Starts bots that do what the function `module:name` does."""

    def make(what: str, params: dict[str, Any] | None = None, **fields: Any) -> Bot:
        directory = tmp_path / str(len(list(tmp_path.iterdir())))
        directory.mkdir()
        return Bot(shared, directory, what, params or {}, **fields)

    return make


# ---- bots that do not listen


def test_deaf_to_sigterm(make: Make) -> None:
    bot = make("misbehaving:deaf", grace_s=0.5)
    bot.says("deaf")
    assert 0.5 <= bot.stop() <= 1.5
    run = bot.run()
    assert (run["exit_code"], run["signal"], run["cause"]) == (None, "SIGKILL", "stop-timeout")


def test_blocks_all_signals(make: Make) -> None:
    bot = make("descendants:blocks_all_signals")
    bot.says("rests")
    assert bot.stop(grace_s=0.3) <= 1.3
    assert bot.run()["cause"] == "stop-timeout"


def test_no_grace_at_all(make: Make) -> None:
    bot = make("misbehaving:deaf")
    bot.says("deaf")
    assert bot.stop(grace_s=0) <= 1


def test_holds_the_interpreter(make: Make) -> None:
    """A C function that never returns: SIGTERM has its default action, and is enough."""
    bot = make("misbehaving:holds_the_gil")
    bot.says("holding")
    assert bot.stop() <= 1


def test_stopped_by_a_signal(make: Make) -> None:
    bot = make("misbehaving:sleeps")
    bot.has(1)
    os.kill(bot.pid, signal.SIGSTOP)
    wait_for(lambda: psutil.Process(bot.pid).status() == "stopped")
    assert bot.stop() <= 1
    assert bot.run()["cause"] == "stopped"


def test_stopped_by_a_signal_and_deaf(make: Make) -> None:
    bot = make("misbehaving:deaf", grace_s=0.3)
    bot.says("deaf")
    os.kill(bot.pid, signal.SIGSTOP)
    wait_for(lambda: psutil.Process(bot.pid).status() == "stopped")
    assert bot.stop() <= 1.3
    assert (bot.run()["signal"], bot.run()["cause"]) == ("SIGKILL", "stop-timeout")


def test_stopped_again_whenever_it_is_woken(make: Make) -> None:
    """Somebody keeps a deaf bot frozen; SIGKILL needs no cooperation."""
    bot = make("misbehaving:deaf", grace_s=0.3)
    bot.says("deaf")
    process = psutil.Process(bot.pid)
    with ThreadPoolExecutor() as thread:
        stop = thread.submit(bot.stop)
        while process.is_running() and not stop.done():
            try:
                process.suspend()
            except psutil.NoSuchProcess:
                break
        assert stop.result() <= 1.5


def test_a_restart_of_a_deaf_bot_is_one(make: Make) -> None:
    bot = make("misbehaving:deaf", grace_s=0.3)
    bot.says("deaf")
    before = bot.pid
    answer = bot.program.post(f"/bots/{bot.bot_id}/restart")
    assert (answer.status_code, answer.json()["state"]) == (200, "running")
    assert not psutil.pid_exists(before)
    bot.has(1)
    assert [run["cause"] for run in bot.program.runs(bot.bot_id)] == ["stop-timeout", None]
    assert bot.program.bot(bot.bot_id)["restarts"] == 1


def test_a_hundred_deaf_bots(shared: Program) -> None:
    """They are waited for together, and not one after the other."""
    grace_s = 1.0
    body = {"kind": "anything", "params": {"what": "misbehaving:deaf"}, "grace_s": grace_s}
    with shared.level(memory_bytes=16 << 20):
        answers = shared.together(*[lambda client: client.post("/start", json=body)] * 100)
        ids = [answer.json()["bot_id"] for answer in answers]
        assert len(set(ids)) == 100
        wait_for(lambda: all("deaf" in shared.bot_log(bot_id) for bot_id in ids), limit_s=20)
        assert len(shared.processes()) == 100

        begin = time.monotonic()
        answers = shared.together(*[lambda client, id_=id_: client.get(f"/stop/{id_}") for id_ in ids])
        took_s = time.monotonic() - begin
        assert not shared.processes()
        assert [a.json() for a in answers] == [{"bot_id": bot_id, "state": "stopped"} for bot_id in ids]
        assert took_s <= grace_s + 3
        assert {run["cause"] for bot_id in ids for run in shared.runs(bot_id)} == {"stop-timeout"}
        assert {a.status_code for a in shared.together(*[_forget(bot_id) for bot_id in ids])} == {204}


def _forget(bot_id: int) -> Callable[[Any], Any]:
    return lambda client: client.delete(f"/bots/{bot_id}")


# ---- bots with descendants

FAMILIES = {
    "misbehaving:has_a_family": (5, 1),
    "descendants:has_many": (31, 31),
    "descendants:has_a_stopped_child": (2, 1),
    "descendants:has_a_subreaper": (3, 3),
    "descendants:has_a_child": (2, 3),
    "descendants:is_no_subreaper": (2, 2),
}
"""The processes of each, and the lines that they have printed when all are there and none comes or goes."""


@pytest.mark.parametrize("what", FAMILIES)
def test_all_descendants_are_gone_after_a_stop(make: Make, what: str) -> None:
    processes, lines = FAMILIES[what]
    bot = make(what)
    wait_for(lambda: bot.program.bot_log(bot.bot_id).count("\n") == lines, what="all are there")
    bot.has(processes)
    assert bot.stop() <= 2
    run = bot.run()
    assert (run["signal"], run["cause"]) == ("SIGTERM", "stopped")
    assert run["descendants_killed"] >= processes - 1


def test_descendants_are_counted_while_they_live(make: Make) -> None:
    bot = make("misbehaving:has_a_family")
    bot.says("family")
    assert bot.program.bot(bot.bot_id)["descendants"] == 4


@pytest.mark.parametrize("what", FAMILIES)
def test_all_descendants_are_gone_before_an_automatic_restart(make: Make, what: str) -> None:
    processes, _ = FAMILIES[what]
    bot = make(what, restart={"delay_s": 0.0, "max_restarts": 100})
    bot.has(processes)
    earlier = bot.processes()
    os.kill(bot.pid, signal.SIGKILL)
    wait_for(lambda: len(bot.program.runs(bot.bot_id)) == 2)
    assert not [process for process in earlier if process.is_running() and process.status() != "zombie"]
    bot.has(processes)
    bot.stop()


def test_a_new_process_finds_nothing_of_the_earlier_one(make: Make) -> None:
    """The bot itself looks, with its first line of code, six times."""
    bot = make("descendants:family_again", restart={"delay_s": 0.0, "max_restarts": 100})
    for n in range(1, 7):
        wait_for(lambda: bot.program.bot_log(bot.bot_id).count("family") == n)  # noqa: B023
        if n % 2:
            os.kill(bot.pid, signal.SIGKILL)
        else:
            assert bot.program.post(f"/bots/{bot.bot_id}/restart").status_code == 200
    wait_for(lambda: bot.program.bot_log(bot.bot_id).count("left over: []") == 6)
    assert bot.program.bot_log(bot.bot_id).count("left over:") == 6
    bot.stop()


def test_a_descendant_that_never_stays(make: Make) -> None:
    """It forks and ends again and again: whoever is killed has just left a child."""
    bot = make("descendants:hops")
    bot.says("rests")
    bot.stop()
    assert bot.run()["descendants_killed"] >= 1


@pytest.mark.parametrize("code", [0, 3])
def test_a_bot_that_ends_before_its_children(make: Make, code: int) -> None:
    bot = make("descendants:ends_before_its_children", {"code": code}, restart={"policy": "never"})
    bot.program.wait_state(bot.bot_id, "failed" if code else "exited")
    assert not bot.processes()
    assert bot.run()["exit_code"] == code
    # Written when all of them are gone, and thus after how the bot ended.
    wait_for(lambda: bot.run()["descendants_killed"] >= 1, what="they are in the ledger")


def test_a_bot_that_goes_into_the_background(make: Make) -> None:
    """What is in the background is nobody's bot: it has ended, and its daemon is gone."""
    bot = make("descendants:daemonizes")
    bot.program.wait_state(bot.bot_id, "exited")
    assert not bot.processes()


def test_a_bot_that_kills_its_group(make: Make) -> None:
    """It is alone in its group with its children: neighbours, zygote and supervisor are not."""
    neighbour = make("misbehaving:deaf")
    neighbour.says("deaf")
    zygote = neighbour.program.zygote("anything")
    bot = make("descendants:kills_its_group", restart={"policy": "never"})
    bot.program.wait_state(bot.bot_id, "failed")
    assert bot.run()["signal"] == "SIGKILL"
    assert not bot.processes()
    assert len(neighbour.processes()) == 1
    assert neighbour.program.zygote("anything") == zygote
    neighbour.stop(grace_s=0)


def test_ten_families_die_at_once(make: Make) -> None:
    """Nobody takes another's descendants for its own while that one lives."""
    stays = make("misbehaving:has_a_family")
    bots = [make("misbehaving:has_a_family", restart={"policy": "never"}) for _ in range(10)]
    for bot in (stays, *bots):
        bot.says("family")
        bot.has(5)
    zygote = stays.program.zygote("anything")
    zygote.suspend()
    try:
        for pid in [bot.pid for bot in bots]:
            os.kill(pid, signal.SIGKILL)
    finally:
        zygote.resume()
    for bot in bots:
        bot.program.wait_state(bot.bot_id, "failed")
        assert not bot.processes()
        assert (bot.run()["signal"], bot.run()["cause"]) == ("SIGKILL", "killed")
    assert len(stays.processes()) == 5
    stays.stop()


# ---- bots that cannot die


class Freezer:
    """A cgroup of version 1 whose processes take no signal, not even SIGKILL, until it is thawed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def freeze(self, *pids: int) -> None:
        for pid in pids:
            (self.path / "cgroup.procs").write_text(str(pid))
        (self.path / "freezer.state").write_text("FROZEN")
        wait_for(lambda: (self.path / "freezer.state").read_text() == "FROZEN\n")

    def thaw(self) -> None:
        (self.path / "freezer.state").write_text("THAWED")

    def remove(self) -> None:
        self.thaw()
        wait_for(lambda: not (self.path / "cgroup.procs").read_text(), what="the cgroup is empty")
        self.path.rmdir()


@pytest.fixture
def freezer() -> Iterator[Freezer]:
    if os.geteuid() != 0:
        pytest.skip("only root can freeze a process by a cgroup")
    if not (FREEZER / "cgroup.procs").exists():
        pytest.skip("there is no freezer cgroup of version 1")
    freezer = Freezer(FREEZER / f"bot-supervisor-test-{os.getpid()}")
    yield freezer
    freezer.remove()


def test_a_frozen_bot_is_not_called_stopped(make: Make, freezer: Freezer) -> None:
    bot = make("misbehaving:sleeps", grace_s=0.2)
    other = make("misbehaving:sleeps")
    program = bot.program
    bot.has(1)
    pid = bot.pid
    freezer.freeze(pid)
    with ThreadPoolExecutor() as thread:
        begin = time.monotonic()
        stop = thread.submit(lambda: program.get(f"/stop/{bot.bot_id}"))
        # The others are not held up.
        program.wait_state(bot.bot_id, "killing")
        assert other.stop() <= 1
        assert program.post(f"/bots/{other.bot_id}/start").json()["state"] == "running"
        # No second copy, however often it is asked for.
        assert program.post(f"/bots/{bot.bot_id}/start?wait=0").json()["state"] == "killing"
        assert program.post(f"/bots/{bot.bot_id}/restart?wait=0").json()["state"] == "killing"
        assert program.post(f"/bots/{bot.bot_id}/stop?wait=0").json()["state"] == "killing"
        answer = stop.result()
        assert 5 <= time.monotonic() - begin <= 6.5
    problem = answer.json()
    assert (answer.status_code, problem["type"], problem["state"]) == (504, "/problems/still-alive", "killing")
    wait_for(lambda: "SIGKILL did not end" in program.bot(bot.bot_id)["reason"])
    shown = program.bot(bot.bot_id)
    assert (shown["state"], shown["pid"], shown["goal"]) == ("killing", pid, "down")
    assert [process.pid for process in bot.processes()] == [pid]
    program.check_invariants()
    assert psutil.Process(program.pid).cpu_percent(0.3) < 30, "it does not spin while it waits"

    freezer.thaw()
    program.wait_state(bot.bot_id, "stopped")
    assert not bot.processes()
    [run] = program.ended_runs(bot.bot_id)
    assert (run["signal"], run["cause"]) == ("SIGKILL", "stop-timeout")


def test_a_frozen_bot_that_is_wanted_again(make: Make, freezer: Freezer) -> None:
    """Its next process waits until the first is gone; so does whoever asked for it, but not for ever."""
    bot = make("misbehaving:sleeps", grace_s=0.1)
    bot.has(1)
    program, pid = bot.program, bot.pid
    freezer.freeze(pid)
    assert program.post(f"/bots/{bot.bot_id}/restart?wait=0").status_code == 202
    program.wait_state(bot.bot_id, "killing")
    with ThreadPoolExecutor() as thread:
        start = thread.submit(lambda: program.post(f"/bots/{bot.bot_id}/start"))
        wait_for(lambda: "asked to start" in program.bot(bot.bot_id)["reason"])
        assert [process.pid for process in bot.processes()] == [pid]
        freezer.thaw()
        answer = start.result()
    assert (answer.status_code, answer.json()["state"]) == (200, "running")
    bot.has(1)
    assert [process.pid for process in bot.processes()] == [answer.json()["pid"]]
    assert pid != answer.json()["pid"]
    assert [run["cause"] for run in program.runs(bot.bot_id)] == ["stop-timeout", None]
    bot.stop()


def test_a_frozen_descendant(make: Make, freezer: Freezer) -> None:
    """The bot itself is gone, but not all of it, and so it is neither called stopped nor started again."""
    bot = make("descendants:has_a_child", grace_s=0.1)
    child = bot.child()
    other = make("misbehaving:has_a_family")
    other.has(5)
    program = bot.program
    freezer.freeze(child)
    os.kill(bot.pid, signal.SIGKILL)
    wait_for(lambda: len(bot.processes()) == 1)
    assert program.bot(bot.bot_id)["state"] in ("running", "stopping", "killing")
    with ThreadPoolExecutor() as thread:
        stop = thread.submit(lambda: program.get(f"/stop/{bot.bot_id}"))
        wait_for(lambda: program.bot(bot.bot_id)["state"] == "killing")
        assert other.stop() <= 1
        assert program.post(f"/bots/{bot.bot_id}/start?wait=0").json()["state"] == "killing"
        assert program.post(f"/bots/{bot.bot_id}/stop?wait=0").json()["state"] == "killing"
        assert len(program.runs(bot.bot_id)) == 1
        assert not stop.done()
        freezer.thaw()
        assert stop.result().json()["state"] == "stopped"
        assert not bot.processes()
    [run] = program.runs(bot.bot_id)
    assert (run["signal"], run["descendants_killed"]) == ("SIGKILL", 1)


def test_the_supervisor_ends_although_a_bot_cannot(make_program: Any, freezer: Freezer) -> None:
    program = make_program(config="shutdown_s = 0.3\n").start()
    bot_id, other = program.start_bot(grace_s=0.2), program.start_bot()
    # Not frozen before its output goes to its log, by which it is found.
    pid = program.wait_state(bot_id, "running")["pid"]
    freezer.freeze(pid)
    begin = time.monotonic()
    program.terminate()
    assert time.monotonic() - begin < 8
    assert f"bot-{bot_id} would not die" in program.log()
    assert [process.pid for process in program.processes()] == [pid]
    freezer.thaw()
    wait_for(lambda: not psutil.pid_exists(pid), what="whoever waits for it has reaped it")

    # The next one is told how it ended, and starts it again, as it is wanted.
    program.start()
    assert program.wait_state(bot_id, "running")["pid"] != pid
    assert program.wait_state(other, "running")
    first, second = program.runs(bot_id)
    assert first["signal"] == "SIGKILL"
    assert first["cause"] in ("stop-timeout", "restarted")
    assert second["cause"] is None
    assert program.terminate() == 0
