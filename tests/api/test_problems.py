"""What is answered when a call cannot be done."""

from __future__ import annotations

import logging

import pytest

from supervisor.api import problems
from supervisor.core import errors
from tests.api.conftest import Api


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nope", 404),
        ("GET", "/bots/", 404),
        ("GET", "/stop/1/", 404),
        ("GET", "/assets/nope.js", 404),
        ("GET", "/assets/..%2fapp.py", 404),
        ("GET", "/assets/" + "x" * 200, 404),
        ("PUT", "/bots", 405),
        ("OPTIONS", "/bots", 405),
        ("TRACE", "/livez", 405),
        ("POST", "/livez", 405),
        ("POST", "/openapi.json", 405),
        ("DELETE", "/start", 405),
    ],
)
def test_the_frameworks_own(api: Api, method: str, path: str, status: int) -> None:
    response = api.client.request(method, path)
    problem = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.status_code, problem["status"], problem["type"]) == (status, status, "about:blank")
    assert problem["title"]
    assert problem["detail"]


@pytest.mark.parametrize("name", ["%00", "x" * 5000])
def test_files_that_cannot_be(api: Api, name: str) -> None:
    assert api.client.get(f"/assets/{name}").status_code == 422


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/bots", "GET, HEAD, POST"),
        ("/start", "POST"),
        ("/bots/1", "GET, HEAD, DELETE"),
        ("/stop/1", "GET, POST"),
        ("/livez", "GET, HEAD"),
        ("/openapi.json", "GET, HEAD"),
    ],
)
def test_allow_names_every_method(api: Api, path: str, allowed: str) -> None:
    assert api.client.put(path).headers["allow"] == allowed


def test_a_bug_is_logged_and_not_shown(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    api.fleet.bug = RuntimeError("the secret of the bug")
    with caplog.at_level(logging.ERROR):
        response = api.client.get("/bots/1")
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "secret" not in response.text
    assert "the secret of the bug" in caplog.text
    assert "GET '/bots/1'" in caplog.text
    assert [record.exc_info is not None for record in caplog.records] == [True]


def test_not_now(api: Api) -> None:
    api.fleet.bug = errors.LedgerUnavailable("the disk is full", retry_after_s=3)
    response = api.client.get("/bots/1")
    assert (response.status_code, response.headers["retry-after"]) == (503, "3")
    assert response.json() == {
        "type": "/problems/ledger-unavailable",
        "title": "The ledger cannot be written now",
        "status": 503,
        "detail": "the disk is full",
    }


def test_input_is_never_echoed(api: Api) -> None:
    secret = "sesame" * 1000
    for body in ({secret: 1}, {"name": secret}, {"params": {secret: secret}}, {"labels": {secret: 1}}):
        response = api.client.post("/bots", json=body)
        assert response.status_code == 422
        assert len(response.content) < 2000
    many = api.client.post("/bots", json={f"unknown-{n}": 1 for n in range(1000)})
    assert len(many.json()["errors"]) == 20


def test_every_problem_has_a_title_and_a_type_of_its_own() -> None:
    def leaves(cls: type[errors.Problem]) -> list[type[errors.Problem]]:
        return [leaf for sub in cls.__subclasses__() for leaf in leaves(sub)] or [cls]

    kinds = [cls.kind for cls in leaves(errors.Problem)]
    assert len(set(kinds)) == len(kinds)
    for cls in leaves(errors.Problem):
        response = problems.of(cls())
        assert response.status_code == cls.status
        assert cls.kind.encode() in response.body
