"""Crashes that repeat, and crashes of many bots at once."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.program import Program
from tests.waiting import wait_for

KINDS = {
    "exits": 'target = "misbehaving:exits"',
    "crashes_after": 'target = "misbehaving:crashes_after"',
    "sleeps": 'target = "misbehaving:sleeps"',
    "depends": 'target = "storms:depends"',
}
LATE_S = 0.5
"""What a busy machine may add to a delay."""


def at(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


def delays_s(runs: Sequence[dict[str, Any]]) -> list[float]:
    """Between the end of each run and the start of the next."""
    return [at(after["started_at"]) - at(before["ended_at"]) for before, after in itertools.pairwise(runs)]


def cpu_share(program: Program, during: Callable[[], object]) -> float:
    """How much of one core the supervisor takes while this lasts."""
    process = psutil.Process(program.pid)
    before, begin = process.cpu_times(), time.monotonic()
    during()
    after, took_s = process.cpu_times(), time.monotonic() - begin
    return (after.user + after.system - before.user - before.system) / took_s


def latencies_s(program: Program, path: str, until: Callable[[], object], limit_s: float = 30) -> list[float]:
    """How long each call takes, made one after the other until something holds."""
    found: list[float] = []
    deadline = time.monotonic() + limit_s
    while not until():
        assert time.monotonic() < deadline, "it takes too long"
        begin = time.monotonic()
        assert program.get(path).status_code == 200
        found.append(time.monotonic() - begin)
        time.sleep(0.01)
    return found


def start_many(program: Program, number: int, body: dict[str, Any]) -> list[int]:
    def start(client: httpx.Client) -> int:
        answer = client.post("/start", json=body)
        assert answer.status_code == 200, answer.text
        return int(answer.json()["bot_id"])

    return program.together(*[start] * number)


def states(program: Program) -> dict[int, str]:
    return {bot["bot_id"]: bot["state"] for bot in program.get("/bots?state=all&limit=1000").json()}


# ---- one bot


def test_a_crash_loop_slows_down_and_ends(shared: Program) -> None:
    restart = {"delay_s": 0.1, "factor": 2.0, "max_delay_s": 0.5, "jitter": 0.1, "max_restarts": 5, "within_s": 60.0}
    bot_id = shared.start_bot("exits", params={"code": 3}, restart=restart)
    bot = shared.wait_state(bot_id, "failed")
    assert (bot["goal"], bot["restarts"], bot["next_start_at"]) == ("up", 5, None)
    assert "gave up after 5 restarts within 60 s" in bot["reason"]
    runs = shared.ended_runs(bot_id)
    assert [run["cause"] for run in runs] == ["crashed"] * 6
    for delay_s, planned_s in zip(delays_s(runs), [0.1, 0.2, 0.4, 0.5, 0.5], strict=True):
        assert planned_s * 0.9 - 0.005 <= delay_s <= planned_s * 1.1 + LATE_S


def test_what_a_waiting_bot_shows(shared: Program) -> None:
    bot_id = shared.start_bot("exits", params={"code": 3}, restart={"delay_s": 30.0, "jitter": 0.0})
    bot = shared.wait_state(bot_id, "backoff")
    assert 25 < at(bot["next_start_at"]) - time.time() <= 30.1
    assert "restart 1 of 5" in bot["reason"]
    assert [bot["bot_id"] for bot in shared.get("/bots").json()] == [bot_id], "it is active"


def test_a_crash_loop_costs_little(shared: Program) -> None:
    """Ten bots that crash for ever: the supervisor has hardly anything to do."""
    restart = {"delay_s": 0.5, "factor": 1.5, "max_delay_s": 3.0, "max_restarts": 1000}
    start_many(shared, 10, {"kind": "exits", "params": {"code": 3}, "restart": restart})
    enough = "SELECT count(*) FROM run"
    before = shared.ledger(enough)[0][0]
    share = cpu_share(shared, lambda: wait_for(lambda: shared.ledger(enough)[0][0] >= before + 20))
    assert share < 0.15


def test_a_crash_loop_without_any_delay(shared: Program) -> None:
    """It is what was asked for; others do not suffer, and it ends too."""
    restart = {"delay_s": 0.0, "max_restarts": 150}
    bot_id = shared.start_bot("exits", params={"code": 3}, restart=restart)
    found = latencies_s(shared, "/livez", lambda: shared.bot(bot_id)["state"] == "failed")
    assert len(shared.ended_runs(bot_id)) == 151
    assert statistics.median(found) < 0.1


@pytest.mark.parametrize(
    ("restart", "delay_s"),
    [
        ({"delay_s": 0.1, "factor": 1000.0, "max_delay_s": 0.2}, 0.2),
        ({"delay_s": 5.0, "max_delay_s": 0.1}, 0.1),
        ({"delay_s": 0.1, "factor": 1.0}, 0.1),
    ],
    ids=["factor", "cap", "constant"],
)
def test_delays_are_capped(shared: Program, restart: dict[str, Any], delay_s: float) -> None:
    restart = {"jitter": 0.0, "max_restarts": 3} | restart
    bot_id = shared.start_bot("exits", params={"code": 3}, restart=restart)
    shared.wait_state(bot_id, "failed")
    for delay in delays_s(shared.ended_runs(bot_id))[1:]:
        assert delay_s - 0.005 <= delay <= delay_s + LATE_S


def test_no_restarts_at_all(shared: Program) -> None:
    bot_id = shared.start_bot("exits", params={"code": 3}, restart={"max_restarts": 0})
    assert "gave up" in shared.wait_state(bot_id, "failed")["reason"]
    assert len(shared.ended_runs(bot_id)) == 1


def test_always_means_after_a_good_end_too(shared: Program) -> None:
    """And with the same brakes: a bot that ends well at once, again and again, is a loop as well."""
    bot_id = shared.start_bot("exits", restart={"policy": "always", "delay_s": 0.05, "max_restarts": 3})
    shared.wait_state(bot_id, "failed")
    assert [run["cause"] for run in shared.ended_runs(bot_id)] == ["exited"] * 4


def test_a_failed_bot_is_tried_again_slowly(shared: Program) -> None:
    restart = {"delay_s": 0.0, "max_restarts": 1, "retry_after_s": 0.3}
    bot_id = shared.start_bot("exits", params={"code": 3}, restart=restart)
    wait_for(lambda: len(shared.runs(bot_id)) >= 4)
    assert shared.get(f"/stop/{bot_id}").json()["state"] == "stopped"
    runs = shared.ended_runs(bot_id)
    for delay in delays_s(runs)[1:]:
        assert 0.295 <= delay <= 0.3 + LATE_S
    # The slow retry is over as well. Another's tells when its time would have come.
    other = shared.start_bot("exits", params={"code": 3}, restart=restart)
    wait_for(lambda: len(shared.runs(other)) >= 4)
    assert (shared.bot(bot_id)["state"], shared.runs(bot_id)) == ("stopped", runs)


# ---- what counts


def test_a_run_longer_than_the_window_resets_the_count(shared: Program) -> None:
    restart = {"delay_s": 0.05, "factor": 10.0, "max_restarts": 1, "within_s": 0.4}
    bot_id = shared.start_bot("crashes_after", params={"seconds": 0.5}, restart=restart)
    wait_for(lambda: len(shared.runs(bot_id)) >= 4)
    assert shared.bot(bot_id)["state"] != "failed"
    for delay in delays_s(shared.runs(bot_id)[:4]):
        assert delay < 0.05 * 10, "each is the first"


def test_a_run_shorter_than_the_window_does_not(shared: Program) -> None:
    restart = {"delay_s": 0.05, "max_restarts": 2, "within_s": 60.0}
    bot_id = shared.start_bot("crashes_after", params={"seconds": 0.2}, restart=restart)
    shared.wait_state(bot_id, "failed")
    assert len(shared.ended_runs(bot_id)) == 3


@pytest.mark.parametrize("verb", ["start", "restart"])
def test_a_start_by_hand_resets_the_count(shared: Program, verb: str) -> None:
    restart = {"delay_s": 0.02, "max_restarts": 2}
    bot_id = shared.start_bot("exits", params={"code": 3}, restart=restart)
    for n in (1, 2, 3):
        shared.wait_state(bot_id, "failed")
        assert len(shared.ended_runs(bot_id)) == 3 * n
        assert shared.post(f"/bots/{bot_id}/{verb}?wait=0").status_code == 202
    shared.wait_state(bot_id, "failed")


def test_a_start_by_hand_in_backoff_resets_the_count(shared: Program) -> None:
    bot_id = shared.start_bot("exits", params={"code": 3}, restart={"delay_s": 0.1, "factor": 600.0, "max_delay_s": 60})
    for n in (1, 2, 3):
        wait_for(lambda: len(shared.runs(bot_id)) == 2 * n, what="the first restart comes soon")  # noqa: B023
        wait_for(lambda: "restart 2 of 5" in shared.bot(bot_id)["reason"], what="the second does not")
        shared.post(f"/bots/{bot_id}/start?wait=0")


def test_what_was_asked_for_never_counts(shared: Program) -> None:
    bot_id = shared.start_bot("sleeps", restart={"delay_s": 0.1, "max_restarts": 1})
    for _ in range(5):
        assert shared.post(f"/bots/{bot_id}/restart").json()["state"] == "running"
        assert shared.get(f"/stop/{bot_id}").json()["state"] == "stopped"
        assert shared.post(f"/bots/{bot_id}/start").status_code == 200
    causes = [run["cause"] for run in shared.runs(bot_id)]
    assert causes == ["restarted", "stopped"] * 5 + [None]
    # And so the first crash is the first, and the second one too many. In the ledger, as a backoff is soon over.
    for state in ("backoff", "failed"):
        psutil.Process(shared.wait_state(bot_id, "running")["pid"]).kill()
        query = "SELECT * FROM event WHERE bot_id = ? AND state = ?"
        wait_for(lambda: shared.ledger(query, bot_id, state), what=f"{state} is in the ledger")  # noqa: B023


def test_a_kill_after_the_grace_does_not_count_as_a_crash(shared: Program) -> None:
    bot_id = shared.start_bot("sleeps", restart={"max_restarts": 0})
    process = psutil.Process(shared.wait_state(bot_id, "running")["pid"])
    assert shared.post(f"/bots/{bot_id}/restart", {"grace_s": 0}).json()["state"] == "running"
    assert not process.is_running()
    assert shared.runs(bot_id)[0]["cause"] in ("restarted", "stop-timeout")


# ---- many bots


def test_a_hundred_bots_crash_at_once(shared: Program, tmp_path: Path) -> None:
    """What they all need goes away and comes back: they come back too, spread out, and nobody else notices."""
    dependency = tmp_path / "dependency"
    dependency.touch()
    restart = {"delay_s": 0.6, "factor": 1.5, "max_delay_s": 2.0, "jitter": 0.5, "max_restarts": 100}
    body = {"kind": "depends", "params": {"path": str(dependency)}, "restart": restart}
    ids = start_many(shared, 100, body)
    wait_for(lambda: set(states(shared).values()) == {"running"}, what="all are up")

    dependency.unlink()
    # The first restarts of all of them fall into this time, and many of the second.
    begin = time.monotonic()
    found = latencies_s(shared, f"/bots/{ids[0]}", lambda: time.monotonic() > begin + 1.5)
    assert statistics.median(found) < 0.1
    assert statistics.quantiles(found, n=100)[98] < 0.6
    dependency.touch()
    wait_for(lambda: set(states(shared).values()) == {"running"}, limit_s=15, what="all are up again")

    runs = {bot_id: shared.runs(bot_id) for bot_id in ids}
    assert all(len(of_one) >= 2 for of_one in runs.values())
    first = [delays_s(of_one[:2])[0] for of_one in runs.values()]
    assert min(first) >= 0.295
    assert max(first) <= 0.9 + 3 * LATE_S
    assert statistics.stdev(first) > 0.08, "they do not come back all at once"
    starts = sorted(at(of_one[1]["started_at"]) for of_one in runs.values())
    busiest = max(sum(start <= other < start + 0.06 for other in starts) for start in starts)
    assert busiest <= 50, "there is no moment at which most of them come back"


def test_a_hundred_bots_that_wait_are_stopped(shared: Program) -> None:
    """None of them comes back, and nothing of them stays."""
    body: dict[str, Any] = {"kind": "exits", "params": {"code": 3}, "restart": {"delay_s": 0.3, "max_restarts": 1000}}

    def storm() -> None:
        ids = start_many(shared, 100, body)
        wait_for(lambda: shared.ledger("SELECT count(*) FROM run WHERE cause = 'crashed'")[0][0] >= 150)
        stops = [lambda client, id_=bot_id: client.post(f"/stop/{id_}").json()["state"] for bot_id in ids]
        assert set(shared.together(*stops)) == {"stopped"}
        assert not shared.processes()
        runs = shared.ledger("SELECT count(*) FROM run")[0][0]
        other = shared.start_bot(**body)
        wait_for(lambda: len(shared.runs(other)) >= 3, what="their time would have come")
        assert shared.get(f"/stop/{other}").json()["state"] == "stopped"
        assert shared.ledger("SELECT count(*) FROM run")[0][0] == runs + len(shared.runs(other))
        assert set(states(shared).values()) == {"stopped"}

    with shared.level(memory_bytes=16 << 20):
        storm()


def test_the_supervisor_ends_in_the_middle_of_a_storm(make_program: Callable[..., Program]) -> None:
    program = make_program(kinds=KINDS).start()
    restart = {"delay_s": 0.05, "factor": 1.0, "jitter": 0.5, "max_restarts": 100_000}
    ids = start_many(program, 30, {"kind": "exits", "params": {"code": 3}, "restart": restart})
    wait_for(lambda: program.ledger("SELECT count(*) FROM run")[0][0] >= 90)
    begin = time.monotonic()
    assert program.terminate() == 0
    assert time.monotonic() - begin < 8
    assert not program.processes(every=True)
    assert not program.ledger("SELECT * FROM run WHERE cause IS NULL")
    rows = program.ledger("SELECT goal, state FROM bot")
    assert {tuple(row) for row in rows} <= {("up", "stopped"), ("up", "backoff")}
    # What was wanted is wanted still.
    program.start()
    runs = program.ledger("SELECT count(*) FROM run")[0][0]
    wait_for(lambda: program.ledger("SELECT count(*) FROM run")[0][0] >= runs + 30)
    answers = program.together(*[lambda client, id_=bot_id: client.delete(f"/bots/{id_}") for bot_id in ids])
    assert {answer.status_code for answer in answers} == {204}
