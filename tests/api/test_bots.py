"""The calls on bots."""

from __future__ import annotations

import dataclasses
import signal
from typing import Any

import httpx
import pytest

from supervisor.core import model, views
from supervisor.fleet.fleet import Wait
from tests.api.conftest import Api
from tests.api.fake_fleet import BEGAN


def test_create(api: Api) -> None:
    response = api.client.post("/bots", json={"name": "alice", "labels": {"team": "a"}})
    assert response.status_code == 201
    assert response.headers["location"] == "/bots/1"
    bot = response.json()
    assert (bot["bot_id"], bot["name"], bot["kind"], bot["goal"], bot["state"]) == (
        1,
        "alice",
        "counter",
        "up",
        "running",
    )
    assert bot["params"] == {"start_number": 0}
    assert bot["started_at"] == "2024-04-06T21:29:35.499784Z"
    assert api.client.get(response.headers["location"]).json() == bot


@pytest.mark.parametrize(("query", "wait"), [("", Wait.ATTEMPT), ("?wait=ready", Wait.READY)])
def test_create_waits_as_asked(api: Api, query: str, wait: Wait) -> None:
    api.client.post(f"/bots{query}").raise_for_status()
    assert api.fleet.waited == [wait]


def test_a_scheduled_bot_is_active(api: Api) -> None:
    bot_id = api.start()
    bot = dataclasses.replace(api.fleet.views[bot_id].bot, state=model.State.SCHEDULED)
    schedule = model.WaitingFor.SCHEDULE
    api.fleet.views[bot_id] = views.BotView(bot=bot, reason="well", waiting_for=schedule, next_start_at=BEGAN)
    for query in ("", "?state=scheduled", "?state=running,scheduled"):
        [shown] = api.client.get(f"/bots{query}").json()
        assert (shown["state"], shown["waiting_for"], shown["pid"]) == ("scheduled", "schedule", None)
        assert shown["next_start_at"] == "2024-04-06T21:29:35.499784Z"
    assert api.client.get("/bots?state=backoff").json() == []


def test_create_with_a_key_makes_one_bot(api: Api) -> None:
    answers = [api.client.post("/bots", headers={"Idempotency-Key": "k-1"}) for _ in range(2)]
    answers.append(api.client.post("/bots", headers={"Idempotency-Key": "k-2"}))
    assert [answer.json()["bot_id"] for answer in answers] == [1, 1, 2]
    assert {answer.status_code for answer in answers} == {201}
    assert api.client.post("/start", headers={"Idempotency-Key": "k-1"}).json() == {"bot_id": 1}


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ({}, None, True),
        ({"start_number": 3, "name": "a"}, {"name": "a", "params": {"start_number": 3}}, True),
        ({"restart": {"policy": "never"}}, {"restart": {"policy": "never"}, "labels": {}}, False),
        ({"start_number": 3}, {"start_number": 4}, False),
        ({"name": "a"}, {"name": "b"}, False),
    ],
)
def test_a_key_is_that_of_one_body(api: Api, first: Any, second: Any, same: bool) -> None:
    once = {"Idempotency-Key": "k"}
    assert api.client.post("/bots", json=first, headers=once).status_code == 201
    again = api.client.post("/bots", json=second, headers=once)
    if same:
        assert (again.status_code, again.json()["bot_id"]) == (201, 1)
    else:
        assert (again.status_code, again.json()["type"]) == (422, "/problems/idempotency-key-reused")
    assert len(api.fleet.made) == 1


def test_any_text_can_have_a_key(api: Api) -> None:
    body = b'{"name": "\\ud83e\\udd16", "labels": {"a": "b"}, "limits": {"cpu_affinity": [0]}, "schedule": "* * * * *"}'
    headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
    assert [api.client.post("/bots", content=body, headers=headers).status_code for _ in range(2)] == [201, 201]
    assert len(api.fleet.made) == 1


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "\u00e9".encode("latin-1")])
def test_keys_are_visible_ascii(api: Api, key: Any) -> None:
    assert api.client.post("/bots", headers={"Idempotency-Key": key}).status_code == 422
    assert not api.fleet.made


