"""What the loss of the supervisor means, where `without_supervisor_s` says so: nobody runs for ever unseen."""

from __future__ import annotations

import signal
from collections.abc import Callable

import psutil

from tests.faults.observe import ends_well, is_alive, ready
from tests.program import Program
from tests.waiting import wait_for

KINDS = {
    "leaves": 'target = "obedient:leaves"',
    "family": 'target = "misbehaving:has_a_family"',
    "deaf": 'target = "misbehaving:deaf"\ngrace_s = 0.3',
}
SOON = ["--shutdown-s", "0.5"]

Make = Callable[..., Program]


def gone(program: Program) -> bool:
    """Whether no bot is left, while a zygote that has ends to tell is."""
    return not program.processes()


def test_bots_are_stopped_and_started_again(make_program: Make) -> None:
    program = make_program(kinds=KINDS, flags=[*SOON, "--without-supervisor-s", "1"]).start()
    by_code, by_signal, family, deaf, down = (
        program.start_bot(kind) for kind in ("counter", "leaves", "family", "deaf", "counter")
    )
    ready(program, by_signal, "waiting"), ready(program, deaf, "deaf")
    tree = psutil.Process(ready(program, family, "family")).children(recursive=True)
    frozen = psutil.Process(ready(program, by_code))
    frozen.suspend()
    assert program.get(f"/stop/{down}").status_code == 200
    kinds = {"counter", "leaves", "family", "deaf"}
    zygotes = {kind: program.zygote(kind) for kind in kinds}

    program.kill()
    # A bot is seen to be gone a moment before its zygote has ended what it left.
    wait_for(lambda: gone(program) and not any(map(is_alive, tree)), 20, "all bots are ended, and all of them")
    program.start()
    for bot_id, cause, code, signame in (
        (by_code, "stopped", 0, None),
        (by_signal, "stopped", None, "SIGTERM"),
        (family, "stopped", None, "SIGTERM"),
        (deaf, "stop-timeout", None, "SIGKILL"),
    ):
        wait_for(lambda: len(program.runs(bot_id)) == 2, 10, f"bot {bot_id} is started again")  # noqa: B023
        program.wait_state(bot_id, "running")
        first = program.runs(bot_id)[0]
        assert (first["cause"], first["exit_code"], first["signal"]) == (cause, code, signame)
        assert "no supervisor" in first["detail"]
    assert program.runs(family)[0]["descendants_killed"] == 4
    assert program.bot(down)["state"] == "stopped"
    assert {kind: program.zygote(kind) for kind in kinds} == zygotes
    ends_well(program, signal.SIGTERM)


def test_a_supervisor_that_comes_in_time_finds_all(make_program: Make) -> None:
    """The time counts from when the latest one has gone."""
    # Longer than a slow machine takes for one supervisor.
    program = make_program(kinds={"leaves": KINDS["leaves"]}, flags=[*SOON, "--without-supervisor-s", "60"]).start()
    bot_id = program.start_bot("leaves")
    pid = ready(program, bot_id, "waiting")
    for again in (program.kill, program.replace):
        again()
        if not program.running:
            program.start()
        assert program.wait_state(bot_id, "running")["pid"] == pid
    assert [run["cause"] for run in program.runs(bot_id)] == [None]


def test_a_supervisor_of_other_settings_is_told_how_they_ended(make_program: Make) -> None:
    program = make_program(kinds={"deaf": KINDS["deaf"]}, flags=[*SOON, "--without-supervisor-s", "1"]).start()
    bot_id = program.start_bot("deaf", restart={"policy": "never"})
    bot = psutil.Process(ready(program, bot_id, "deaf"))
    program.kill()
    wait_for(lambda: not is_alive(bot), 10, "SIGKILL after the grace")
    program.flags[-1] = "100"
    program.start()
    wait_for(lambda: len(program.runs(bot_id)) == 2, 10)
    assert program.runs(bot_id)[0]["cause"] == "stop-timeout"
