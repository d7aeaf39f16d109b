"""Names that a call does not have: refused everywhere, and the nearest that it has is named."""

from __future__ import annotations

from typing import Any, cast

import pytest

from supervisor.api import invalid_input, routes, streams
from supervisor.fleet.fleet import Fleet
from tests.api.conftest import Api

ROWS = [row for rows in routes.table(cast(Fleet, None), streams.Streams(0)).values() for row in rows]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.method} {row.path}")
def test_no_call_takes_an_unknown_parameter(api: Api, row: routes.Route) -> None:
    path = row.path.format(bot_id=api.start(), run_id=1, name="counter")
    for query in ("?nope=1", "?nope", "?limit=1&nope="):
        response = api.client.request(row.method, path + query)
        assert (response.status_code, response.json()["type"]) == (422, "/problems/invalid-input"), query
        assert "query.nope: no such parameter" in response.json()["detail"]
    if row.method == "GET" and row.path != "/stop/{bot_id}":
        assert api.client.head(f"{path}?nope=1").status_code == 422
    assert [view.bot.state for view in api.fleet.views.values()] == ["running"]


def test_nor_does_the_document(api: Api) -> None:
    assert api.client.get("/openapi.json?nope=1").status_code == 422
    assert api.client.get("/openapi.json").status_code == api.client.head("/openapi.json").status_code == 200


def test_what_is_known_is_what_is_documented(api: Api) -> None:
    paths = api.client.get("/openapi.json").json()["paths"]
    for row in ROWS:
        operation = paths.get(row.path, {}).get(row.method.lower(), {})
        documented = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"}
        assert invalid_input.query_parameters(row.endpoint) == documented, row.path


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("/bots?stat=failed", "query.stat: no such parameter; did you mean state?"),
        ("/bots/1/logs?tial=3", "query.tial: no such parameter; did you mean tail?"),
        ("/bots/1/logs?Tail=3", "query.Tail: no such parameter; did you mean tail?"),
        ("/events?bot=1", "query.bot: no such parameter; did you mean bot_id?"),
        ("/readyz?verbos", "query.verbos: no such parameter; did you mean verbose?"),
        ("/events?x=1", "query.x: no such parameter; there are: bot_id, since"),
        ("/kinds?x=1", "query.x: no such parameter; there are none"),
    ],
)
def test_the_nearest_parameter_is_named(api: Api, path: str, nearest: str) -> None:
    assert api.client.get(path).json()["detail"] == nearest


@pytest.mark.parametrize(
    ("path", "body", "nearest"),
    [
        ("/bots", {"nmae": "x"}, "body.nmae: no such field; did you mean name?"),
        ("/start", {"restart": {"polcy": "never"}}, "body.restart.polcy: no such field; did you mean policy?"),
        ("/bots/batch", {"cuont": 2, "count": 2}, "body.cuont: no such field; did you mean count?"),
        ("/bots/1/stop", {"grace": 1}, "body.grace: no such field; did you mean grace_s?"),
        ("/bots/1/start", {"grace": 1}, "body.grace: no such field; there are none"),
    ],
)
def test_the_nearest_field_is_named(api: Api, path: str, body: dict[str, Any], nearest: str) -> None:
    api.start()
    response = api.client.post(path, json=body)
    assert (response.status_code, response.json()["detail"]) == (422, nearest)
