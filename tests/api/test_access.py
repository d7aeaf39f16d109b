"""Who may call what."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import cast

import httpx
import pytest

from supervisor import settings
from supervisor.api import access, routes, streams
from supervisor.fleet.fleet import Fleet
from tests.api.conftest import Api
from tests.api.fake_fleet import FakeFleet

ADMIN, READ = "admin-" + "a" * 30, "read-" + "r" * 30
ROWS = [row for section in routes.table(cast(Fleet, FakeFleet()), streams.Streams(0)).values() for row in section]


@pytest.fixture
def guarded(serve: Callable[..., Api]) -> Api:
    return serve(admin_token=ADMIN, read_token=READ, allowed_hosts=["Bots.example:443", "::1"])


def call(api: Api, method: str, path: str, token: str | None, **headers: str) -> httpx.Response:
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    concrete = path.replace("{bot_id}", "1").replace("{run_id}", "1").replace("{name}", "counter")
    return api.client.request(method, concrete, headers=headers)


# ---- tokens


def test_each_route_asks_for_what_its_row_says(guarded: Api) -> None:
    assert len(ROWS) > 20
    for row in ROWS:
        got = {token: call(guarded, row.method, row.path, token).status_code for token in (None, READ, ADMIN)}
        refused = {token: status for token, status in got.items() if status in (401, 403)}
        expected = {
            access.Access.OPEN: {},
            access.Access.READ: {None: 401},
            access.Access.ADMIN: {None: 401, READ: 403},
        }[row.access]
        assert refused == expected, row


def test_the_levels_are_those_of_the_contract() -> None:
    for row in ROWS:
        if row.path in ("/livez", "/readyz", "/", "/assets/{name}"):
            assert row.access is access.Access.OPEN
        elif row.method == "GET" and not row.path.startswith("/stop"):
            assert row.access is access.Access.READ
        else:
            assert row.access is access.Access.ADMIN


def test_what_is_in_no_row_is_guarded_too(guarded: Api) -> None:
    for method, path in (("GET", "/openapi.json"), ("GET", "/nope"), ("HEAD", "/bots"), ("OPTIONS", "/bots")):
        assert call(guarded, method, path, None).status_code == 401
    assert call(guarded, "POST", "/nope", READ).status_code == 403
    assert call(guarded, "HEAD", "/stop/1", READ).status_code == 403
    assert call(guarded, "HEAD", "/livez", None).status_code == 200


def test_every_refusal_is_the_same(guarded: Api) -> None:
    bad = [
        [],
        [""],
        ["Bearer"],
        ["Bearer wrong"],
        [f"Bearer {ADMIN[:-1]}"],
        [f"Bearer {ADMIN}x"],
        [f"Bearer  {ADMIN}"],
        [f"Basic {ADMIN}"],
        [ADMIN],
        ["Bearer \xff\xe9"],
        [f"Bearer {ADMIN}", f"Bearer {ADMIN}"],
        [f"Bearer {ADMIN}", "Bearer wrong"],
    ]
    bodies = set()
    for values in bad:
        lines = "".join(f"Authorization: {value}\r\n" for value in values)
        answer = guarded.raw(f"GET /bots HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode("latin-1"))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 401 "), values
        assert b"www-authenticate: Bearer" in head
        bodies.add(body)
    assert len(bodies) == 1


def test_every_token_is_compared_whole(guarded: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def digest(given: bytes, known: bytes) -> bool:
        compared.append(known)
        return compare(given, known)

    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", digest)
    for token in (None, "wrong", ADMIN, READ):
        call(guarded, "GET", "/bots", token)
        assert compared == [ADMIN.encode(), READ.encode()]
        compared.clear()


def test_the_scheme_has_no_case(guarded: Api) -> None:
    assert guarded.client.get("/bots", headers={"Authorization": f"bearer {READ}"}).status_code == 200


def test_tokens_show_up_nowhere(guarded: Api, caplog: pytest.LogCaptureFixture) -> None:
    texts = [repr(settings.Settings.model_validate({"admin_token": ADMIN, "read_token": READ}))]
    for path in ("/bots", "/readyz?verbose", "/openapi.json", "/kinds"):
        texts.append(call(guarded, "GET", path, ADMIN).text)
    texts.append(caplog.text)
    assert not any(ADMIN in text or READ in text for text in texts)


def test_without_tokens_everything_is_allowed(api: Api) -> None:
    assert api.client.post("/start").status_code == 200
    assert api.client.post("/start", headers={"Authorization": "Bearer whatever"}).status_code == 200


# ---- hosts


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:8000", "[::1]", "[::1]:8000", "bots.example:443"]
)
def test_our_names(guarded: Api, host: str) -> None:
    assert guarded.client.get("/livez", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evil.example:8000", "", "localhost:x",
     "a@localhost", "localhost/", "[::2]", "::1", "127.0.0.2", "localhost:8000:8000", "xbots.example"],
)  # fmt: skip
def test_foreign_names(guarded: Api, host: str) -> None:
    for path in ("/livez", "/bots", "/nope"):
        assert guarded.client.get(path, headers={"Host": host}).status_code == 400


def test_no_host_and_two(api: Api) -> None:
    assert api.raw(b"GET /livez HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert api.raw(b"GET /livez HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    two = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n"
    assert api.raw(two).startswith(b"HTTP/1.1 400 ")


# ---- origins

CHANGES = [("POST", "/start"), ("POST", "/nope"), ("DELETE", "/bots/77"), ("GET", "/stop/77"), ("POST", "/stop/77")]


@pytest.mark.parametrize(("method", "path"), CHANGES)
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://localhost:1"},
        {"Origin": "file://"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "OWN", "Sec-Fetch-Site": "cross-site"},
    ],
)
def test_foreign_pages_change_nothing(api: Api, method: str, path: str, headers: dict[str, str]) -> None:
    headers = {name: value.replace("OWN", api.url) for name, value in headers.items()}
    response = api.client.request(method, path, headers=headers)
    assert (response.status_code, response.json()["type"]) == (403, "/problems/foreign-origin")
    assert not api.fleet.views


@pytest.mark.parametrize(("method", "path"), CHANGES)
@pytest.mark.parametrize(
    "headers", [{}, {"Origin": "OWN", "Sec-Fetch-Site": "same-origin"}, {"Origin": "OWN"}, {"Sec-Fetch-Site": "none"}]
)
def test_own_pages_and_programs_do(api: Api, method: str, path: str, headers: dict[str, str]) -> None:
    headers = {name: value.replace("OWN", api.url) for name, value in headers.items()}
    assert api.client.request(method, path, headers=headers).status_code in (200, 404)


def test_a_form_of_a_foreign_page(api: Api) -> None:
    response = api.client.post("/start", data={"start_number": "1"}, headers={"Origin": "http://evil.example"})
    assert response.status_code == 403
    assert api.client.post("/start", data={"start_number": "1"}).status_code == 415
    assert not api.fleet.views


def test_reading_is_free_of_origins_but_not_shared(api: Api) -> None:
    response = api.client.get("/bots", headers={"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"})
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("access-control-")]


def test_a_name_behind_a_proxy(guarded: Api) -> None:
    headers = {"Origin": "https://bots.example", "Sec-Fetch-Site": "same-origin"}
    assert call(guarded, "POST", "/start", ADMIN, **headers).status_code == 200


# ---- headers


def test_headers(api: Api) -> None:
    for path in ("/bots", "/nope", "/livez"):
        headers = api.client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert "server" not in headers
        assert abs(parsedate_to_datetime(headers["date"]).timestamp() - time.time()) < 3
    policy = api.client.get("/apidocs").headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "frame-ancestors 'none'" in policy
