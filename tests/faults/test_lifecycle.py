"""Bots that end, crash, cannot be imported, or are started and stopped at the wrong moment."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import datetime
from typing import Any

import psutil
import pytest

from tests.program import Program
from tests.waiting import wait_for

KINDS = {
    "anything": 'target = "anything:main"\ngrace_s = 5.0',
    "exits": 'target = "misbehaving:exits"',
    "raises": 'target = "misbehaving:raises"',
    "sleeps": 'target = "misbehaving:sleeps"',
    "needs": 'target = "parameters:needs"',
    "three_seconds": 'target = "three_seconds:main"',
}
NEVER = {"policy": "never"}


def run_of(program: Program, **body: Any) -> dict[str, Any]:
    """Starts a bot that ends by itself and is not started again; its only run."""
    bot_id = program.start_bot(restart=NEVER, **body)
    program.wait_state(bot_id, "exited", "failed")
    [run] = program.ended_runs(bot_id)
    return run


def anything(what: str, **params: Any) -> dict[str, Any]:
    """The body that starts a bot of the kind `anything`."""
    return {"kind": "anything", "params": {"what": what, "params": params}}


def at(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


# ---- how a process ends


@pytest.mark.parametrize("code", [0, 1, 2, 44, 124, 127, 255])
def test_exit_code_of_a_bot_that_exits(shared: Program, code: int) -> None:
    run = run_of(shared, kind="exits", params={"code": code})
    assert (run["exit_code"], run["signal"], run["cause"]) == (code, None, "crashed" if code else "exited")
    [bot] = shared.get("/bots?state=all").json()
    assert bot["state"] == ("failed" if code else "exited")
    assert (bot["goal"], bot["pid"], bot["run_id"], bot["uptime_s"]) == ("up", None, None, None)
    assert bot["last_exit"] == {"exit_code": code, "signal": None, "cause": run["cause"], "at": run["ended_at"]}
    if code:
        assert f"exit code {code}" in bot["reason"]


@pytest.mark.parametrize(
    ("code", "seen"), [(-1, 255), (256, 0), (2**31, 0), (2**53, 0)], ids=["negative", "256", "2^31", "2^53"]
)
def test_exit_code_that_is_none(shared: Program, code: int, seen: int) -> None:
    """The kernel keeps eight bits of what a process says, and an integer can be too large for the call."""
    run = run_of(shared, kind="exits", params={"code": code})
    assert (run["exit_code"], run["last_lines"]) == (seen, [])


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_exit_without_cleaning_up(shared: Program, code: int) -> None:
    run = run_of(shared, **anything("misbehaving:exits_hard", code=code))
    assert (run["exit_code"], run["cause"]) == (code, "crashed" if code else "exited")


def test_uncaught_exception(shared: Program) -> None:
    run = run_of(shared, kind="raises")
    assert (run["exit_code"], run["cause"]) == (1, "crashed")
    assert run["last_lines"][-1] == "ValueError: the price is negative"
    assert len(run["last_lines"]) <= 10
    assert shared.get(f"/bots/{run['bot_id']}/logs", params={"tail": 1}).text == "ValueError: the price is negative\n"


def test_exit_with_a_text(shared: Program) -> None:
    run = run_of(shared, **anything("misbehaving:exits_with_text"))
    assert (run["exit_code"], run["cause"]) == (1, "crashed")
    assert run["last_lines"] == ["no more money"]


@pytest.mark.parametrize(
    ("what", "cause"),
    [
        ("keyboard_interrupt", "crashed"),
        ("cancels_itself", "crashed"),
        ("group", "crashed"),
        ("odd_exit", "crashed"),
        ("recursion", "crashed"),
        ("no_memory", "oom"),
    ],
)
def test_odd_exceptions(shared: Program, what: str, cause: str) -> None:
    """Those that are no `Exception`, and those that leave little room for handling them."""
    run = run_of(shared, **anything(f"exceptions:{what}"))
    assert (run["exit_code"], run["cause"]) == (1, cause)


def test_exit_hooks_and_buffers_of_a_bot_are_its_own(shared: Program) -> None:
    run = run_of(shared, **anything("exceptions:with_hooks"))
    assert (run["exit_code"], run["last_lines"]) == (0, ["from the target", "from the hook"])


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL", "SIGTERM", "SIGBUS", "SIGHUP", "SIGUSR1", "SIGALRM"])
def test_death_by_a_signal_is_named(shared: Program, name: str) -> None:
    run = run_of(shared, **anything("misbehaving:dies", signum=signal.Signals[name]))
    assert (run["exit_code"], run["signal"], run["cause"]) == (None, name, "killed")
    [bot] = shared.get("/bots?state=failed").json()
    assert name in bot["reason"]
    assert (bot["last_exit"]["signal"], bot["last_exit"]["exit_code"]) == (name, None)


def test_death_by_a_signal_without_a_name(shared: Program) -> None:
    run = run_of(shared, **anything("misbehaving:dies", signum=signal.SIGRTMIN + 3))
    assert (run["exit_code"], run["signal"], run["cause"]) == (None, "SIGRTMIN+3", "killed")


@pytest.mark.parametrize("code", [125, 126])
def test_a_permanent_exit_code_is_not_retried(shared: Program, code: int) -> None:
    bot_id = shared.start_bot("exits", params={"code": code}, restart={"delay_s": 0.0})
    bot = shared.wait_state(bot_id, "failed")
    assert bot["restarts"] == 0
    assert [run["exit_code"] for run in shared.ended_runs(bot_id)] == [code]


def test_ends_within_milliseconds_of_the_start(shared: Program) -> None:
    """No end comes too early to be seen: the answer, the row and the truth are there, each time."""
    body = anything("misbehaving:exits_hard", code=44) | {"restart": NEVER}
    answers = shared.together(*[lambda client: client.post("/start", json=body)] * 25)
    assert {answer.status_code for answer in answers} == {200}
    for answer in answers:
        bot_id = answer.json()["bot_id"]
        shared.wait_state(bot_id, "failed")
        [run] = shared.ended_runs(bot_id)
        assert (run["exit_code"], run["cause"]) == (44, "crashed")
        assert run["pid"] > 1
        assert at(run["started_at"]) <= at(run["ended_at"]) < at(run["started_at"]) + 20


def test_many_runs_cost_nothing_for_good(shared: Program) -> None:
    def churn() -> None:
        bot_id = shared.start_bot("exits", params={"code": 3}, restart={"delay_s": 0.0, "max_restarts": 40})
        shared.wait_state(bot_id, "failed", limit_s=40)
        assert len(shared.ended_runs(bot_id)) == 41
        assert shared.client.delete(f"/bots/{bot_id}").status_code == 204

    churn()
    with shared.level():
        churn()


# ---- killed from outside


def test_killed_from_outside_is_seen_at_once(shared: Program) -> None:
    def seen_after_s() -> float:
        bot_id = shared.start_bot("sleeps", restart={"delay_s": 60.0})
        os.kill(shared.bot(bot_id)["pid"], signal.SIGKILL)
        begin = time.monotonic()
        bot = shared.wait_state(bot_id, "backoff")
        seen_after_s = time.monotonic() - begin
        assert bot["last_exit"]["signal"] == "SIGKILL"
        assert (bot["pid"], bot["last_exit"]["cause"]) == (None, "killed")
        assert bot["next_start_at"] is not None
        return seen_after_s

    # A busy machine may hold up one of them.
    assert any(seen_after_s() < 1 for _ in range(3))


def test_killed_from_outside_with_policy_never(shared: Program) -> None:
    bot_id = shared.start_bot("sleeps", restart=NEVER)
    os.kill(shared.bot(bot_id)["pid"], signal.SIGKILL)
    assert shared.wait_state(bot_id, "failed")["goal"] == "up"
    assert shared.get(f"/stop/{bot_id}").json() == {"bot_id": bot_id, "state": "stopped"}
    assert [run["cause"] for run in shared.runs(bot_id)] == ["killed"]


def test_killed_from_outside_while_it_is_being_stopped(shared: Program) -> None:
    bot_id = shared.start_bot(**anything("misbehaving:deaf"), grace_s=60)
    wait_for(lambda: "deaf" in shared.bot_log(bot_id))
    assert shared.post(f"/bots/{bot_id}/stop?wait=0").status_code == 202
    os.kill(shared.wait_state(bot_id, "stopping")["pid"], signal.SIGKILL)
    # Long before the grace is over.
    shared.wait_state(bot_id, "stopped")
    [run] = shared.ended_runs(bot_id)
    assert (run["signal"], run["cause"]) == ("SIGKILL", "stopped")


def test_a_signal_between_stop_and_continue_changes_nothing(shared: Program) -> None:
    """A bot that is frozen and woken from outside is the same run."""
    bot_id = shared.start_bot("sleeps")
    pid = shared.wait_state(bot_id, "running")["pid"]
    for signum, states in ((signal.SIGSTOP, {"stopped"}), (signal.SIGCONT, {"sleeping", "running"})) * 3:
        os.kill(pid, signum)
        wait_for(lambda: psutil.Process(pid).status() in states)  # noqa: B023
    bot = shared.bot(bot_id)
    assert (bot["state"], bot["pid"], len(shared.runs(bot_id))) == ("running", pid, 1)


# ---- wrong parameters


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"symbol": 1},
        {"symbol": None},
        {"symbol": "BTC", "leverage": "3"},
        {"symbol": "BTC", "leverage": 1.5},
        {"symbol": "BTC", "leverage": True},
        {"symbol": "BTC", "unknown": 1},
        {"symbol": "BTC", "ctx": 1},
    ],
)
def test_wrong_parameters_make_nothing(shared: Program, params: dict[str, Any]) -> None:
    def rows() -> list[Any]:
        return [tuple(row) for row in shared.ledger("SELECT (SELECT count(*) FROM bot), (SELECT count(*) FROM run)")]

    before = rows()
    for path in ("/start", "/bots"):
        answer = shared.post(path, {"kind": "needs", "params": params})
        assert answer.status_code == 422, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
    assert rows() == before
    assert not psutil.Process(shared.get("/kinds/needs").json()["zygote_pid"]).children()


def test_right_parameters_reach_the_bot(shared: Program) -> None:
    bot_id = shared.start_bot("needs", params={"symbol": "BTC \u202e\n", "note": None}, name="mine", labels={"a": "b"})
    wait_for(lambda: "'BTC \\u202e\\n' 1 None mine {'a': 'b'}" in shared.bot_log(bot_id))


# ---- started and stopped at any moment


def test_the_same_bot_started_twice(shared: Program) -> None:
    bot_id = shared.start_bot("sleeps")
    before = shared.bot(bot_id)
    answer = shared.post(f"/bots/{bot_id}/start")
    assert answer.status_code == 200
    assert (answer.json()["pid"], answer.json()["state"]) == (before["pid"], "running")
    shared.get(f"/stop/{bot_id}")
    answers = shared.together(*[lambda client: client.post(f"/bots/{bot_id}/start")] * 20)
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["pid"] for answer in answers}) == 1
    assert len(shared.runs(bot_id)) == 2


def test_stop_of_an_unknown_bot(shared: Program) -> None:
    for call in (shared.get("/stop/1000000"), shared.post("/stop/1000000"), shared.post("/bots/1000000/stop")):
        assert call.status_code == 404
        assert call.json()["type"] == "/problems/unknown-bot"
        assert call.json()["bot_id"] == 1000000


def test_stop_of_a_stopped_bot(shared: Program) -> None:
    bot_id = shared.start_bot("sleeps")
    for call in (shared.get, shared.post, shared.get):
        answer = call(f"/stop/{bot_id}")
        assert (answer.status_code, answer.json()) == (200, {"bot_id": bot_id, "state": "stopped"})
    assert shared.post(f"/bots/{bot_id}/stop").json()["state"] == "stopped"
    assert [run["cause"] for run in shared.runs(bot_id)] == ["stopped"]


@pytest.mark.parametrize("code", [0, 9])
def test_stop_of_a_bot_that_has_ended(shared: Program, code: int) -> None:
    bot_id = run_of(shared, kind="exits", params={"code": code})["bot_id"]
    assert shared.get(f"/stop/{bot_id}").json() == {"bot_id": bot_id, "state": "stopped"}
    bot = shared.bot(bot_id)
    assert (bot["state"], bot["goal"], bot["last_exit"]["exit_code"]) == ("stopped", "down", code)
    assert [run["exit_code"] for run in shared.runs(bot_id)] == [code]


def test_stop_of_a_bot_whose_kind_is_being_imported(shared: Program) -> None:
    """It stops at once, and the import that goes on makes no process of it."""
    bot_id = shared.start_bot("three_seconds")
    assert shared.get(f"/stop/{bot_id}").status_code == 200
    zygote = shared.zygote("three_seconds")
    zygote.kill()
    wait_for(lambda: not shared.get("/kinds/three_seconds").json()["warm"])

    assert shared.post(f"/bots/{bot_id}/start?wait=0").json()["state"] == "starting"
    begin = time.monotonic()
    assert shared.get(f"/stop/{bot_id}").json() == {"bot_id": bot_id, "state": "stopped"}
    assert time.monotonic() - begin < 1
    assert not shared.get("/kinds/three_seconds").json()["warm"], "it was stopped before the import was over"
    run = shared.runs(bot_id)[-1]
    assert (run["pid"], run["exit_code"], run["cause"]) == (None, 0, "stopped")

    # And again, but wanted after all: one process comes of it.
    shared.post(f"/bots/{bot_id}/start?wait=0")
    shared.post(f"/bots/{bot_id}/stop?wait=0")
    shared.post(f"/bots/{bot_id}/start?wait=0")
    assert shared.post(f"/bots/{bot_id}/restart?wait=0").status_code == 202
    bot = shared.wait_state(bot_id, "running")
    assert shared.zygote("three_seconds").children() == [psutil.Process(bot["pid"])]
    # It is seen to run a moment before the ledger has its pid.
    wait_for(lambda: [run["pid"] for run in shared.runs(bot_id) if run["cause"] is None] == [bot["pid"]])


def test_stop_of_a_bot_in_backoff(shared: Program) -> None:
    # Long enough that the stop comes before its time on a slow machine too.
    restart = {"delay_s": 1.0, "jitter": 0.0}
    bot_id = shared.start_bot("exits", params={"code": 3}, restart=restart)
    shared.wait_state(bot_id, "backoff")
    assert shared.get(f"/stop/{bot_id}").json() == {"bot_id": bot_id, "state": "stopped"}
    runs = shared.runs(bot_id)
    # The other one, which ends later, tells when its time would have come.
    other = shared.start_bot("exits", params={"code": 3}, restart=restart)
    wait_for(lambda: shared.bot(other)["restarts"] >= 1)
    bot = shared.bot(bot_id)
    assert (bot["state"], bot["goal"], bot["next_start_at"]) == ("stopped", "down", None)
    assert shared.runs(bot_id) == runs
    assert runs[-1]["cause"] == "crashed"


def test_start_of_a_bot_in_backoff_does_not_wait(shared: Program) -> None:
    bot_id = shared.start_bot("exits", params={"code": 3}, restart={"delay_s": 60.0})
    shared.wait_state(bot_id, "backoff")
    shared.post(f"/bots/{bot_id}/start?wait=0")
    wait_for(lambda: len(shared.runs(bot_id)) == 2, 20, "it is started long before its time")


def test_start_of_a_bot_that_is_being_stopped(shared: Program) -> None:
    """The stop is not undone: its process goes, whoever asked for that is told so, and another process comes."""
    # Long enough that it is seen while it is being stopped.
    bot_id = shared.start_bot(**anything("misbehaving:deaf"), grace_s=1)
    wait_for(lambda: "deaf" in shared.bot_log(bot_id))
    pid = shared.bot(bot_id)["pid"]
    with ThreadPoolExecutor() as thread:
        stop = thread.submit(shared.get, f"/stop/{bot_id}")
        shared.wait_state(bot_id, "stopping")
        start = shared.post(f"/bots/{bot_id}/start")
        # It is answered as soon, and not when its time to wait is over.
        assert stop.result(5).json() == {"bot_id": bot_id, "state": "stopped"}
    assert (start.status_code, start.json()["state"], start.json()["goal"]) == (200, "running", "up")
    assert start.json()["pid"] != pid
    assert [run["cause"] for run in shared.runs(bot_id)] == ["stop-timeout", None]


def test_a_bot_is_in_the_list_at_every_moment(shared: Program) -> None:
    """Also at the one in which it passes out of the hands of the living into the ledger."""
    for _ in range(20):
        bot_id = shared.start_bot("exits", restart=NEVER)
        for _ in range(10):
            assert bot_id in [bot["bot_id"] for bot in shared.get("/bots?state=all").json()]


def test_two_stops_at_once(shared: Program) -> None:
    bot_id = shared.start_bot(**anything("misbehaving:deaf"), grace_s=0.5)
    wait_for(lambda: "deaf" in shared.bot_log(bot_id))
    answers = shared.together(*[lambda client: client.get(f"/stop/{bot_id}")] * 5)
    assert [(a.status_code, a.json()) for a in answers] == [(200, {"bot_id": bot_id, "state": "stopped"})] * 5
    [run] = shared.runs(bot_id)
    assert (run["signal"], run["cause"]) == ("SIGKILL", "stop-timeout")


def test_a_less_patient_stop_hurries_the_first(shared: Program) -> None:
    bot_id = shared.start_bot(**anything("misbehaving:deaf"), grace_s=60)
    wait_for(lambda: "deaf" in shared.bot_log(bot_id))
    shared.post(f"/bots/{bot_id}/stop?wait=0")
    begin = time.monotonic()
    assert shared.post(f"/bots/{bot_id}/stop", {"grace_s": 0.2}).json()["state"] == "stopped"
    assert time.monotonic() - begin < 20


def test_stop_and_start_at_once_leave_one_process_or_none(shared: Program) -> None:
    bot_id = shared.start_bot("sleeps")
    calls = [lambda client, verb=verb: client.post(f"/bots/{bot_id}/{verb}") for verb in ("stop", "start", "restart")]
    answers = shared.together(*calls * 8)
    assert {answer.status_code for answer in answers} == {200}
    bot = shared.bot(bot_id)
    assert bot["state"] == ("running" if bot["goal"] == "up" else "stopped")
    assert len(shared.processes()) == (bot["goal"] == "up")


def test_a_bot_deleted_while_it_starts_and_runs(shared: Program) -> None:
    bot_id = shared.start_bot("sleeps")
    pid = shared.bot(bot_id)["pid"]
    answers = shared.together(*[lambda client: client.delete(f"/bots/{bot_id}")] * 3)
    assert 204 in {answer.status_code for answer in answers} <= {204, 404}
    assert not psutil.pid_exists(pid)
    assert shared.get(f"/bots/{bot_id}").status_code == 404
    assert [run["cause"] for run in shared.runs(bot_id)] == ["stopped"]


def test_readiness_is_not_lost_on_a_supervisor_that_is_behind(shared: Program, pool: Executor) -> None:
    """Many bots say that they are ready while it does not read; the kernel keeps ten messages."""
    ids = shared.together(*[lambda client: client.post("/start", json={"kind": "sleeps"}).json()["bot_id"]] * 30)

    def all_start_at_once() -> bool:
        shared.together(*[lambda client, id_=bot_id: client.post(f"/stop/{id_}") for bot_id in ids])
        zygote, supervisor = shared.zygote("sleeps"), psutil.Process(shared.pid)
        zygote.suspend()
        try:
            # With one call, as a zygote that is silent for a second is taken for stuck.
            pool.submit(shared.post, "/bots/start?kind=sleeps&state=stopped")
            wait_for(lambda: shared.ledger("SELECT count(*) FROM run WHERE cause IS NULL")[0][0] == 30)
            # The rows come first. Whoever is answered now finds the zygote told as well.
            for _ in range(5):
                shared.get("/livez")
            supervisor.suspend()
            zygote.resume()
            wait_for(lambda: sum(child.name().startswith("bot-") for child in zygote.children()) >= 25)
        except psutil.NoSuchProcess:
            # On a busy machine all that took so long that the zygote was taken for stuck all the same, and replaced.
            return False
        finally:
            supervisor.resume()
            with contextlib.suppress(psutil.NoSuchProcess):
                zygote.resume()
        return True

    assert any(all_start_at_once() for _ in range(5))
    wait_for(lambda: [bot["state"] for bot in shared.get("/bots").json()] == ["running"] * 30, limit_s=5)


def test_restart_replaces_the_process(shared: Program) -> None:
    bot_id = shared.start_bot("sleeps")
    first = shared.bot(bot_id)
    second = shared.post(f"/bots/{bot_id}/restart").json()
    assert second["state"] == "running"
    assert second["pid"] != first["pid"]
    assert not psutil.pid_exists(first["pid"])
    assert [run["cause"] for run in shared.runs(bot_id)] == ["restarted", None]


# ---- bots with processes and threads of their own


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_bot_that_uses_multiprocessing(shared: Program, method: str) -> None:
    bot_id = shared.start_bot(**anything("descendants:multiprocesses", method=method))
    wait_for(lambda: f"{method} 0 1 55" in shared.bot_log(bot_id), what=f"it works: {shared.bot_log(bot_id)}")
    descendants = psutil.Process(shared.bot(bot_id)["pid"]).children(recursive=True)
    assert len(descendants) >= 2
    assert shared.bot(bot_id)["descendants"] >= 2
    assert shared.get(f"/stop/{bot_id}").json()["state"] == "stopped"
    assert not [process for process in descendants if process.is_running()]
    [run] = shared.runs(bot_id)
    assert run["descendants_killed"] >= 2


def test_a_bot_that_runs_programs(shared: Program) -> None:
    bot_id = shared.start_bot(**anything("descendants:has_subprocesses"))
    wait_for(lambda: "ended with 3" in shared.bot_log(bot_id))
    [child] = psutil.Process(shared.bot(bot_id)["pid"]).children()
    assert shared.get(f"/stop/{bot_id}").json()["state"] == "stopped"
    assert not child.is_running()


def test_a_bot_that_returns_but_for_a_thread(shared: Program) -> None:
    """It is not over while its process is there, and it can be stopped."""
    bot_id = shared.start_bot(**anything("descendants:ends_but_for_a_thread"), grace_s=1)
    wait_for(lambda: "returned" in shared.bot_log(bot_id))
    shared.wait_state(bot_id, "running")
    assert shared.get(f"/stop/{bot_id}").json()["state"] == "stopped"


def test_a_bot_that_closes_its_descriptors(shared: Program) -> None:
    bot_id = shared.start_bot(**anything("descendants:closes_everything"))
    process = psutil.Process(shared.bot(bot_id)["pid"])
    wait_for(lambda: process.num_fds() == 0)
    shared.wait_state(bot_id, "running")
    assert shared.get(f"/stop/{bot_id}").json()["state"] == "stopped"
    assert not process.is_running()


# ---- kinds that cannot be had


BROKEN = {
    "missing_module": ('target = "no_such_module:main"', "No module named 'no_such_module'"),
    "missing_attribute": ('target = "misbehaving:nothing"', "has no attribute 'nothing'"),
    "not_callable": ('target = "misbehaving:not_callable"', "not callable"),
    "raises_at_import": ('target = "raises_at_import:main"', "no configuration"),
    "exits_at_import": ('target = "exits_at_import:main"', "this is a script"),
    "no_directory": ('target = "misbehaving:deaf"\ncwd = "/no/such/directory"', "/no/such/directory"),
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A program with kinds that cannot be had, and one that can."""
    kinds = {name: lines for name, (lines, _) in BROKEN.items()}
    kinds["slow_import"] = 'target = "slow_import:main"\nstart_timeout_s = 0.5'
    kinds["dies_at_import"] = 'target = "dies_at_import:main"\nstart_timeout_s = 25.0'
    kinds["threads_at_import"] = 'target = "threads_at_import:main"'
    program = Program(tmp_path_factory.mktemp("broken"), kinds=kinds)
    try:
        yield program.start()
        assert program.terminate() == 0
        program.check_invariants()
    finally:
        program.close()


