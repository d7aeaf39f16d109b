"""The commands of botctl that follow, against the real program."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable

import pytest

from supervisor.botctl.exits import Exit
from tests.botctl.test_botctl import Botctl, on_a_terminal
from tests.program import Program
from tests.waiting import wait_for

KINDS = {
    "crashing": 'target = "misbehaving:raises"\nrestart = {policy = "never"}',
    "deaf": 'target = "misbehaving:deaf"\ngrace_s = 3',
}


@pytest.fixture
def botctl(shared: Program) -> Botctl:
    return Botctl(shared)


def test_logs_are_followed_until_ctrl_c(botctl: Botctl, shared: Program) -> None:
    first, second = (shared.start_bot(params={"start_number": number}) for number in (100, 200))
    ids = map(str, (first, second))
    with botctl.running("logs", "-f", *ids, told=f"botctl: there is no bot {second}\n") as logs:
        wait_for(
            lambda: {f"bot-{first} | 101", f"bot-{second} | 201"} <= set(logs.out().splitlines()), what="both go on"
        )
        shared.client.delete(f"/bots/{second}")
        wait_for(logs.err, what="it is told that one is gone")
        lines = logs.out().count("\n")
        wait_for(lambda: logs.out().count("\n") > lines, what="one goes on without the other")
    numbers = [int(number) for number in re.findall(rf"bot-{first} \| (\d+)", logs.out())]
    assert numbers == list(range(100, 100 + len(numbers)))


def test_logs_of_one_bot_as_json(botctl: Botctl, shared: Program) -> None:
    bot_id = shared.start_bot(params={"start_number": 7})
    with botctl.running("logs", "-f", "--json", str(bot_id)) as logs:
        wait_for(lambda: logs.out().count("\n") >= 2, what="two lines came")
    assert json.loads(logs.out().splitlines()[1]) == {"bot_id": bot_id, "offset": 4, "line": "8"}


def test_a_new_supervisor_ends_no_feed(make_program: Callable[..., Program]) -> None:
    program = make_program().start()
    botctl = Botctl(program)
    bot_id = program.start_bot()
    with botctl.running("logs", "-f", str(bot_id)) as logs, botctl.running("events", "-f", "--json") as events:
        wait_for(lambda: "0\n" in logs.out() and "running" in events.out(), what="both have begun")
        replaced = program.replace()
        assert replaced.returncode == 0, replaced
        before = logs.out().count("\n")
        program.post(f"/bots/{bot_id}/restart")
        wait_for(lambda: logs.out().count("\n") > before + 1 and "stopping" in events.out(), 20, "both have gone on")
    whole = program.bot_log(bot_id)
    assert whole.startswith(logs.out())
    numbers = [json.loads(line)["event_id"] for line in events.out().splitlines()]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_events(botctl: Botctl, shared: Program) -> None:
    bot_id = shared.start_bot(name="adder")
    shared.wait_state(bot_id, "running")
    [line] = botctl("events").stdout.splitlines()
    assert line.split()[2:] == ["bot-" + str(bot_id), "adder", "counter", "running", "its", "process", "is", "ready"]
    with botctl.running("events", "-f", "--json", "--bot", str(bot_id), code=Exit.WELL) as feed:
        wait_for(feed.out, what="it follows")
        shared.client.delete(f"/bots/{bot_id}")
    events = [json.loads(line) for line in feed.out().splitlines()]
    assert [event["state"] for event in events][:3] == ["running", "stopping", "stopped"]
    assert [event["deleted"] for event in events][-2:] == [False, True]
    numbers = [event["event_id"] for event in events]
    assert numbers == sorted(set(numbers))
    assert botctl("events").stdout == ""
    with botctl.running("events", "-f") as feed:
        shared.start_bot(name="late")
        wait_for(lambda: "late  counter  running" in feed.out(), what="the change came")


def test_wait(botctl: Botctl, shared: Program) -> None:
    bot_id = str(shared.start_bot())
    assert botctl.json("wait", bot_id, "--for", "ready")["state"] == "running"
    late = botctl("wait", bot_id, "--for", "stopped", "--timeout", "0.5", expected=Exit.NOT_ALL_WELL)
    assert late.stderr == f"botctl: bot {bot_id} is not stopped after 0.5 s\n"
    stop = threading.Timer(1, shared.post, (f"/stop/{bot_id}",))
    stop.start()
    assert botctl("wait", bot_id, "--for", "stopped").stdout.startswith(f"bot {bot_id} stopped: ")
    stop.join()
    assert " stopped: " in botctl("wait", bot_id, expected=Exit.NOT_ALL_WELL).stderr
    bad = str(shared.start_bot("crashing"))
    assert f"bot {bad} failed: " in botctl("wait", bad, "--timeout", "20", expected=Exit.NOT_ALL_WELL).stderr
    botctl("wait", "99999", expected=Exit.REFUSED)


def test_ctrl_c_waits_for_no_stop(botctl: Botctl, shared: Program) -> None:
    ids = [shared.start_bot("deaf") for _ in range(2)]
    # Patient enough for a machine on which botctl takes seconds to end.
    with botctl.running("stop", "--grace-s", "60", *map(str, ids)):
        for bot_id in ids:
            shared.wait_state(bot_id, "stopping")
    assert [shared.bot(bot_id)["state"] for bot_id in ids] == ["stopping"] * 2, "botctl is gone, and they are not yet"
    shared.post("/bots/stop?kind=deaf", {"grace_s": 0.1})


def test_many_alike(botctl: Botctl, shared: Program) -> None:
    if "/bots/batch" not in shared.get("/openapi.json").json()["paths"]:
        pytest.skip("this supervisor has no POST /bots/batch yet")
    lines = botctl("start", "--count", "3", "--label", "n=1").stdout.splitlines()
    assert [re.fullmatch(r"bot \d+ (starting|running): .*", line) is not None for line in lines] == [True] * 3
    assert len(botctl.json("start", "--count", "2")["bots"]) == 2
    ids = [bot["bot_id"] for bot in botctl.json("ps")]
    wait_for(lambda: all(map(shared.bot_log, ids)), what="each has printed")
    shown, code = on_a_terminal("logs", env=botctl.env)
    assert code == 0
    assert len(set(re.findall(r"\x1b\[(\d+)mbot-\d+", shown))) == 5
