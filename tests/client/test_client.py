"""The Python client against the real program. docs/client.md takes its examples from here, as they are."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import anyio
import pytest

from supervisor.api import answers
from supervisor.client import AsyncClient, Client, Line, Problem, Unreachable, calls, values
from supervisor.core import model, views
from tests.program import Program
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]
KINDS = {"crashing": 'target = "misbehaving:raises"'}


@pytest.fixture(autouse=True)
def environment(shared: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOT_SUPERVISOR_URL", str(shared.client.base_url))


# ---- what the documentation shows


def test_a_life() -> None:
    with Client() as client:
        bot = client.create("counter", {"start_number": 12}, name="adder", labels={"team": "a"}, wait=True)
        print(bot.bot_id, bot.state, bot.pid, bot.reason)

        client.restart(bot.bot_id)
        stopped = client.stop(bot.bot_id, grace_s=3)
        print(stopped.state, stopped.last_exit)

        for run in client.runs(bot_id=bot.bot_id):
            print(run.run_id, run.started_at, run.cause, run.exit_code, run.signal, run.last_lines)

    assert (bot.state, bot.labels, stopped.state) == ("running", {"team": "a"}, "stopped")
    assert stopped.last_exit is not None
    assert (stopped.last_exit.cause, stopped.last_exit.at.tzinfo is not None) == ("stopped", True)
    assert run.cause == "stopped"


def test_many_bots() -> None:
    with Client() as client:
        for number in range(3):
            client.create(params={"start_number": number}, labels={"customer": "42"})

        for bot in client.bots(labels={"customer": "42"}):
            print(bot.bot_id, bot.cpu_percent, bot.rss_bytes)

        outcomes = client.restart_many(labels={"customer": "42"}, max_parallel=2)
        failed = [outcome for outcome in outcomes if not outcome.ok]
        client.stop_many(all=True)

        assert (len(outcomes), failed) == (3, [])
        assert list(client.bots()) == []
        assert {bot.state for bot in client.bots(states=["all"])} == {"stopped"}


def test_what_goes_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with Client() as client:
        try:
            client.create("counter", {"start_number": "twelve"})
        except Problem as problem:
            print(problem.status, problem.title, problem.detail, problem.errors)
        except Unreachable as unreachable:
            print(unreachable)

    assert re.match(r"422 .* start_number: Input should be a valid integer", capsys.readouterr().out)


def test_feeds() -> None:
    with Client() as client:
        bot = client.create("counter", {"start_number": 12})
        for event in client.events(bot_id=bot.bot_id):
            print(event.event_id, event.at, event.state, event.reason)
            if event.state == "running":
                break

        for line in client.follow(bot.bot_id):
            print(line)
            if isinstance(line, Line) and line.text == "13":
                break

    assert event.kind == "counter"
    assert line == Line(offset=6, text="13")


async def an_async_life() -> None:
    async with AsyncClient() as client:
        bot = await client.create("counter", wait=True)
        async for each in client.bots(kind="counter"):
            print(each.bot_id, each.state)
        await client.stop(bot.bot_id)

    assert each.bot_id == bot.bot_id


def test_async() -> None:
    anyio.run(an_async_life)


def test_the_documentation_shows_these_examples() -> None:
    here = Path(__file__).read_text()
    examples = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "client.md").read_text(), re.M | re.S)
    assert len(examples) >= 5
    for example in examples:
        assert textwrap.indent(example, "    ", lambda line: line.strip() != "") in here, example


# ---- what else it promises


def test_calls_that_look(shared: Program) -> None:
    with Client() as client:
        bot = client.create("crashing", restart={"policy": "never"}, idempotency_key="once")
        assert client.create("crashing", restart={"policy": "never"}, idempotency_key="once").bot_id == bot.bot_id
        shared.wait_state(bot.bot_id, "failed")
        wait_for(lambda: list(client.crashes()), what="the crash is in the ledger")
        [crash] = client.crashes(kind="crashing")
        run = client.run(crash.run_id)
        assert (crash.count, crash.bot_id, run.fingerprint) == (1, bot.bot_id, crash.fingerprint)
        assert run.raised is None or run.raised.fingerprint == crash.fingerprint
        past = next(iter(client.history(bot_id=bot.bot_id, causes=["crashed", "killed"], since=run.started_at)))
        assert (past.run_id, past.end) == (run.run_id, run.ended_at)
        assert [kind.name for kind in client.kinds()] == ["counter", "crashing"]
        assert client.kind("counter").warm
        assert client.reload_kinds().changed == []
        assert client.reload_kind("counter").name == "counter"
        assert client.livez().status == client.readyz(verbose=True).status == "ok"
        assert client.start(client.create(name="a").bot_id, wait=False).goal == "up"
        client.delete(bot.bot_id)
        with pytest.raises(Problem) as refused:
            client.signal(bot.bot_id, "SIGHUP")
        assert (refused.value.status, refused.value.bot_id) == (404, bot.bot_id)


def test_logs_and_pages(shared: Program) -> None:
    with Client() as client:
        ids = [client.create(params={"start_number": number}, wait=True).bot_id for number in (7, 8, 9)]
        wait_for(lambda: all(map(client.logs, ids)), what="each has printed")
        assert client.logs(ids[0], tail=10_000)[0] == "7"
        for make, field in ((calls.bots, "bot_id"), (calls.runs, "run_id"), (calls.history, "run_id")):
            call: calls.Call[Any] = make()
            small = dataclasses.replace(call, params={"limit": 2})
            numbers = [getattr(item, field) for item in client.pages(small)]
            assert len(numbers) >= 3
            assert numbers == [getattr(item, field) for item in client.pages(call)]


def test_both_flavours_have_the_same_calls() -> None:
    def names(cls: type[object]) -> set[str]:
        return {name for name in vars(cls) if not name.startswith("_")}

    described = {
        name for name, each in inspect.getmembers(calls, inspect.isfunction) if each.__module__ == calls.__name__
    }
    assert names(Client) == names(AsyncClient)
    assert {name for name in described if not name.startswith("_")} <= names(Client)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (values.Bot, answers.Bot),
        (values.LastExit, answers.LastExit),
        (values.Run, answers.Run),
        (values.PastRun, answers.PastRun),
        (values.Raised, model.Raised),
        (values.Crash, answers.Crash),
        (values.Kind, views.KindView),
        (values.Outcome, views.Outcome),
        (values.Reloaded, views.Reloaded),
        (values.Health, answers.Health),
        (values.Event, answers.Event),
    ],
)
def test_values_have_the_fields_of_the_answers(ours: type[Any], theirs: type[Any]) -> None:
    added = ["deleted"] if ours is values.Event else []  # a field of its own in the feed
    names = [field.name for field in dataclasses.fields(ours)]
    assert names == [field.name for field in dataclasses.fields(theirs)] + added


def test_what_a_newer_supervisor_adds_is_ignored() -> None:
    given = {"bot_id": 1, "ok": True, "state": "hibernating", "since_version": 9}
    expected = values.Outcome(bot_id=1, ok=True, state="hibernating", detail=None)  # type: ignore[arg-type]
    assert values.one(values.Outcome, given) == expected


class Other(BaseHTTPRequestHandler):
    """A server, but not ours: it answers with what the path asks for."""

    def do_GET(self) -> None:
        kind, body = ("text/html", b"<p>hello") if self.path.startswith("/bots") else ("application/json", b'["hello"]')
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def other() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_another_server_is_told_apart(other: str) -> None:
    ask: list[Callable[[Client], object]] = [
        lambda client: client.bot(1),
        lambda client: list(client.bots()),
        lambda client: client.kinds(),
        lambda client: client.livez(),
        lambda client: list(client.runs()),
        lambda client: list(client.history()),
        lambda client: next(client.events()),
        lambda client: next(client.follow(1)),
    ]
    with Client(other) as client:
        for call in ask:
            with pytest.raises(Unreachable, match="something else answers there"):
                call(client)


def test_nobody_is_there() -> None:
    with (
        Client("http://127.0.0.1:1") as client,
        pytest.raises(Unreachable, match="no supervisor answers at http://127"),
    ):
        client.bot(1)


@pytest.mark.parametrize("url", ["", "nonsense", "ftp://127.0.0.1", "http://", "unix:", "http://x:y"])
def test_a_url_that_cannot_be_used(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not url:
        monkeypatch.setenv("BOT_SUPERVISOR_URL", "nonsense")
    with pytest.raises(ValueError, match="is no URL"):
        Client(url)


def test_every_method_is_told() -> None:
    told = (ROOT / "docs" / "client.md").read_text().partition("## All methods")[2]
    methods = {name for name in vars(Client) if not name.startswith("_")} - {"close", "send", "pages", "read"}
    assert [name for name in methods if not re.search(rf"`{name}[(`]", told)] == []
