"""POST /bots/batch: all of them or none, whatever is wrong and whoever dies."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.faults.observe import ready
from tests.program import Program
from tests.waiting import wait_for

Make = Callable[..., Program]


def batch(program: Program, count: int, **fields: Any) -> list[dict[str, Any]]:
    answer = program.post("/bots/batch", {"count": count, **fields})
    assert answer.status_code == 201, answer.text
    bots: list[dict[str, Any]] = answer.json()["bots"]
    return bots


def test_a_hundred_with_one_call_and_gone_with_one_call(make_program: Make) -> None:
    program = make_program().start()
    bots = program.post("/bots/batch?wait=ready", {"count": 100, "start_number": 7, "labels": {"team": "a"}}).json()[
        "bots"
    ]
    ids = [bot["bot_id"] for bot in bots]
    assert ids == list(range(1, 101))
    assert all(bot["pid"] for bot in bots)
    assert len({bot["pid"] for bot in bots}) == 100
    assert {bot["params"]["start_number"] for bot in bots} == {7}
    assert {bot["state"] for bot in bots} == {"running"}
    results = program.post("/bots/stop?label=team:a").json()["results"]
    assert {result["bot_id"] for result in results} == set(ids)
    assert all(result["ok"] for result in results)
    assert program.get("/bots").json() == []


def test_the_same_key_gives_the_same_bots_once(program: Program) -> None:
    headers = {"Idempotency-Key": "once"}
    made = program.together(*[lambda c: c.post("/bots/batch", json={"count": 5}, headers=headers)] * 4)
    ids = [[bot["bot_id"] for bot in answer.json()["bots"]] for answer in made]
    assert [len(one) for one in ids] == [5] * 4
    assert all(one == ids[0] for one in ids)
    for path, body in [("/bots/batch", {"count": 4}), ("/bots", {"name": "one"}), ("/start", None)]:
        answer = program.post(path, body, headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (422, "/problems/idempotency-key-reused")
        assert "which made 5 bots" in answer.json()["detail"]
    assert len(program.get("/bots?state=all").json()) == 5
    # It is so for the next supervisor; but of what an earlier version made, nothing more than the key is known.
    program.kill()
    program.start()
    assert program.post("/bots/batch", {"count": 4}, headers=headers).status_code == 422
    program.kill()
    program.write("UPDATE bot SET idempotency_digest = NULL")
    program.start()
    answer = program.post("/bots/batch", {"count": 4}, headers=headers)
    assert [bot["bot_id"] for bot in answer.json()["bots"]] == ids[0]


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"count": 0}, 422, "greater than or equal to 1"),
        ({"count": 1001}, 422, "less than or equal to 1000"),
        ({"count": "2"}, 422, "integer"),
        ({}, 422, "required"),
        ({"count": 2, "name": "a"}, 422, "only one bot can have the name"),
        ({"count": 2, "kind": "none"}, 422, "there is no kind"),
        ({"count": 2, "start_number": 1.5}, 422, "integer"),
        ({"count": 2, "kind": "alone", "params": {"line": "a"}}, 409, "only one can run at a time"),
    ],
)
def test_what_is_refused_makes_none(make_program: Make, fields: dict[str, Any], status: int, words: str) -> None:
    alone = 'target = "obedient:floods"\nexclusive = "{line}"'
    program = make_program(kinds={"alone": alone}).start()
    answer = program.post("/bots/batch", fields)
    assert answer.status_code == status
    assert words in answer.text
    assert program.get("/bots?state=all").json() == []


def test_a_kind_that_cannot_be_imported(make_program: Make) -> None:
    program = make_program(kinds={"broken": 'target = "raises_at_import:main"'}).start()
    bots = batch(program, 3, kind="broken")
    assert [bot["state"] for bot in bots] == ["failed"] * 3, "as POST /bots has it"


def test_those_beyond_the_budget_wait(make_program: Make) -> None:
    kind = 'target = "obedient:leaves"\nbudget = {key = "discord", starts = 2, per_s = 86400}'
    program = make_program(kinds={"scarce": kind}).start()
    bots = batch(program, 4, kind="scarce")
    assert sorted(bot["state"] for bot in bots if bot["pid"] is None) == ["backoff"] * 2
    assert all(bot["next_start_at"] for bot in bots if bot["pid"] is None)
    wait_for(lambda: len(program.processes()) == 2, what="the others have a process")


def test_all_or_none_when_the_supervisor_is_killed_amid_it(make_program: Make) -> None:
    program = make_program().start()
    ready(program, program.start_bot())
    with concurrent.futures.ThreadPoolExecutor() as pool:
        asked = pool.submit(program.post, "/bots/batch", {"count": 200})
        wait_for(lambda: program.ledger("SELECT count(*) FROM run")[0][0] > 1 or asked.done())
        program.kill()
        # Unless it was answered before.
        assert isinstance(asked.exception(), httpx.TransportError | None)
    program.start()
    [(made,)] = program.ledger("SELECT count(*) FROM bot WHERE bot_id > 1")
    assert made in (0, 200)
    wait_for(lambda: len(program.get("/bots?state=running&limit=1000").json()) == made + 1, 30)
    # Those that were found running may have been forked just now, and not be seen to write to their logs yet.
    wait_for(lambda: len(program.processes()) >= made + 1)
    assert len(program.processes()) == made + 1
