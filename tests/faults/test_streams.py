"""Feeds of events and logs: nothing is missed, nothing comes twice, whoever dies; and they harm nobody."""

from __future__ import annotations

import contextlib
import itertools
import signal
import socket
from collections.abc import Callable
from concurrent.futures import Executor

import httpx
import psutil
import pytest

from tests.faults.observe import ends_well, ready
from tests.program import Program
from tests.sse import following
from tests.waiting import wait_for

Make = Callable[..., Program]


def states(messages: list[dict[str, object]], bot_id: int) -> list[object]:
    return [message["state"] for message in messages if message["bot_id"] == bot_id]


# ---- events


def test_the_present_comes_first_and_then_each_change(program: Program) -> None:
    stopped, running = program.start_bot(), program.start_bot(name="trader")
    ready(program, running)
    program.get(f"/stop/{stopped}")
    with following(program.client, "/events") as events:
        present = [next(events), next(events)]
        assert [message.event for message in present] == ["state", "state"]
        assert {(message.json()["bot_id"], message.json()["state"]) for message in present} == {
            (stopped, "stopped"),
            (running, "running"),
        }
        assert [int(message.id) for message in present] == sorted(message.json()["event_id"] for message in present)
        [trader] = [message.json() for message in present if message.json()["bot_id"] == running]
        assert (trader["name"], trader["kind"], trader["goal"]) == ("trader", "counter", "up")
        assert trader["reason"] == program.bot(running)["reason"]

        third = program.start_bot()
        changes = [next(events).json() for _ in range(2)]
        assert states(changes, third) == ["starting", "running"]
        program.client.delete(f"/bots/{third}")
        gone = [next(events) for _ in range(3)]
        assert [(message.event, message.json()["state"]) for message in gone] == [
            ("state", "stopping"),
            ("state", "stopped"),
            ("deleted", "stopped"),
        ]
    with following(program.client, "/events") as events:
        assert {next(events).json()["bot_id"] for _ in range(2)} == {stopped, running}
        fourth = program.start_bot()
        assert next(events).json()["bot_id"] == fourth, "what is deleted is past"


def test_of_one_bot_until_it_is_deleted(program: Program) -> None:
    first, second = program.start_bot(), program.start_bot()
    ready(program, first), ready(program, second)
    with following(program.client, "/events", bot_id=second) as events:
        assert next(events).json()["bot_id"] == second
        program.get(f"/stop/{first}")
        program.client.delete(f"/bots/{second}")
        rest = list(events)
    assert {message.json()["bot_id"] for message in rest} == {second}
    assert rest[-1].event == "deleted"


def test_nothing_is_missed_over_a_kill_of_the_supervisor(make_program: Make) -> None:
    program = make_program().start()
    bots = [program.start_bot() for _ in range(5)]
    seen: list[int] = []
    with following(program.client, "/events", since=0) as events:
        for _ in range(4):
            seen.append(int(next(events).id))
    program.get(f"/stop/{bots[0]}")
    program.kill()
    program.start()
    program.get(f"/stop/{bots[1]}")
    [(latest,)] = program.ledger("SELECT max(event_id) FROM event")
    with following(program.client, "/events", last_event_id=str(seen[-1])) as events:
        while seen[-1] != latest:
            seen.append(int(next(events).id))
    assert seen == [number for (number,) in program.ledger("SELECT event_id FROM event ORDER BY event_id")]


def test_nothing_is_missed_by_one_who_comes_and_goes(program: Program, pool: Executor) -> None:
    bots = [program.start_bot() for _ in range(3)]

    def busy() -> None:
        program.together(*(lambda client, bot_id=bot_id: restart(client, bot_id) for bot_id in bots))

    def restart(client: httpx.Client, bot_id: int) -> None:
        for _ in range(5):
            client.post(f"/bots/{bot_id}/restart").raise_for_status()

    seen = [0]
    done = pool.submit(busy)
    while not done.done() or seen[-1] != program.ledger("SELECT max(event_id) FROM event")[0][0]:
        with (
            contextlib.suppress(httpx.ReadTimeout),
            following(program.client, "/events", last_event_id=str(seen[-1]), limit_s=1) as events,
        ):
            for message in itertools.islice(events, 4):
                seen.append(int(message.id))
    done.result()
    assert seen[1:] == [number for (number,) in program.ledger("SELECT event_id FROM event ORDER BY event_id")]