def test_names_are_unique(api: Api) -> None:
    api.start(name="alice")
    response = api.client.post("/bots", json={"name": "alice"})
    assert response.status_code == 409
    assert response.json()["type"] == "/problems/name-taken"


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", "\u0000", "a\u202eb", 12, True, ["x"], "x" * 5000])
def test_names_that_are_refused(api: Api, name: object) -> None:
    assert api.client.post("/bots", json={"name": name}).status_code == 422
    assert api.client.post("/bots", json={"labels": {name if isinstance(name, str) else "k": name}}).status_code == 422
    assert not api.fleet.made


@pytest.mark.parametrize("name", ["x", "x" * 200, "Zoë's 机器人 🤖"])
def test_names_that_are_taken(api: Api, name: str) -> None:
    assert api.client.post("/bots", json={"name": name, "labels": {name: name}}).json()["name"] == name


@pytest.mark.parametrize(
    "body",
    [
        {"pid": 1},
        {"state": "running"},
        {"kind": "nope"},
        {"kind": None},
        {"params": {"nope": 1}},
        {"params": []},
        {"labels": {"a:b": "c"}},
        {"labels": {"a": 1}},
        {"labels": {str(n): "" for n in range(65)}},
        {"grace_s": -1},
        {"grace_s": "3"},
        {"grace_s": True},
        {"grace_s": 1e9},
        {"restart": {"policy": "sometimes"}},
        {"restart": {"nope": 1}},
        {"restart": {"max_restarts": 1.0}},
        {"restart": {"jitter": 2}},
        {"restart": None, "max_restarts": 3},
        [],
        "x",
        12,
    ],
)
def test_bodies_that_are_refused(api: Api, body: object) -> None:
    response = api.client.post("/bots", json=body)
    assert response.status_code == 422
    assert not api.fleet.made


def test_restart_policy_is_the_kinds_but_for_what_is_given(api: Api) -> None:
    given = {"max_restarts": 9, "retry_after_s": 60}
    policy = api.client.post("/bots", json={"restart": given}).json()["restart"]
    assert (
        policy
        == {
            "policy": "on-failure",
            "delay_s": 0.5,
            "factor": 2,
            "max_delay_s": 30,
            "jitter": 0.1,
            "within_s": 60,
        }
        | given
    )


@pytest.mark.parametrize("verb", ["start", "stop", "restart"])
def test_commands_wait_or_not(api: Api, verb: str) -> None:
    bot_id = api.start()
    api.fleet.waited.clear()
    state = "stopped" if verb == "stop" else "running"
    settled = api.client.post(f"/bots/{bot_id}/{verb}")
    assert (settled.status_code, settled.json()["state"]) == (200, state)
    assert set(api.fleet.waited) == {True}
    api.fleet.waited.clear()
    assert api.client.post(f"/bots/{bot_id}/{verb}?wait=0").status_code == 202
    assert set(api.fleet.waited) == {False}


SIGNAL = {"signal": "SIGHUP"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/start", {}),
        ("/bots", {}),
        ("/stop/1", {}),
        ("/bots/1/start", {}),
        ("/bots/1/stop", {}),
        ("/bots/1/restart", {}),
        ("/bots/1/signal", SIGNAL),
    ],
)
def test_unknown_fields_are_refused_everywhere(api: Api, path: str, body: dict[str, Any]) -> None:
    api.start()
    assert api.client.post(path, json=body).is_success
    assert api.client.post(path, json=body | {"pid": 1}).status_code == 422


@pytest.mark.parametrize("verb", ["stop", "restart"])
def test_grace(api: Api, verb: str) -> None:
    bot_id = api.start()
    api.client.post(f"/bots/{bot_id}/{verb}", json={"grace_s": 3}).raise_for_status()
    api.client.post(f"/bots/{bot_id}/{verb}").raise_for_status()
    api.client.post(f"/stop/{bot_id}", json={"grace_s": 4}).raise_for_status()
    assert api.fleet.graces == [3, None, 4]
    assert api.client.post(f"/bots/{bot_id}/{verb}", json={"grace": 3}).status_code == 422