@pytest.mark.parametrize("kind", BROKEN)
def test_a_kind_that_cannot_be_imported(broken: Program, kind: str) -> None:
    answer = broken.post("/start", {"kind": kind, "restart": {"delay_s": 0.0}})
    assert answer.status_code == 503
    problem = answer.json()
    assert problem["type"] == "/problems/spawn-failed"
    assert BROKEN[kind][1] in problem["detail"]
    assert "retry-after" not in answer.headers, "it will not be better without a change"
    bot = broken.bot(problem["bot_id"])
    assert (bot["state"], bot["goal"], bot["restarts"]) == ("failed", "up", 0)
    assert BROKEN[kind][1] in bot["reason"]
    [run] = broken.runs(bot["bot_id"])
    assert (run["pid"], run["exit_code"], run["cause"]) == (None, 126, "spawn-failed")
    shown = broken.get(f"/kinds/{kind}").json()
    assert (shown["warm"], BROKEN[kind][1] in shown["reason"]) == (False, True)

    assert broken.post(f"/bots/{bot['bot_id']}/start").json()["state"] == "failed"
    assert broken.get(f"/stop/{bot['bot_id']}").json()["state"] == "stopped"
    made = broken.post("/bots", {"kind": kind})
    assert (made.status_code, made.json()["state"]) == (201, "failed")
    broken.check_invariants()


