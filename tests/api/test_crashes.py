"""The calls on crashes."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor.core import model
from tests.api.conftest import Api
from tests.api.fake_fleet import BEGAN


def group(run_id: int, **fields: Any) -> model.CrashGroup:
    values: dict[str, Any] = {
        "kind": "counter",
        "fingerprint": f"crashed:{run_id}",
        "cause": model.Cause.CRASHED,
        "detail": "crashed",
        "raised": None,
        "count": 1,
        "first_at": BEGAN,
        "last_at": BEGAN + run_id * 1_000_000,
        "run_id": run_id,
        "bot_id": 1,
    }
    return model.CrashGroup(**values | fields)


def ids(api: Api, **query: Any) -> list[int]:
    return [one["run_id"] for one in api.client.get("/crashes", params=query).raise_for_status().json()["crashes"]]


def test_a_group(api: Api) -> None:
    raised = model.Raised(type="ValueError", message="no such town", fingerprint="0b1d")
    api.fleet.crashes_ = [group(2, fingerprint="0b1d", raised=raised, count=7), group(1)]
    first, second = api.client.get("/crashes").json()["crashes"]
    assert first == {
        "kind": "counter",
        "fingerprint": "0b1d",
        "cause": "crashed",
        "type": "ValueError",
        "message": "no such town",
        "detail": "crashed",
        "count": 7,
        "first_at": "2024-04-06T21:29:35.499784Z",
        "last_at": "2024-04-06T21:29:37.499784Z",
        "run_id": 2,
        "bot_id": 1,
    }
    assert (second["fingerprint"], second["type"], second["message"]) == ("crashed:1", None, None)


def test_filters_and_pages(api: Api) -> None:
    api.fleet.crashes_ = [group(3), group(2, kind="stubborn"), group(1)]
    assert ids(api, kind="stubborn") == [2]
    assert ids(api, since="2024-04-06T21:29:37Z") == [3, 2]
    page = api.client.get("/crashes?limit=2").json()
    assert [one["run_id"] for one in page["crashes"]] == [3, 2]
    assert ids(api, limit=2, cursor=page["next_cursor"]) == [1]
    assert api.client.get("/crashes", params={"cursor": page["next_cursor"]}).json()["next_cursor"] is None


def test_runs_by_fingerprint(api: Api) -> None:
    api.start()
    assert api.client.get("/runs?fingerprint=crashed:1").json()["runs"] == []


@pytest.mark.parametrize("query", ["since=x", "since=2024-04-06T21:29:36", "limit=0", "cursor=x", "bot_id=1"])
def test_queries_that_are_refused(api: Api, query: str) -> None:
    assert api.client.get(f"/crashes?{query}").status_code == 422
