"""Commands to many bots, and reloads of kinds, as calls."""

from __future__ import annotations

import pytest

from tests.api.conftest import Api


def results(api: Api, call: str, body: object = None) -> list[tuple[int, bool, str | None]]:
    response = api.client.post(f"/bots/{call}", json=body)
    assert response.status_code == 200, response.text
    return [(result["bot_id"], result["ok"], result["state"]) for result in response.json()["results"]]


@pytest.fixture
def bots(api: Api) -> None:
    """Bots 1 to 4: two of a team, one stopped, one that cannot be stopped."""
    api.start(labels={"team": "a"}, name="first")
    api.start(labels={"team": "a", "tier": "1"})
    api.client.post(f"/stop/{api.start()}")
    api.start(kind="stubborn")


@pytest.mark.usefixtures("bots")
def test_selectors(api: Api) -> None:
    assert results(api, "stop?label=team:a&label=tier:1") == [(2, True, "stopped")]
    assert results(api, "start?label=team:a") == [(1, True, "running"), (2, True, "running")]
    assert results(api, "stop?name=first", {"grace_s": 3}) == [(1, True, "stopped")]
    assert api.fleet.graces[-1] == 3
    assert results(api, "restart?state=stopped&kind=counter") == [(1, True, "running"), (3, True, "running")]
    assert results(api, "stop?kind=nope") == []


@pytest.mark.usefixtures("bots")
def test_all_bots(api: Api) -> None:
    # Neither starts what is stopped already.
    assert [bot_id for bot_id, _, _ in results(api, "restart?all=true")] == [1, 2, 4]
    assert results(api, "stop?all=true") == [(1, True, "stopped"), (2, True, "stopped"), (4, False, "running")]
    assert [bot_id for bot_id, _, _ in results(api, "start?all=true")] == [1, 2, 3, 4]


@pytest.mark.usefixtures("bots")
def test_a_rolling_restart(api: Api) -> None:
    response = api.client.post("/bots/restart?all=1&state=all&max_parallel=2", json={"grace_s": 1})
    assert [result["ok"] for result in response.json()["results"]] == [True, True, True, False]
    api.client.delete("/bots/1")
    response = api.client.post("/bots/restart?kind=stubborn&max_parallel=1")
    [result] = response.json()["results"]
    assert result == {
        "bot_id": 4, "ok": False, "state": "running", "detail": "bot 4 is still killing: it sleeps in the kernel",
    }  # fmt: skip


@pytest.mark.parametrize("call", ["start", "stop", "restart"])
@pytest.mark.parametrize("query", ["", "?kind=", "?label=", "?all=false", "?name=&state=&label=&kind="])
def test_without_a_selector_nothing_is_done(api: Api, call: str, query: str) -> None:
    bot_id = api.start()
    response = api.client.post(f"/bots/{call}{query}")
    assert response.status_code == 422
    assert "say which bots: kind, label, name or state, or all=true" in response.json()["detail"]
    assert api.client.get(f"/bots/{bot_id}").json()["run_id"] == 1


@pytest.mark.parametrize(
    "query",
    ["knid=a", "all=true&limit=1", "label=a", "state=up", "all=perhaps", "kind=a&max_parallel=2"],
)
def test_selectors_that_are_refused(api: Api, query: str) -> None:
    assert api.client.post(f"/bots/stop?{query}").status_code == 422


@pytest.mark.parametrize("query", ["max_parallel=2", "all=true&max_parallel=0", "all=true&max_parallel=1001"])
def test_batches_that_are_refused(api: Api, query: str) -> None:
    assert api.client.post(f"/bots/restart?{query}").status_code == 422


def test_bodies_that_are_refused(api: Api) -> None:
    for call, body in (("start", {"grace_s": 1}), ("stop", {"grace_s": -1}), ("restart", {"nope": 1})):
        assert api.client.post(f"/bots/{call}?all=true", json=body).status_code == 422


# ---- kinds


def test_reload_of_all_kinds(api: Api) -> None:
    response = api.client.post("/kinds/reload")
    assert (response.status_code, response.json()) == (
        200,
        {"added": ["new"], "changed": [], "removed": ["old"], "surplus": ["old-2"]},
    )
    api.fleet.refused = "kinds.toml: is not TOML: Expected '=' after a key (at line 3, column 8)"
    response = api.client.post("/kinds/reload")
    assert response.status_code == 422
    assert response.json()["type"] == "/problems/not-reloaded"
    assert response.json()["detail"] == api.fleet.refused


def test_reload_of_one_kind(api: Api) -> None:
    assert api.client.post("/kinds/counter/reload").json() == api.client.get("/kinds/counter").json()
    assert api.client.post("/kinds/nope/reload").status_code == 404
    response = api.client.post("/kinds/broken/reload")
    assert (response.status_code, response.json()["type"]) == (422, "/problems/not-reloaded")
    assert "no configuration" in response.json()["detail"]
