"""The way of a user through the README, with the real program."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.program import Program
from tests.waiting import wait_for

KINDS = {
    "exits": 'target = "misbehaving:exits"',
    "family": 'target = "misbehaving:has_a_family"',
    "floods": 'target = "obedient:floods"',
    "leaves": 'target = "obedient:leaves"',
}
BOT = {
    "bot_id": int, "name": type(None), "kind": str, "params": dict, "labels": dict, "restart": dict, "grace_s": float,
    "goal": str, "state": str, "reason": str, "pid": int, "run_id": int, "started_at": str, "ready_at": str,
    "uptime_s": float, "restarts": int, "next_start_at": type(None), "cpu_percent": float, "rss_bytes": int,
    "threads": int, "descendants": int, "heartbeat_age_s": type(None), "status": type(None), "last_exit": type(None),
    "limits": dict, "schedule": type(None), "created_at": str, "overrides": dict, "waiting_for": type(None),
    "frozen": bool, "node": type(None),
}  # fmt: skip
"""The fields of a running bot, and what is in them."""
OF_A_PROCESS = {
    "pid", "run_id", "started_at", "ready_at", "uptime_s", "cpu_percent", "rss_bytes", "threads", "descendants",
    "frozen",
}  # fmt: skip
RUN = {
    "run_id", "bot_id", "kind", "params", "pid", "started_at", "ready_at", "ended_at", "exit_code", "signal", "cause",
    "detail", "cpu_seconds", "max_rss_bytes", "descendants_killed", "log_bytes", "last_lines", "raised", "fingerprint",
    "node",
}  # fmt: skip

Make = Callable[..., Program]


def moment(text: str) -> datetime:
    """A time as the API writes it: RFC 3339 in UTC, to the microsecond."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", text), text
    return datetime.fromisoformat(text)


def lines_of(program: Program, bot_id: int) -> list[str]:
    """What the program's own output has of a bot, without the prefix."""
    return re.findall(rf"^bot-{bot_id} \| (.*)\n", program.log(), re.M)


def running(program: Program, bot_id: int) -> dict[str, Any]:
    return program.wait_state(bot_id, "running")


# ---- the four calls that the project began with


def test_the_short_form(program: Program) -> None:
    before = datetime.now(UTC)
    first = program.post("/start")
    assert (first.status_code, first.json()) == (200, {"bot_id": 1})
    assert first.headers["Content-Type"] == "application/json"
    second = program.post("/start", {"start_number": 12})
    assert (second.status_code, second.json()) == (200, {"bot_id": 2})

    # The process exists, and its run is in the ledger, at the moment of the answer.
    history = program.get("/bots_history").json()
    assert [(run["bot_id"], run["start_number"], run["end"]) for run in history] == [
        (1, 0, "still alive"),
        (2, 12, "still alive"),
    ]
    assert all(before <= moment(run["start"]) <= datetime.now(UTC) for run in history)
    assert all(psutil.pid_exists(run["pid"]) for run in history)

    running(program, 1), running(program, 2)
    listing = program.get("/bots").json()
    assert [bot["bot_id"] for bot in listing] == [1, 2]
    for bot in listing:
        assert {field: type(value) for field, value in bot.items()} == BOT
        assert (bot["kind"], bot["goal"], bot["state"]) == ("counter", "up", "running")
        process = psutil.Process(bot["pid"])
        assert process.cmdline()[0].strip() == f"bot-{bot['bot_id']} counter"
        assert abs(process.create_time() - moment(bot["started_at"]).timestamp()) < 1
    assert [bot["params"] for bot in listing] == [{"start_number": 0}, {"start_number": 12}]

    processes = [psutil.Process(bot["pid"]) for bot in listing]
    assert program.get("/stop/1").json() == {"bot_id": 1, "state": "stopped"}
    assert not processes[0].is_running()
    assert [bot["bot_id"] for bot in program.get("/bots").json()] == [2]
    assert program.post("/stop/2").json() == {"bot_id": 2, "state": "stopped"}
    assert not processes[1].is_running()
    # Again: it is so already.
    assert program.get("/stop/1").json() == {"bot_id": 1, "state": "stopped"}
    assert program.post("/stop/1").status_code == 200

    assert program.get("/bots").json() == []
    stopped = program.get("/bots", params={"state": "stopped"}).json()
    assert stopped == program.get("/bots", params={"state": "all"}).json()
    assert [bot["state"] for bot in stopped] == ["stopped", "stopped"]
    assert all(bot.keys() == BOT.keys() and not any(bot[field] for field in OF_A_PROCESS) for bot in stopped)
    assert {type(bot[field]) for bot in stopped for field in OF_A_PROCESS} == {type(None)}
    assert {end: stopped[0]["last_exit"][end] for end in ("exit_code", "signal", "cause")} == {
        "exit_code": 0, "signal": None, "cause": "stopped",
    }  # fmt: skip

    history = program.get("/bots_history").json()
    assert [run["start_number"] for run in history] == [0, 12]
    assert all(moment(run["start"]) < moment(run["end"]) <= datetime.now(UTC) for run in history)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_stop_of_nobody(shared: Program, method: str) -> None:
    answer = shared.client.request(method, "/stop/4711")
    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem.keys() >= {"type", "title", "status", "detail", "bot_id"}
    assert (problem["status"], problem["bot_id"]) == (404, 4711)


