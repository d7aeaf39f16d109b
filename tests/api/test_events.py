"""The feed of events as it goes over the wire."""

from __future__ import annotations

import json

import pytest

from tests.api.conftest import Api


def test_a_message_for_each_event(api: Api) -> None:
    bot_id = api.start(name="trader")
    answer = api.client.get("/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    message, ping, rest = answer.text.split("\n\n")
    assert (ping, rest) == (": ping", ""), "a comment keeps proxies from closing"
    fields = dict(line.split(": ", 1) for line in message.splitlines())
    event = json.loads(fields.pop("data"))
    assert fields == {"event": "state", "id": str(event["event_id"])}
    assert list(event) == ["event_id", "at", "bot_id", "run_id", "kind", "name", "state", "goal", "reason"]
    assert (event["bot_id"], event["kind"], event["name"]) == (bot_id, "counter", "trader")
    assert event["at"].endswith("Z")


def test_from_a_number_on(api: Api) -> None:
    api.start(), api.start()
    assert api.client.get("/events?since=1").text.count("data: ") == 1
    assert api.client.get("/events?since=999").text.count("data: ") == 0
    told_twice = api.client.get("/events?since=0", headers={"Last-Event-ID": "1"})
    assert told_twice.text.count("data: ") == 1, "what the client sends by itself is newer than its address"


@pytest.mark.parametrize("query", ["since=-1", "since=x", "since=", "since=1.5", "bot_id=0", "bot_id=x"])
def test_what_is_no_number(api: Api, query: str) -> None:
    answer = api.client.get(f"/events?{query}")
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")


def test_head(api: Api) -> None:
    answer = api.client.head("/events")
    assert (answer.status_code, answer.text) == (200, "")
    assert answer.headers["content-type"].startswith("text/event-stream")