def test_a_supervisor_that_is_replaced_ends_the_streams(program: Program) -> None:
    bot_id = program.start_bot()
    with following(program.client, "/events") as events, following(program.client, f"/bots/{bot_id}/logs") as log:
        assert next(events).json()["bot_id"] == bot_id
        messages = [next(log)]
        assert program.replace().returncode == 0
        for stream, told in ((events, []), (log, messages)):
            with contextlib.suppress(httpx.RemoteProtocolError):
                told += stream
    assert "Traceback" not in program.log()
    with following(program.client, f"/bots/{bot_id}/logs", last_event_id=messages[-1].id) as log:
        messages += [next(log), next(log)]
    assert [message.data for message in messages] == [str(number) for number in range(len(messages))]


@pytest.mark.parametrize("path", ["/events", "/bots/1/logs"])
@pytest.mark.parametrize("last", ["-1", "x", "9" * 30, ""])
def test_what_is_no_place_to_go_on_from(program: Program, path: str, last: str) -> None:
    program.start_bot()
    answer = program.get(path, headers={"Last-Event-ID": last, "Accept": "text/event-stream"})
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")


def test_of_no_bot(program: Program) -> None:
    for path in ("/events?bot_id=77", "/bots/77/logs"):
        assert program.get(path, headers={"Accept": "text/event-stream"}).status_code == 404


# ---- logs


def test_each_line_once_over_restarts_of_bot_and_supervisor(make_program: Make) -> None:
    program = make_program().start()
    bot_id = program.start_bot()
    lines: list[str] = []
    last: str | None = None

    def follow(count: int) -> None:
        nonlocal last
        with following(program.client, f"/bots/{bot_id}/logs", last_event_id=last) as log:
            for message in itertools.islice(log, count):
                lines.append(message.data)
                last = message.id

    follow(2)
    program.kill()
    program.start()
    follow(2)
    program.post(f"/bots/{bot_id}/restart")
    # It has printed on meanwhile, and on a slow machine more than a few lines.
    while lines.count("0") < 2:
        follow(1)
    follow(2)
    whole = (program.data_dir / "logs" / f"{bot_id}.log").read_text().splitlines()
    assert lines == whole[: len(lines)]
    assert lines[-3:] == ["0", "1", "2"]


def test_a_log_that_was_cut_says_so(make_program: Make) -> None:
    program = make_program(kinds={"floods": 'target = "obedient:floods"'}, flags=["--log-limit-bytes", "65536"])
    program.start()
    bot_id = program.start_bot("floods")
    path = program.data_dir / "logs" / f"{bot_id}.log"
    wait_for(lambda: path.exists() and path.stat().st_size > 1 << 20)
    program.get(f"/stop/{bot_id}")
    # Whoever prints so fast is through with it before somebody looks at the log.
    wait_for(lambda: path.stat().st_blocks * 512 < 1 << 19, what="the log is cut")
    with following(program.client, f"/bots/{bot_id}/logs", last_event_id="0") as log:
        first, second = next(log), next(log)
    assert first.event == "skipped"
    assert int(first.data) == int(first.id) > 0
    assert int(second.id) - int(first.id) == len(second.data) + 1, "a whole line follows"


def test_of_one_run_until_it_has_ended(make_program: Make) -> None:
    program = make_program(kinds={"leaves": 'target = "obedient:leaves"'}).start()
    bot_id = program.start_bot("leaves", restart={"policy": "never"})
    ready(program, bot_id, "waiting")
    run_id = program.bot(bot_id)["run_id"]
    with following(program.client, f"/bots/{bot_id}/logs", run=run_id) as log:
        assert next(log).data == "waiting"
        program.get(f"/stop/{bot_id}")
        assert list(log) == []
    with following(program.client, f"/bots/{bot_id}/logs", run=run_id) as log:
        assert [message.data for message in log] == ["waiting"]


