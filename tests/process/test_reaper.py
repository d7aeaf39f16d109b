"""What a bot has started does not outlive it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from botproc import reaper, wire
from tests.process.clients import ZygoteClient
from tests.waiting import wait_for

MakeZygote = Callable[..., ZygoteClient]


@pytest.fixture
def family_zygote(make_zygote: MakeZygote) -> ZygoteClient:
    zygote = make_zygote("misbehaving:has_a_family")
    zygote.connect()
    return zygote


def family(zygote: ZygoteClient, bot_id: int) -> list[psutil.Process]:
    """The bot's descendants, as it printed them."""
    line = zygote.wait_log(bot_id, "family").partition("family")[2]
    return [psutil.Process(int(pid)) for pid in line.split()]


def gone(processes: list[psutil.Process]) -> bool:
    return not any(process.is_running() for process in processes)


def test_all_that_a_bot_started_is_gone_when_it_was_killed(family_zygote: ZygoteClient) -> None:
    alive = family_zygote.spawn()
    descendants = family(family_zygote, 1)
    assert len({p.pid for p in descendants}) == 4
    assert len({os.getsid(p.pid) for p in descendants}) == 4, "one in the bot's session, three with their own"
    os.kill(alive.pid, signal.SIGKILL)
    ended = family_zygote.ended(alive.run_id)
    assert gone(descendants), "swept is said when nothing is left"
    assert (ended.signal, ended.descendants_killed) == (signal.SIGKILL, 4)


def test_ten_bots_that_die_at_once_leave_nothing(family_zygote: ZygoteClient) -> None:
    bots = [family_zygote.spawn(bot_id) for bot_id in range(1, 11)]
    survivor = family_zygote.spawn(11)
    descendants = [one for bot in bots for one in family(family_zygote, bot.bot_id)]
    survivors = family(family_zygote, 11)
    assert len({p.pid for p in descendants}) == 40
    for bot in bots:
        os.kill(bot.pid, signal.SIGKILL)
    for bot in bots:
        assert family_zygote.ended(bot.run_id).signal == signal.SIGKILL
    assert gone(descendants)
    assert all(one.is_running() for one in survivors), "another bot's family is not touched"
    os.kill(survivor.pid, signal.SIGKILL)
    family_zygote.ended(survivor.run_id)
    assert gone(survivors)


def test_the_end_of_a_bot_is_told_before_its_rest_is_gone(family_zygote: ZygoteClient) -> None:
    alive = family_zygote.spawn()
    family(family_zygote, 1)
    os.kill(alive.pid, signal.SIGKILL)
    first = family_zygote.receive()
    assert isinstance(first, wire.Ended)
    assert not first.swept
    second = family_zygote.receive()
    assert isinstance(second, wire.Ended)
    assert second.swept
    assert (first.signal, first.ended_at) == (second.signal, second.ended_at)


def test_a_stray_that_forks_again_and_again_is_caught(make_zygote: MakeZygote) -> None:
    zygote = make_zygote("hydra:main")
    zygote.connect()
    alive = zygote.spawn()
    zygote.wait_log(1, "many heads")
    os.kill(alive.pid, signal.SIGKILL)
    assert zygote.ended(alive.run_id).descendants_killed >= 1
    assert [p.pid for p in zygote.processes()] == [zygote.process.pid]


def test_a_helper_that_the_import_started_is_no_stray(make_zygote: MakeZygote) -> None:
    zygote = make_zygote("has_a_helper:main")
    zygote.connect()
    alive = zygote.spawn()
    helper = psutil.Process(int(zygote.wait_log(1, "\n")))
    os.kill(alive.pid, signal.SIGKILL)
    assert zygote.ended(alive.run_id).descendants_killed == 0
    assert helper.is_running()
    helper.kill()
    wait_for(lambda: not helper.is_running())
    zygote.spawn(2)


def test_while_a_bot_lives_its_orphans_are_its_own(family_zygote: ZygoteClient) -> None:
    alive = family_zygote.spawn()
    assert {p.ppid() for p in family(family_zygote, 1)} == {alive.pid}


def test_bots_that_give_up_their_orphans_keep_them_as_long_as_they_live(make_zygote: MakeZygote) -> None:
    zygote = make_zygote("gives_up_its_orphans:main")
    zygote.connect()
    bots = [zygote.spawn(bot_id) for bot_id in (1, 2)]
    first, second = (
        [psutil.Process(int(pid)) for pid in zygote.wait_log(bot_id, "\n").split()[1:]] for bot_id in (1, 2)
    )
    assert {one.ppid() for one in (*first, *second)} == {zygote.process.pid}
    os.kill(bots[0].pid, signal.SIGKILL)
    ended = zygote.ended(bots[0].run_id)
    assert ended.descendants_killed == 3
    assert gone(first)
    assert all(one.is_running() for one in second), "those of the other bot are not touched"
    os.kill(bots[1].pid, signal.SIGTERM)
    assert zygote.ended(bots[1].run_id).descendants_killed == 3
    assert gone(second)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def test_both_ways_to_find_children_agree(sleeper: subprocess.Popen[bytes]) -> None:
    ours: reaper.Reaper[int] = reaper.Reaper(lambda _: None)
    assert sleeper.pid in ours.children()
    assert ours.children() == reaper.children_by_parent()
    ours.close()


def test_a_reaper_alone(tmp_path: Path) -> None:
    """In a process of its own, as it takes every child that there is."""
    script = """
import os, signal, time
from botproc import kernel, reaper
kernel.become_subreaper()
ours = reaper.Reaper(lambda _: None)
assert ours.reap() == [] and ours.sweep([]) == []
read, write = os.pipe()
pid = os.fork()
if pid == 0:
    if os.fork() == 0:
        os.write(write, b"x")
        time.sleep(600)
    os.read(read, 1)
    os._exit(3)
ours.expect(pid, "a")
signal.signal(signal.SIGCHLD, lambda *_: None)
os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
deaths = ours.reap()
assert [(d.key, d.pid, d.exit_code, d.signal) for d in deaths] == [("a", pid, 3, None)], deaths
assert ours.sweep(["a"]) == []
(stray,) = ours.children()
os.waitid(os.P_PID, stray, os.WEXITED | os.WNOWAIT)
assert ours.reap() == []
assert ours.sweep([]) == [("a", 1)]
assert ours.sweep([]) == []
other = os.fork()
if other == 0:
    os._exit(0)
ours.expect(other, "b")
ours.forget(other)
os.waitid(os.P_PID, other, os.WEXITED | os.WNOWAIT)
assert ours.reap() == []
print("good")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=False)
    assert (done.stdout, done.stderr) == ("good\n", "")
