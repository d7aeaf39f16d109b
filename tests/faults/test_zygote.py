"""Zygotes that are killed, stopped or stuck: bots run on, their ends are known, and the next start works."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.faults.observe import copies, end, ends_well, is_alive, kernel, last_end, ready, warm_zygote
from tests.program import Program
from tests.waiting import wait_for

NEVER = {"policy": "never"}
AT_ONCE = {"delay_s": 0.05}
SOON = ["--shutdown-s", "1"]
KINDS = {
    "deaf": 'target = "misbehaving:deaf"\ngrace_s = 0.3',
    "family": 'target = "misbehaving:has_a_family"',
    "leaves": 'target = "obedient:leaves"',
}

Make = Callable[..., Program]
Pool = concurrent.futures.ThreadPoolExecutor


@pytest.fixture
def crowd(make_program: Make) -> Program:
    """A program of its own, for tests that kill the supervisor too."""
    return make_program(kinds={"leaves": KINDS["leaves"]}, flags=SOON).start()


def kill_zygote(program: Program, kind: str = "counter") -> psutil.Process:
    """kill -9 of a zygote; returns when it is gone."""
    zygote = warm_zygote(program, kind)
    end(zygote, signal.SIGKILL)
    return zygote


# ---- killed


def test_a_killed_zygote_takes_no_bot_with_it(shared: Program) -> None:
    by_code, by_signal, stays = (shared.start_bot("leaves", restart=NEVER) for _ in range(3))
    pids = [ready(shared, bot_id, "waiting") for bot_id in (by_code, by_signal, stays)]
    before = kill_zygote(shared, "leaves")

    assert [ready(shared, bot_id) for bot_id in (by_code, by_signal, stays)] == pids
    os.kill(pids[0], signal.SIGUSR1)
    os.kill(pids[1], signal.SIGKILL)
    shared.wait_state(by_code, "failed")
    shared.wait_state(by_signal, "failed")
    assert last_end(shared, by_code) == ("crashed", 44, None)
    assert last_end(shared, by_signal) == ("killed", None, "SIGKILL")
    ended = shared.runs(by_code)[-1]
    assert ended["cpu_seconds"] > 0
    assert ended["max_rss_bytes"] > 0

    another = shared.start_bot("leaves")
    ready(shared, another, "waiting")
    assert warm_zygote(shared, "leaves") != before
    assert shared.get(f"/stop/{stays}").json()["state"] == "stopped"
    assert last_end(shared, stays) == ("stopped", None, "SIGTERM")


def test_a_stop_gets_the_whole_tree_of_a_bot_without_a_zygote(shared: Program) -> None:
    bot_id = shared.start_bot("family")
    pid = ready(shared, bot_id, "family")
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    assert len(family) == 5
    kill_zygote(shared, "family")
    assert shared.get(f"/stop/{bot_id}").status_code == 200
    assert [process for process in family if is_alive(process)] == []
    assert shared.runs(bot_id)[-1]["descendants_killed"] == 4


def test_a_zygote_killed_during_a_stop_holds_nothing_up(shared: Program, pool: Pool) -> None:
    bot_id = shared.start_bot("deaf", grace_s=1)
    ready(shared, bot_id, "deaf")
    begin = time.monotonic()
    stop = pool.submit(shared.get, f"/stop/{bot_id}")
    shared.wait_state(bot_id, "stopping")
    kill_zygote(shared, "deaf")
    assert stop.result().json() == {"bot_id": bot_id, "state": "stopped"}
    assert time.monotonic() - begin < 2
    assert last_end(shared, bot_id) == ("stop-timeout", None, "SIGKILL")


def test_a_zygote_killed_while_it_imports(make_program: Make, pool: Pool) -> None:
    program = make_program(kinds={"slow": 'target = "a_second:main"'}, flags=SOON).start()
    zygote = wait_for(lambda: program.get("/kinds/slow").json()["zygote_pid"], 5)
    start = pool.submit(program.post, "/start", {"kind": "slow", "restart": AT_ONCE})
    program.get("/livez")
    psutil.Process(zygote).kill()
    answer = start.result()
    # Told to try again, or done already; never a bot that nobody knows of.
    assert answer.status_code in (200, 503), answer.text
    if answer.status_code == 503:
        assert int(answer.headers["Retry-After"]) > 0
        assert program.get("/bots").json() == []
    assert program.post("/start", {"kind": "slow"}).status_code == 200


def test_zygotes_killed_again_and_again_under_starts(shared: Program, pool: Pool) -> None:
    started: list[int] = []
    for _ in range(5):
        answers = [pool.submit(shared.post, "/start", {"kind": "counter", "restart": AT_ONCE}) for _ in range(6)]
        kill_zygote(shared)
        for answer in concurrent.futures.as_completed(answers):
            response = answer.result()
            assert response.status_code in (200, 503), response.text
            if response.status_code == 200:
                started.append(response.json()["bot_id"])
    assert started
    pids = {ready(shared, bot_id) for bot_id in started}
    # Each that was answered runs once, and what was not answered does not run.
    wait_for(lambda: {process.pid for process in shared.processes()} == pids, 5, "just these run")
    assert all(copies(shared, bot_id) == 1 for bot_id in started)


def make_killed(make_program: Make, armed: Path) -> Program:
    kind = f'target = "killed_at_fork:main"\nenv = {{ ARMED = "{armed}" }}'
    return make_program(kinds={"killed": kind}, flags=SOON).start()


@pytest.mark.parametrize("made_by", ["us", "an earlier supervisor"])
def test_a_zygote_killed_between_fork_and_answer(make_program: Make, tmp_path: Path, made_by: str) -> None:
    armed = tmp_path / "armed"
    program = make_killed(make_program, armed)
    bot_id = program.start_bot("killed", restart=AT_ONCE)
    program.get(f"/stop/{bot_id}")
    if made_by != "us":
        program.kill()
        program.start()
    armed.write_text("before its answer")
    assert program.post(f"/bots/{bot_id}/start").status_code == 200
    # Held up before it could take the bot's lock, it must never come to that.
    half_made = int(armed.with_suffix(".pid").read_text())
    assert not psutil.pid_exists(half_made) or not is_alive(psutil.Process(half_made))
    program.wait_state(bot_id, "running")
    assert copies(program, bot_id) == 1


def test_a_zygote_killed_between_answer_and_the_supervisors_look(make_program: Make, tmp_path: Path) -> None:
    armed = tmp_path / "armed"
    program = make_killed(make_program, armed)
    warm_zygote(program, "killed")
    armed.write_text("after its answer")
    bot_id = program.start_bot("killed", restart=NEVER)
    assert str(ready(program, bot_id, "runs")) == armed.with_suffix(".pid").read_text()


def test_a_zygote_that_cannot_be_understood(make_program: Make) -> None:
    """It is ended, and what it forks is not left to run unknown."""
    program = make_program(kinds={"babbles": 'target = "babbles:main"'}, flags=SOON).start()
    zygote = warm_zygote(program, "babbles")
    assert program.post("/start", {"kind": "babbles"}).status_code == 503
    wait_for(lambda: not is_alive(zygote), 5, "it has ended")
    wait_for(lambda: program.processes() == [], 5, "nothing runs")
    assert program.get("/bots").json() == []
    assert "cannot be understood" in program.log()
    ends_well(program, signal.SIGTERM)


def test_a_zygote_killed_with_a_spawn_in_its_socket(shared: Program, pool: Pool) -> None:
    old = shared.start_bot(restart=AT_ONCE)
    shared.get(f"/stop/{old}")
    warm_zygote(shared).suspend()
    new = pool.submit(shared.post, "/start", {})
    again = pool.submit(shared.post, f"/bots/{old}/start")
    wait_for(lambda: len(shared.ledger("SELECT * FROM run WHERE cause IS NULL")) == 2, 5, "both runs are in the ledger")
    shared.get("/livez")
    kill_zygote(shared)
    # The new one is not made; the old one has a policy, and is.
    assert new.result().status_code == 503
    assert [bot["bot_id"] for bot in shared.get("/bots").json()] == [old]
    assert again.result().status_code == 200
    shared.wait_state(old, "running")
    assert [run["cause"] for run in shared.runs(old)] == ["stopped", "spawn-failed", None]
    assert copies(shared, old) == 1


# ---- stopped


def test_a_stopped_zygote_does_not_hide_how_bots_end(shared: Program) -> None:
    stopped, crashed = (shared.start_bot("leaves", grace_s=1, restart=NEVER) for _ in range(2))
    pids = [ready(shared, bot_id, "waiting") for bot_id in (stopped, crashed)]
    warm_zygote(shared, "leaves").suspend()
    os.kill(pids[1], signal.SIGUSR1)
    assert shared.get(f"/stop/{stopped}").status_code == 200
    assert last_end(shared, stopped) == ("stopped", None, "SIGTERM")
    shared.wait_state(crashed, "failed")
    assert last_end(shared, crashed) == ("crashed", 44, None)


def test_a_stopped_zygote_does_not_hold_up_a_start(shared: Program) -> None:
    shared.start_bot("leaves")
    warm_zygote(shared, "leaves").suspend()
    answer = shared.post("/start", {"kind": "leaves"})
    assert answer.status_code in (200, 503), answer.text
    wait_for(lambda: shared.post("/start", {"kind": "leaves"}).status_code == 200, 10, "the next start works")


# ---- both


def test_zygote_first_and_supervisor_second(crowd: Program) -> None:
    by_code, by_signal, stays = (crowd.start_bot("leaves", restart=NEVER) for _ in range(3))
    pids = [ready(crowd, bot_id, "waiting") for bot_id in (by_code, by_signal, stays)]
    kill_zygote(crowd, "leaves")
    crowd.kill()
    end(psutil.Process(pids[0]), signal.SIGUSR1, reaped=True)
    crowd.start()
    # It died while there was nobody to see it. Policy or not: its goal is up.
    assert crowd.wait_state(by_code, "running")["pid"] != pids[0]
    assert [run["cause"] for run in crowd.runs(by_code)] == ["lost", None]
    assert [ready(crowd, bot_id) for bot_id in (by_signal, stays)] == pids[1:]
    assert crowd.bot(stays)["reason"] == "its process was found running when the supervisor came back"
    # The end of one that is not our child is seen all the same.
    os.kill(pids[1], signal.SIGKILL)
    crowd.wait_state(by_signal, "failed")
    if kernel() >= (6, 15):
        assert last_end(crowd, by_signal) == ("killed", None, "SIGKILL")
    assert crowd.get(f"/stop/{stays}").status_code == 200
    assert crowd.processes() != []
    assert copies(crowd, by_code) == 1


def test_supervisor_first_and_zygote_second(crowd: Program) -> None:
    dies, down, stays = (crowd.start_bot() for _ in range(3))
    pids = [ready(crowd, bot_id) for bot_id in (dies, down, stays)]
    zygote = crowd.zygote()
    assert crowd.post(f"/bots/{down}/stop", {"grace_s": 3}).status_code == 200
    crowd.kill()
    end(zygote, signal.SIGKILL)
    end(psutil.Process(pids[0]), signal.SIGKILL, reaped=True)
    crowd.start()
    assert ready(crowd, dies) != pids[0]
    assert [run["cause"] for run in crowd.runs(dies)] == ["lost", None]
    assert ready(crowd, stays) == pids[2]
    assert crowd.bot(down)["state"] == "stopped"
    assert copies(crowd, dies) == copies(crowd, stays) == 1
    assert copies(crowd, down) == 0


@pytest.mark.parametrize("first", ["supervisor", "zygote"])
def test_a_stop_gets_the_tree_of_a_bot_that_has_lost_both(make_program: Make, first: str) -> None:
    """What it leaves goes to init; all that it had when it was told to end is gone with it."""
    program = make_program(kinds={"family": KINDS["family"]}, flags=SOON).start()
    bot_id = program.start_bot("family")
    pid, zygote = ready(program, bot_id, "family"), program.zygote("family")
    tree = psutil.Process(pid).children(recursive=True)
    program.kill()
    if first == "zygote":
        end(zygote, signal.SIGKILL)
    program.start()
    if first == "supervisor":
        # Not the child of this one, nor are its bots.
        end(zygote, signal.SIGKILL)
        wait_for(lambda: program.get("/kinds/family").json()["zygote_pid"] != zygote.pid, 10)
    assert ready(program, bot_id) == pid
    assert len(tree) == 4
    assert program.get(f"/stop/{bot_id}").json()["state"] == "stopped"
    assert [process for process in tree if is_alive(process)] == []
    assert last_end(program, bot_id)[0] == ("stopped" if kernel() >= (6, 15) else "lost")
    assert program.runs(bot_id)[-1]["descendants_killed"] == 4
    ends_well(program, signal.SIGTERM)


def test_a_run_whose_pid_never_reached_the_ledger_is_found_by_its_lock(crowd: Program) -> None:
    bot_id = crowd.start_bot()
    pid, zygote = ready(crowd, bot_id), crowd.zygote()
    crowd.kill()
    end(zygote, signal.SIGKILL)
    crowd.write("UPDATE run SET pid = NULL, start_ticks = NULL, inode = NULL, boot_id = NULL")
    crowd.start()
    assert crowd.wait_state(bot_id, "running")["pid"] == pid
    # In the ledger a moment later.
    wait_for(lambda: [run["pid"] for run in crowd.runs(bot_id)] == [pid], what="the ledger has its pid")
    assert crowd.get(f"/stop/{bot_id}").status_code == 200
    assert crowd.processes() == []


def test_a_zygote_of_an_earlier_supervisor_is_killed(crowd: Program) -> None:
    by_code, stays = (crowd.start_bot("leaves", restart=NEVER) for _ in range(2))
    pids = [ready(crowd, bot_id, "waiting") for bot_id in (by_code, stays)]
    crowd.kill()
    crowd.start()
    # Its bots are not our descendants: init takes them.
    kill_zygote(crowd, "leaves")
    os.kill(pids[0], signal.SIGUSR1)
    crowd.wait_state(by_code, "failed")
    if kernel() >= (6, 15):
        assert last_end(crowd, by_code) == ("crashed", 44, None)
    assert crowd.start_bot("leaves")
    assert ready(crowd, stays) == pids[1]
    assert crowd.get(f"/stop/{stays}").status_code == 200


def test_a_stopped_zygote_of_an_earlier_supervisor(crowd: Program) -> None:
    by_code, stays = (crowd.start_bot("leaves", restart=NEVER) for _ in range(2))
    pids = [ready(crowd, bot_id, "waiting") for bot_id in (by_code, stays)]
    zygote = crowd.zygote("leaves")
    zygote.suspend()
    crowd.kill()
    crowd.start()
    # It was sent SIGKILL, and has a moment to die of it.
    wait_for(lambda: not is_alive(zygote), 5, "it is killed")
    assert ready(crowd, stays) == pids[1]
    os.kill(pids[0], signal.SIGUSR1)
    crowd.wait_state(by_code, "failed")
    if kernel() >= (6, 15):
        assert last_end(crowd, by_code) == ("crashed", 44, None)
    assert copies(crowd, stays) == 1
    assert ready(crowd, crowd.start_bot("leaves"))
