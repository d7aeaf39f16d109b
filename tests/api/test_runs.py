"""The calls on runs, kinds and health."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.conftest import Api


def test_a_run(api: Api) -> None:
    bot_id = api.start(start_number=3)
    run = api.client.get("/runs/1").json()
    assert (run["run_id"], run["bot_id"], run["pid"], run["params"]) == (1, bot_id, 1001, {"start_number": 3})
    assert (run["ended_at"], run["cause"], run["log_bytes"]) == (None, None, None)
    api.client.post(f"/stop/{bot_id}")
    run = api.client.get("/runs/1").json()
    assert (run["ended_at"], run["exit_code"], run["signal"]) == ("2024-04-06T21:29:35.999784Z", 0, None)
    assert (run["log_bytes"], run["last_lines"]) == (60, ["12", "13"])


def test_runs_of_a_bot(api: Api) -> None:
    first, second = api.start(), api.start()
    api.client.post(f"/bots/{first}/restart")
    page = api.client.get(f"/bots/{first}/runs").json()
    assert [run["run_id"] for run in page["runs"]] == [1, 3]
    assert page["next_cursor"] is None
    assert [run["bot_id"] for run in api.client.get(f"/runs?bot_id={second}").json()["runs"]] == [second]


def test_filters(api: Api) -> None:
    api.client.post(f"/stop/{api.start()}")
    api.start(kind="stubborn")

    def ids(**query: Any) -> list[int]:
        return [run["run_id"] for run in api.client.get("/runs", params=query).raise_for_status().json()["runs"]]

    assert ids(cause="stopped,crashed") == [1]
    assert ids(cause="crashed") == []
    assert ids(kind="stubborn") == [2]
    assert ids(since="2024-04-06T21:29:36Z") == [2]
    assert ids(until="2024-04-06T23:29:36+02:00") == [1]
    assert ids(since="0001-01-01T00:00:00+14:00", until="9999-12-31T23:59:59-14:00") == [1, 2]


@pytest.mark.parametrize(
    "query", ["cause=nope", "since=x", "since=2024-04-06T21:29:36", "since=1e400", "bot_id=0", "x=1"]
)
@pytest.mark.parametrize("path", ["/runs", "/bots_history"])
def test_queries_that_are_refused(api: Api, path: str, query: str) -> None:
    assert api.client.get(f"{path}?{query}").status_code == 422


def test_pages(api: Api) -> None:
    for _ in range(3):
        api.start()
    page = api.client.get("/runs?limit=2").json()
    assert [run["run_id"] for run in page["runs"]] == [1, 2]
    page = api.client.get("/runs", params={"limit": 2, "cursor": page["next_cursor"]}).json()
    assert [run["run_id"] for run in page["runs"]] == [3]
    assert page["next_cursor"] is None


def test_kinds(api: Api) -> None:
    kinds = api.client.get("/kinds").json()["kinds"]
    assert [kind["name"] for kind in kinds] == ["broken", "counter", "stubborn"]
    counter = api.client.get("/kinds/counter").json()
    assert counter == kinds[1]
    assert counter["params_schema"]["properties"]["start_number"]["default"] == 0
    assert api.client.get("/kinds/" + "x" * 5000).status_code == 422


def test_health(api: Api) -> None:
    assert api.client.get("/livez").json()["status"] == "ok"
    assert api.client.get("/readyz").json() == {"status": "ok", "checks": None}
    assert api.client.get("/readyz?verbose").json()["checks"] == {"ledger": None}
    api.fleet.checks["ledger"] = "the disk is full"
    response = api.client.get("/readyz")
    assert (response.status_code, response.json()["detail"]) == (503, "ledger: the disk is full")
    assert api.client.get("/readyz?verbose").json()["checks"] == {"ledger": "the disk is full"}
    assert api.client.get("/livez").status_code == 200


def test_head_is_get_without_a_body(api: Api) -> None:
    api.start()
    for path in ("/bots", "/bots/1", "/runs", "/livez", "/apidocs", "/openapi.json", "/bots/77"):
        head, get = api.client.head(path), api.client.get(path)
        assert (head.status_code, head.content) == (get.status_code, b"")
        assert head.headers["content-length"] == str(len(get.content))
