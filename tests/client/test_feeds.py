"""How feeds are read on where they break: against a server that breaks them when the test says so."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anyio
import pytest

from supervisor.client import AsyncClient, Client, Event, Line, Problem, Skipped, Unreachable


class Script:
    """What the server answers to one connection after the other, and what it was asked with."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, str, str]] = []
        self.asked: list[tuple[str, str | None]] = []
        self.url = ""

    def feed(self, text: str) -> None:
        self.answers.append((200, "text/event-stream", text))

    def problem(self, status: int) -> None:
        self.answers.append(
            (status, "application/problem+json", json.dumps({"title": "No", "detail": f"no: {status}"}))
        )


@pytest.fixture
def script() -> Iterator[Script]:
    played = Script()

    class Player(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            played.asked.append((self.path, self.headers["Last-Event-ID"]))
            status, kind, text = played.answers.pop(0)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(text.encode())  # And the connection is closed.

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Player) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        played.url = f"http://127.0.0.1:{server.server_port}"
        yield played
        server.shutdown()
        thread.join()


def sync_flavour(url: str, patience_s: float, make: Callable[[Any], Any], seen: list[Any]) -> None:
    with Client(url, patience_s=patience_s) as client:
        seen.extend(make(client))


def async_flavour(url: str, patience_s: float, make: Callable[[Any], Any], seen: list[Any]) -> None:
    async def read() -> None:
        async with AsyncClient(url, patience_s=patience_s) as client:
            feed: AsyncIterator[Any] = make(client)
            async for value in feed:
                seen.append(value)

    anyio.run(read)


flavours = pytest.mark.parametrize("read", [sync_flavour, async_flavour])
Read = Callable[[str, float, Callable[[Any], Any], list[Any]], None]


@flavours
def test_a_log_is_read_on_from_where_it_broke(script: Script, read: Read) -> None:
    script.feed("id: 2\ndata: a\n\n: still here\n\nid: 3\ndata: \n\nid: 5\ndata: in")
    script.feed("id: 6\ndata: bc\n\nid: 20\nevent: skipped\ndata: 12\n\n")
    script.problem(503)
    script.feed(": still here\n\nid: 22\ndata: d\n\n")
    script.problem(404)
    seen: list[Any] = []
    with pytest.raises(Problem, match="no: 404"):
        read(script.url, 30, lambda client: client.follow(7, tail=2), seen)
    lines = [Line(offset=2, text="a"), Line(offset=3, text=""), Line(offset=6, text="bc"), Skipped(bytes=12)]
    assert seen == [*lines, Line(offset=22, text="d")]
    assert {path for path, _ in script.asked} == {"/bots/7/logs?tail=2"}
    assert [place for _, place in script.asked] == [None, "3", "20", "20", "22"]


@flavours
def test_events_from_a_place_on_until_patience_ends(script: Script, read: Read) -> None:
    change = {"event_id": 8, "at": "2026-01-31T08:00:00Z", "bot_id": 1, "state": "stopped", "more": "of a newer one"}
    script.feed(f"id: 8\nevent: state\ndata: {json.dumps(change)}\n\n")
    script.feed(f"id: 9\nevent: deleted\ndata: {json.dumps(change | {'event_id': 9})}\n\n")
    script.answers += [(502, "text/html", "<p>a proxy")] * 20
    seen: list[Event] = []
    with pytest.raises(Problem, match="Bad Gateway"):
        read(script.url, 2.0, lambda client: client.events(since=7), seen)
    assert [(event.event_id, event.deleted) for event in seen] == [(8, False), (9, True)]
    assert [place for _, place in script.asked][:4] == ["7", "8", "9", "9"]


@flavours
def test_what_was_never_open_is_not_tried_again(script: Script, read: Read) -> None:
    script.problem(503)
    script.answers.append((200, "text/plain", "12\n"))
    seen: list[Any] = []
    with pytest.raises(Problem, match="no: 503"):
        read(script.url, 30, lambda client: client.events(), seen)
    with pytest.raises(Unreachable, match="something else answers there"):
        read(script.url, 30, lambda client: client.follow(1), seen)
    assert (len(script.asked), seen) == (2, [])
