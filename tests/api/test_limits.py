"""What a body may be, and what bytes that are no request are answered with."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import psutil
import pytest

from supervisor.api import body_limit
from tests.api.conftest import Api

HEAD = b"POST /start HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def test_a_body_up_to_the_limit(api: Api) -> None:
    body = json.dumps({"start_number": 1}).encode()
    padded = body + b" " * (body_limit.BODY_LIMIT_BYTES - len(body))
    assert api.client.post("/start", content=padded).status_code == 200
    response = api.client.post("/start", content=padded + b" ")
    assert (response.status_code, response.headers["content-type"]) == (413, "application/problem+json")


def test_a_large_body_is_refused_by_its_length_alone(api: Api) -> None:
    assert api.raw(HEAD + b"Content-Length: 300000000\r\n\r\n").startswith(b"HTTP/1.1 413 ")
    asks = HEAD + b"Content-Length: 300000000\r\nExpect: 100-continue\r\n\r\n"
    assert api.raw(asks).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("has_length", [True, False])
def test_a_large_body_takes_no_memory(api: Api, has_length: bool) -> None:
    size, chunk = 30_000_000, b"x" * 100_000

    def chunks() -> Iterator[bytes]:
        for _ in range(size // len(chunk)):
            yield chunk

    headers = {"Content-Type": "application/json"} | ({"Content-Length": str(size)} if has_length else {})
    api.client.post("/start")
    before = psutil.Process().memory_info().rss
    assert api.client.post("/start", content=chunks(), headers=headers).status_code == 413
    assert psutil.Process().memory_info().rss - before < 4_000_000
    assert api.client.post("/start").status_code == 200


def test_a_body_that_does_not_come(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limit, "BODY_TIMEOUT_S", 0.05)
    assert api.raw(HEAD + b"Content-Length: 10\r\n\r\n{").startswith(b"HTTP/1.1 408 ")


def test_a_body_that_breaks_off(api: Api) -> None:
    with socket.create_connection(("127.0.0.1", api.port)) as connection:
        connection.sendall(HEAD + b"Content-Length: 10\r\n\r\n{")
    assert api.client.get("/livez").status_code == 200
    assert not api.fleet.views


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"{]",
        b"\xff",
        b'{"a": NaN}',
        b'{"params": {"start_number": 1e999}}',
        b'{"name": "\\ud800"}',
        b'{"name": "\xed\xa0\x80"}',
        b'{"\\udfff": 1}',
        b'{"name": "a\\u0000b"}',
        b'{"params": {"a": [{"b": "\\u0000"}]}}',
        b'{"labels": {"a\\u0000": "b"}}',
        b'{"start_number": ' + b"1" * 5000 + b"}",
        b"[" * 100_000,
        b'{"params":' * 300 + b"1" + b"}" * 300,
        '{"start_number": 1}'.encode("utf-16"),
    ],
)
def test_json_that_cannot_be_kept(api: Api, body: bytes) -> None:
    response = api.client.post("/start", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    assert response.json()["type"] == "/problems/invalid-input"
    assert len(response.content) < 1000
    assert not api.fleet.views


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "json"]
)
def test_what_is_not_json(api: Api, media_type: str) -> None:
    response = api.client.post("/start", content=b"{}", headers={"Content-Type": media_type})
    assert response.status_code == 415
    assert not api.fleet.views


@pytest.mark.parametrize(
    "media_type", ["application/json", "Application/JSON; charset=utf-8", "application/merge-patch+json"]
)
def test_what_is_json(api: Api, media_type: str) -> None:
    assert api.client.post("/start", content=b"{}", headers={"Content-Type": media_type}).status_code == 200


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"Content-Length: -1\r\n\r\n{}",
        HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n{}",
        HEAD + b"Transfer-Encoding: gzip\r\n\r\n{}",
        HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\ncontent-length: 0\r\n\r\n0\r\n\r\n",
    ],
)
def test_what_is_no_request(api: Api, request_: bytes) -> None:
    answer = api.raw(request_)
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 "))
    assert b"application/problem+json" in answer
    assert api.client.get("/livez").status_code == 200


def test_a_request_with_two_lengths_is_the_last_of_its_connection(api: Api) -> None:
    hidden = b"POST /start HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"
    with socket.create_connection(("127.0.0.1", api.port), timeout=10) as connection:
        head = b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % (5 + len(hidden))
        connection.sendall(HEAD + head + b"0\r\n\r\n" + hidden)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.lower().count(b"connection: close") == answer.count(b"HTTP/1.1 ") == 1
    assert not api.fleet.views


@pytest.mark.parametrize("head", [b"GET /%s HTTP/1.1", b"GET /livez?%s HTTP/1.1", b"GET /livez HTTP/1.1\r\nX: %s"])
def test_a_large_head_does_no_harm(api: Api, head: bytes) -> None:
    answer = api.raw(head % (b"x" * 70_000) + b"\r\nHost: localhost\r\n\r\n")
    # Whether it is too large depends on whether it came in one piece.
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 404 ", b"HTTP/1.1 422 ", b"HTTP/1.1 200 "))
    assert len(answer) < 1000
    assert api.raw(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 2_000_000).startswith(b"HTTP/1.1 400 ")
    assert api.client.get("/livez").status_code == 200


def test_garbage_behind_a_request(api: Api) -> None:
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"
    assert api.raw(chunked).startswith(b"HTTP/1.1 400 ")
    assert api.client.get("/livez").status_code == 200
    assert not api.fleet.views