def test_the_documentation(shared: Program) -> None:
    for path in ("/apidocs", "/apidocs/"):
        page = shared.get(path)
        assert page.status_code == 200
        assert page.headers["Content-Type"].startswith("text/html")
        # Complete with no internet: nothing of it comes from elsewhere.
        for source in re.findall(r'(?:src|href)="([^"]+)"', page.text):
            assert not source.startswith(("http:", "https:", "//")), source
            assert source.startswith("data:") or shared.get(source).status_code == 200
    document = shared.get("/openapi.json").json()
    assert {"/start", "/stop/{bot_id}", "/bots", "/bots_history"} <= document["paths"].keys()


# ---- what is seen in output, ps and listing


def test_what_bots_print_is_in_the_output(shared: Program) -> None:
    # None can have begun before it was asked for, and all have when the last is answered.
    earliest = time.monotonic()
    bots = {shared.start_bot(start_number=n): n for n in (12, 1000, -2, 2**53 - 1, 7, 8, 9)}
    latest = time.monotonic()
    wait_for(lambda: all(len(lines_of(shared, bot_id)) >= 3 for bot_id in bots), 10, "all have printed")
    now = time.monotonic()
    assert now - earliest > 1.9, "a number each second, and no more"
    assert now - latest < 3, "a number each second, and no fewer"
    for bot_id, n in bots.items():
        assert lines_of(shared, bot_id)[:3] == [str(n), str(n + 1), str(n + 2)]
    # Nothing but whole lines, each with who says it.
    for line in shared.log().splitlines():
        assert re.match(r"(bot-\d+|supervisor) \| ", line), line


def test_titles(shared: Program) -> None:
    bot_id = shared.start_bot(name="alice", labels={"team": "a"})
    pid = running(shared, bot_id)["pid"]
    titles = {
        pid: f"bot-{bot_id} counter alice",
        shared.zygote().pid: "zygote counter",
    }
    for each, title in titles.items():
        assert Path(f"/proc/{each}/cmdline").read_bytes().rstrip(b"\0 ").decode() == title
    shown = subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == titles[pid]


def test_the_listing_shows_what_the_kernel_does(shared: Program) -> None:
    bot_id = shared.start_bot("family")
    wait_for(lambda: "family" in shared.bot_log(bot_id), 10)
    bot = shared.bot(bot_id)
    process = psutil.Process(bot["pid"])
    assert process.ppid() == shared.zygote("family").pid
    assert bot["descendants"] == len(process.children(recursive=True)) == 4
    assert bot["threads"] == process.num_threads()
    assert bot["rss_bytes"] == pytest.approx(process.memory_info().rss, rel=0.2)
    assert os.getsid(bot["pid"]) == bot["pid"]
    assert 0 < bot["uptime_s"] < 20
    family = process.children(recursive=True)
    assert shared.get(f"/stop/{bot_id}").status_code == 200
    assert not any(member.is_running() for member in family)


# ---- ends


def test_a_kill_from_outside_is_seen_within_a_second(shared: Program) -> None:
    bot_id = shared.start_bot(restart={"policy": "never"})
    pid = running(shared, bot_id)["pid"]
    query = "SELECT cause, signal, exit_code FROM run WHERE bot_id = ? AND cause IS NOT NULL"
    begin = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: shared.bot(bot_id)["state"] == "failed", 5)
    listed_s = time.monotonic() - begin
    [row] = wait_for(lambda: shared.ledger(query, bot_id), 5)
    in_ledger_s = time.monotonic() - begin
    print(f"in the listing after {listed_s * 1000:.1f} ms, in the ledger after {in_ledger_s * 1000:.1f} ms")
    assert in_ledger_s < 1
    assert row[:] == ("killed", "SIGKILL", None)
    assert shared.get("/bots").json() == []
    assert shared.bot(bot_id)["last_exit"]["signal"] == "SIGKILL"


def test_a_run_in_full(shared: Program) -> None:
    bot_id = shared.start_bot("leaves", params={"code": 44}, restart={"policy": "never"})
    wait_for(lambda: "waiting" in shared.bot_log(bot_id), 10)
    os.kill(running(shared, bot_id)["pid"], signal.SIGUSR1)
    shared.wait_state(bot_id, "failed")
    [run] = shared.ended_runs(bot_id)
    assert run.keys() == RUN
    assert (run["exit_code"], run["signal"], run["cause"]) == (44, None, "crashed")
    assert moment(run["started_at"]) < moment(run["ready_at"]) < moment(run["ended_at"])
    assert run["last_lines"] == ["waiting"]
    assert run["log_bytes"] == len("waiting\n")
    assert run["cpu_seconds"] > 0
    assert run["max_rss_bytes"] > 1 << 20
    assert shared.get(f"/runs/{run['run_id']}").json() == run