def test_signal(api: Api) -> None:
    bot_id = api.start()
    assert api.client.post(f"/bots/{bot_id}/signal", json={"signal": "SIGHUP"}).status_code == 204
    assert api.fleet.signals == [(bot_id, signal.SIGHUP)]
    for wrong in ({}, {"signal": "HUP"}, {"signal": 1}, {"signal": "SIG_DFL"}, {"signal": None}):
        assert api.client.post(f"/bots/{bot_id}/signal", json=wrong).status_code == 422
    api.client.post(f"/stop/{bot_id}")
    response = api.client.post(f"/bots/{bot_id}/signal", json={"signal": "SIGHUP"})
    assert (response.status_code, response.json()["bot_id"]) == (409, bot_id)


def test_delete(api: Api) -> None:
    bot_id = api.start()
    assert api.client.delete(f"/bots/{bot_id}").status_code == 204
    assert api.client.get(f"/bots/{bot_id}").status_code == 404
    assert api.client.delete(f"/bots/{bot_id}").status_code == 404
    assert len(api.client.get(f"/bots/{bot_id}/runs").json()["runs"]) == 1


@pytest.mark.parametrize(
    "bot_id", ["-1", "0", "abc", "1_0", "+1", "%201", "1.0", "1" * 5000, str(2**70), "%00", "%ED%A0%80", "\u0661"]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/bots/{}"), ("GET", "/stop/{}"), ("POST", "/bots/{}/stop"), ("DELETE", "/bots/{}"), ("GET", "/runs/{}")],
)
def test_ids_that_cannot_be(api: Api, method: str, path: str, bot_id: str) -> None:
    assert api.client.request(method, path.format(bot_id)).status_code == 422


@pytest.mark.parametrize(
    "path", ["/bots/77", "/bots/77/runs", "/bots/77/logs", "/runs/77", "/kinds/nope", f"/bots/{2**53}"]
)
def test_unknown(api: Api, path: str) -> None:
    response = api.client.get(path)
    assert response.status_code == 404
    assert response.json()["type"].startswith("/problems/unknown-")


def test_filters(api: Api) -> None:
    api.start(name="a", labels={"team": "red", "url": "http://x"})
    api.start(name="b", labels={"team": "red"})
    api.start(kind="stubborn")

    def ids(**query: Any) -> list[int]:
        return [bot["bot_id"] for bot in api.client.get("/bots", params=query).raise_for_status().json()]

    assert ids(label="team:red") == [1, 2]
    assert ids(label=["team:red", "url:http://x"]) == [1]
    assert ids(name="b") == [2]
    assert ids(kind="stubborn") == [3]
    assert ids(kind="", name="", label="", state="", limit="", cursor="") == [1, 2, 3]
    assert ids(kind="nope") == []


@pytest.mark.parametrize(
    "query",
    ["limit=-1", "limit=0", "limit=1001", "limit=x", "limit=" + "1" * 5000, "cursor=x", "cursor=AAAAAAAAAAA%3D",
     "cursor=" + "z" * 11, "cursor=%00", "state=nope", "state=running,", "label=team", "label=a:b&label=a:c",
     "name=%00", "kind=%0a", "stat=all", "name=" + "x" * 5000],
)  # fmt: skip
def test_queries_that_are_refused(api: Api, query: str) -> None:
    assert api.client.get(f"/bots?{query}").status_code == 422


def test_pages(api: Api) -> None:
    for _ in range(5):
        api.start(labels={"a b": "ü&"})
    seen, url = [], httpx.URL("/bots", params={"limit": 2, "label": "a b:ü&"})
    while True:
        page = api.client.get(url)
        seen.append([bot["bot_id"] for bot in page.json()])
        if "next" not in page.links:
            break
        url = httpx.URL(page.links["next"]["url"])
    assert seen == [[1, 2], [3, 4], [5]]


def test_logs(api: Api) -> None:
    bot_id = api.start()
    api.fleet.log = b"one\n\x00\xff\x1b[31m\ntwo\n"
    response = api.client.get(f"/bots/{bot_id}/logs")
    assert response.text == "one\n\x00\ufffd\x1b[31m\ntwo\n"
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert api.client.get(f"/bots/{bot_id}/logs?tail=1&run=1").text == "two\n"
    for wrong in ("tail=0", "tail=-1", "tail=10001", "run=x", "run=0"):
        assert api.client.get(f"/bots/{bot_id}/logs?{wrong}").status_code == 422