def test_a_kind_that_takes_the_importing_process_down(broken: Program) -> None:
    for _ in range(2):
        begin = time.monotonic()
        answer = broken.post("/start", {"kind": "dies_at_import"})
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/spawn-failed")
        assert time.monotonic() - begin < 20, "it is told at once, and does not wait for the start timeout"
    assert not broken.get("/kinds/dies_at_import").json()["warm"]
    broken.check_invariants()


def test_a_kind_whose_import_does_not_end(broken: Program) -> None:
    begin = time.monotonic()
    answer = broken.post("/start", {"kind": "slow_import", "restart": NEVER})
    assert time.monotonic() - begin < 20, "the import takes a minute"
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/spawn-failed")
    bot = broken.bot(answer.json()["bot_id"])
    assert (bot["state"], bot["last_exit"]["cause"]) == ("failed", "start-timeout")
    [run] = broken.runs(bot["bot_id"])
    assert (run["pid"], run["exit_code"], run["cause"]) == (None, 126, "start-timeout")

    # Others are not held up by it, and one that is being tried can be stopped.
    bot_id = broken.start_bot()
    broken.post(f"/bots/{bot['bot_id']}/start?wait=0")
    assert broken.get(f"/stop/{bot['bot_id']}").json()["state"] == "stopped"
    assert broken.get(f"/stop/{bot_id}").json()["state"] == "stopped"
    broken.check_invariants()


def test_a_kind_that_starts_threads_when_imported(broken: Program) -> None:
    """Its bots work, and nothing that the thread held is held for ever."""
    bots = [broken.start_bot("threads_at_import") for _ in range(5)]
    for bot_id in bots:
        wait_for(lambda: "threads " in broken.bot_log(bot_id))  # noqa: B023
        assert broken.get(f"/stop/{bot_id}").json()["state"] == "stopped"
    broken.check_invariants()