def test_a_log_until_its_bot_is_deleted(program: Program) -> None:
    """At once: a stream that looked from time to time would say that nothing has come, before it ends."""
    bot_id = program.start_bot()
    with program.client.stream("GET", f"/bots/{bot_id}/logs", headers={"Accept": "text/event-stream"}) as log:
        pieces = log.iter_text()
        said = next(pieces)
        program.client.delete(f"/bots/{bot_id}")
        said += "".join(pieces)
    assert said.startswith("data: 0\n")
    assert not any(line.startswith(":") for line in said.splitlines())


def test_a_log_that_cannot_be_read_is_waited_for(program: Program) -> None:
    bot_id = program.start_bot()
    path = program.data_dir / "logs" / f"{bot_id}.log"
    with following(program.client, f"/bots/{bot_id}/logs") as log:
        numbers = [next(log).data]
        aside = path.rename(path.with_name("aside"))
        path.mkdir()
        refused = program.get(f"/bots/{bot_id}/logs")
        assert (refused.status_code, refused.json()["bot_id"]) == (503, bot_id)
        assert program.get(f"/bots/{bot_id}/logs", headers={"Accept": "text/event-stream"}).status_code == 503
        printed = len(aside.read_text().splitlines())
        wait_for(lambda: len(aside.read_text().splitlines()) > printed, what="it prints on")
        path.rmdir()
        aside.rename(path)
        numbers += [next(log).data for _ in range(printed + 1)]
    assert numbers == [str(number) for number in range(len(numbers))]
    assert "Traceback" not in program.log()


# ---- harm


def test_no_more_than_are_allowed(make_program: Make) -> None:
    program = make_program(flags=["--max-streams", "2"]).start()
    with following(program.client, "/events"), following(program.client, "/events"):
        refused = program.get("/events")
        assert refused.status_code == 503
        assert "max_streams" in refused.json()["detail"]
        assert program.get("/bots").status_code == 200
    # A client that has gone takes no place, and leaves nothing.
    wait_for(lambda: program.client.head("/events").status_code == 200)

    def is_free() -> bool:
        with contextlib.suppress(AssertionError), following(program.client, "/events"):
            return True
        return False

    wait_for(is_free)


def test_fifty_streams_do_not_hold_up_the_end(make_program: Make) -> None:
    program = make_program().start()
    ready(program, program.start_bot())
    host, port = program.client.base_url.host, program.client.base_url.port
    assert port is not None
    with contextlib.ExitStack() as stack:
        for path in ("/events", "/bots/1/logs") * 25:
            connection = stack.enter_context(socket.create_connection((host, port)))
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n".encode())
            assert b"200 OK" in connection.recv(1000)
        ends_well(program, signal.SIGTERM)
    assert "Traceback" not in program.log()


def test_clients_that_read_nothing_cost_nothing(make_program: Make) -> None:
    program = make_program().start()
    client = program.client
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            connection = stack.enter_context(
                socket.create_connection((client.base_url.host, client.base_url.port or 0))
            )
            connection.sendall(b"GET /events?since=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(10)
        before = psutil.Process(program.pid).memory_info().rss
        bot_id = program.start_bot()
        for _ in range(50):
            program.post(f"/bots/{bot_id}/restart")
        with following(client, "/events") as events:
            assert next(events).json()["bot_id"] == bot_id
        assert psutil.Process(program.pid).memory_info().rss - before < 20 << 20
        descriptors, threads = psutil.Process(program.pid).num_fds(), psutil.Process(program.pid).num_threads()
    wait_for(lambda: psutil.Process(program.pid).num_fds() <= descriptors - 10, what="what they held is given back")
    assert psutil.Process(program.pid).num_threads() <= threads
