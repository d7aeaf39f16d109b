"""The four calls that the project began with."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from supervisor.fleet.fleet import Wait
from tests.api.conftest import Api

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"content": b""},
        {"content": b"", "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
        {"json": None, "headers": {"Content-Type": "application/json"}},
        {"json": {}},
        {"content": b"null"},
    ],
)
def test_start_needs_no_body(api: Api, request_: dict[str, Any]) -> None:
    response = api.client.post("/start", **request_)
    assert (response.status_code, response.json()) == (200, {"bot_id": 1})
    assert api.fleet.made[0].params == {"start_number": 0}
    assert api.fleet.waited == [Wait.PROCESS]


def test_start_takes_a_body_without_a_type_for_json(api: Api) -> None:
    assert api.client.post("/start", content=b'{"start_number": 12}').status_code == 200
    assert api.fleet.made[0].params == {"start_number": 12}


@pytest.mark.parametrize("number", [0, -1, 2**53, -(2**53)])
@pytest.mark.parametrize("path", ["/start", "/bots"])
def test_start_number_is_short_for_a_parameter(api: Api, path: str, number: int) -> None:
    api.client.post(path, json={"start_number": number}).raise_for_status()
    api.client.post(path, json={"params": {"start_number": number}}).raise_for_status()
    assert [new.params for new in api.fleet.made] == [{"start_number": number}] * 2


@pytest.mark.parametrize("number", [True, "12", 12.0, 1.5, None, [], {}, 2**53 + 1, -(2**53) - 1, 2**63, 2**70])
@pytest.mark.parametrize("path", ["/start", "/bots"])
def test_start_number_is_an_integer_and_nothing_else(api: Api, path: str, number: object) -> None:
    if number is not None:
        assert api.client.post(path, json={"start_number": number}).status_code == 422
    response = api.client.post(path, json={"params": {"start_number": number}})
    assert response.status_code == 422
    assert response.json()["errors"][0]["loc"] == ["body", "params", "start_number"]
    assert not api.fleet.made


def test_start_number_given_twice_must_be_the_same(api: Api) -> None:
    assert api.client.post("/start", json={"start_number": 1, "params": {"start_number": 2}}).status_code == 422
    assert api.client.post("/start", json={"start_number": 1, "params": {"start_number": 1}}).status_code == 200


def test_start_takes_every_field_of_a_bot(api: Api) -> None:
    bot_id = api.start(name="alice", labels={"team": "a"}, restart={"policy": "never"}, grace_s=3)
    bot = api.client.get(f"/bots/{bot_id}").json()
    assert (bot["name"], bot["labels"], bot["restart"]["policy"], bot["grace_s"]) == (
        "alice",
        {"team": "a"},
        "never",
        3,
    )


def test_start_that_cannot_be_done(api: Api) -> None:
    response = api.client.post("/start", json={"kind": "broken"})
    assert response.status_code == 503
    assert response.json()["type"] == "/problems/spawn-failed"
    assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_stop(api: Api, method: str) -> None:
    bot_id = api.start()
    for _ in range(2):
        response = api.client.request(method, f"/stop/{bot_id}")
        assert (response.status_code, response.json()) == (200, {"bot_id": bot_id, "state": "stopped"})
    assert api.client.request(method, "/stop/77").status_code == 404


def test_head_stops_nothing(api: Api) -> None:
    bot_id = api.start()
    assert api.client.head(f"/stop/{bot_id}").status_code == 405
    assert api.client.get(f"/bots/{bot_id}").json()["state"] == "running"


def test_stop_of_what_would_not_die_says_so(api: Api) -> None:
    bot_id = api.start(kind="stubborn")
    response = api.client.get(f"/stop/{bot_id}")
    assert response.status_code == 504
    problem = response.json()
    assert (problem["bot_id"], problem["state"], problem["type"]) == (bot_id, "killing", "/problems/still-alive")
    assert "killing" in problem["detail"]


def test_bots_lists_the_active_ones(api: Api) -> None:
    up, down = api.start(), api.start()
    api.client.post(f"/stop/{down}")

    def ids(query: str) -> list[int]:
        return [bot["bot_id"] for bot in api.client.get(f"/bots{query}").json()]

    assert ids("") == [up]
    assert ids("?state=all") == [up, down]
    assert ids("?state=stopped,failed") == [down]
    assert ids("?state=failed") == []


def test_history(api: Api) -> None:
    first, _ = api.start(start_number=12), api.start()
    api.client.post(f"/stop/{first}")
    ended, alive = api.client.get("/bots_history").json()
    assert ended["start_number"] == 12
    assert TIME.fullmatch(ended["start"])
    assert TIME.fullmatch(ended["end"])
    assert list(ended)[:3] == ["start_number", "start", "end"]
    assert (ended["bot_id"], ended["run_id"], ended["exit_code"], ended["cause"]) == (first, 1, 0, "stopped")
    assert (alive["start_number"], alive["end"], alive["exit_code"], alive["cause"]) == (0, "still alive", None, None)


def test_history_pages_of_a_thousand(api: Api) -> None:
    bot_id = api.start()
    run = api.fleet.runs_[0]
    api.fleet.runs_ += [dataclasses.replace(run, run_id=n) for n in range(2, 1503)]
    first = api.client.get("/bots_history")
    assert len(first.json()) == 1000
    second = api.client.get(first.links["next"]["url"])
    assert [run["run_id"] for run in first.json() + second.json()] == list(range(1, 1503))
    assert "next" not in second.links
    assert bot_id == 1