@pytest.mark.parametrize(
    ("policy", "code", "states", "runs"),
    [
        ("never", 0, "exited", 1),
        ("never", 3, "failed", 1),
        ("on-failure", 0, "exited", 1),
        ("on-failure", 3, "failed", 3),
        ("always", 0, "failed", 3),
        ("always", 3, "failed", 3),
    ],
)
def test_restart_policies(shared: Program, policy: str, code: int, states: str, runs: int) -> None:
    restart = {"policy": policy, "delay_s": 0.02, "max_restarts": 2}
    bot_id = shared.start_bot("exits", params={"code": code}, restart=restart)
    bot = shared.wait_state(bot_id, states)
    ended = shared.ended_runs(bot_id)
    assert [(run["cause"], run["exit_code"]) for run in ended] == [("exited" if code == 0 else "crashed", code)] * runs
    assert bot["restarts"] == runs - 1
    assert bot["restart"]["policy"] == policy


# ---- over a restart of the program


def test_history_over_a_restart(make_program: Make) -> None:
    program = make_program(flags=["--shutdown-s", "1"]).start()
    one, two = program.start_bot(start_number=5), program.start_bot(start_number=6)
    program.get(f"/stop/{one}")
    running(program, two)
    before = program.get("/bots_history").json()
    assert program.terminate() == 0
    program.start()
    running(program, two)
    wait_for(lambda: program.get("/bots_history").json()[-1]["pid"], 5, "its pid is in the ledger")
    after = program.get("/bots_history").json()
    assert after[0] == before[0]
    assert [(run["start_number"], run["bot_id"]) for run in after] == [(5, one), (6, two), (6, two)]
    assert [run["end"] == "still alive" for run in after] == [False, False, True]
    assert after[1] == before[1] | {
        "end": after[1]["end"], "exit_code": 0, "signal": None, "cause": "stopped",
    }  # fmt: skip
    program.kill()
    program.start()
    assert program.get("/bots_history").json() == after
    # The one that came back follows its output.
    printed = len(lines_of(program, two))
    wait_for(lambda: len(lines_of(program, two)) > printed, 10)
    assert lines_of(program, two)[-1] in program.bot_log(two).split()
    # No number is given twice.
    assert program.start_bot() == two + 1


# ---- logs


def test_the_tail_of_a_log(shared: Program) -> None:
    bot_id = shared.start_bot("floods", params={"line": "é", "lines": 50})
    wait_for(lambda: "49 é\n" in shared.bot_log(bot_id), 10)
    tail = shared.get(f"/bots/{bot_id}/logs", params={"tail": 3})
    assert tail.status_code == 200
    assert tail.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert tail.text == "47 é\n48 é\n49 é\n"
    whole = shared.get(f"/bots/{bot_id}/logs")
    assert whole.text.splitlines() == [f"{n} é" for n in range(50)]
    first = shared.bot(bot_id)["run_id"]
    shared.post(f"/bots/{bot_id}/restart")
    wait_for(lambda: shared.bot_log(bot_id).count("49 é\n") == 2, 10)
    assert len(shared.get(f"/bots/{bot_id}/logs", params={"tail": 1000}).text.splitlines()) == 100
    assert shared.get(f"/bots/{bot_id}/logs", params={"run": first}).text == whole.text
    assert shared.get("/bots/4711/logs").status_code == 404
    assert shared.get(f"/bots/{bot_id}/logs", params={"tail": 0}).status_code == 422


def test_a_log_is_bounded(make_program: Make) -> None:
    limit = 256 * 1024
    program = make_program(kinds=KINDS, flags=["--shutdown-s", "1", "--log-limit-bytes", str(limit)]).start()
    bot_id = program.start_bot("floods", params={"lines": 100_000})
    path = program.data_dir / "logs" / f"{bot_id}.log"
    last = {"tail": 1}
    wait_for(
        lambda: program.get(f"/bots/{bot_id}/logs", params=last).text.startswith("99999 "), 20, "it has printed all"
    )
    assert path.stat().st_size > 10 << 20
    wait_for(lambda: path.stat().st_blocks * 512 <= limit, 5, "the log is within its limit")
    tail = program.get(f"/bots/{bot_id}/logs", params={"tail": 1000}).text.splitlines()
    assert tail == [f"{n} {'x' * 99}" for n in range(99_000, 100_000)]
    assert program.get(f"/stop/{bot_id}").status_code == 200
