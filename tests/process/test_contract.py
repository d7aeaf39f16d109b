"""Real bots that use what the contract gives them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from botproc import kernel, wire
from tests.process.clients import ZygoteClient
from tests.waiting import wait_for

MakeZygote = Callable[..., ZygoteClient]


@pytest.fixture
def make(make_zygote: MakeZygote) -> MakeZygote:
    """Makes a connected zygote of one of the bots in `contracts`."""

    def connected(call: str, **kwargs: Any) -> ZygoteClient:
        zygote = make_zygote(f"contracts:{call}", **kwargs)
        assert not zygote.connect().error
        return zygote

    return connected


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "notify"))
        made.settimeout(10)
        yield made


@pytest.mark.parametrize(
    ("call", "code", "signum", "said"),
    [
        ("loops", 0, None, "told to stop True"),
        ("loops_sync", 0, None, "told to stop True"),
        ("awaits", 0, None, "told to stop True"),
        ("stubborn", 0, None, "cancelled SIGTERM"),
        ("unaware", 0, None, "finally"),
        ("unaware_sync", 0, None, "finally"),
        ("without", None, signal.SIGTERM, ""),
    ],
)
def test_how_each_bot_is_stopped(make: MakeZygote, call: str, code: int | None, signum: int | None, said: str) -> None:
    # Who returns by itself has half of it for that.
    zygote = make(call, grace_s=0.5 if call == "stubborn" else 60.0)
    alive = zygote.spawn()
    zygote.wait_log(1, "begun")
    os.kill(alive.pid, signal.SIGTERM)
    with contextlib.suppress(ProcessLookupError):  # One that does not wait may have ended by now.
        os.kill(alive.pid, signal.SIGTERM)
    ended = zygote.ended(alive.run_id)
    assert (ended.exit_code, ended.signal) == (code, signum), zygote.bot_log(1)
    assert zygote.bot_log(1).partition("\n")[2].strip() == said


def test_a_bot_that_looks_is_left_to_return_for_half_its_grace(make: MakeZygote) -> None:
    zygote = make("stubborn", grace_s=3600.0)
    alive = zygote.spawn()
    zygote.wait_log(1, "begun")
    os.kill(alive.pid, signal.SIGTERM)
    with pytest.raises(AssertionError):
        wait_for(lambda: "cancelled" in zygote.bot_log(1), 0.3)


@pytest.mark.parametrize("call", ["loops", "loops_sync", "unaware", "unaware_sync"])
def test_a_stop_in_the_first_moment_is_not_lost(make: MakeZygote, call: str) -> None:
    zygote = make(call)
    for bot_id in range(1, 11):
        alive = zygote.spawn(bot_id)
        os.kill(alive.pid, signal.SIGTERM)
        assert zygote.ended(alive.run_id).exit_code == 0, zygote.bot_log(bot_id)


def test_what_a_bot_forks_can_be_terminated(make: MakeZygote) -> None:
    zygote = make("terminates_a_child")
    assert zygote.ended(zygote.spawn().run_id).exit_code == 0
    assert zygote.bot_log(1) == "child -15 False\n"


@pytest.mark.parametrize("at_start", [True, False])
def test_who_says_that_a_bot_is_ready(
    make: MakeZygote, listener: socket.socket, tmp_path: Path, at_start: bool
) -> None:
    zygote = make("readies", notify_address=str(tmp_path / "notify"), ready_at_start=at_start)
    zygote.ended(zygote.spawn().run_id)
    said = [b"STATUS=warms up slowly", b"READY=1", b"WATCHDOG=1"]
    expected = [b"READY=1", *said] if at_start else said
    assert [listener.recv(100) for _ in expected] == expected


def test_the_data_of_a_bot_survives_its_runs(make: MakeZygote) -> None:
    zygote = make("remembers")
    for _ in range(2):
        assert zygote.ended(zygote.spawn(7).run_id).exit_code == 0, zygote.bot_log(7)
    lines = [json.loads(line) for line in zygote.bot_log(7).splitlines()]
    assert lines == [[["1"], ["0o700", "0o700"]], [["1", "2"], ["0o700", "0o700"]]]


def test_the_log_of_a_bot(make: MakeZygote) -> None:
    zygote = make("logs")
    zygote.ended(zygote.spawn().run_id)
    lines = zygote.bot_log(1).splitlines()
    assert lines[:3] == ["INFO 12 orders open", "ERROR an order is lost", "Traceback (most recent call last):"]
    assert lines[-1] == "LookupError: no such order"


# ---- heartbeats


def test_the_loop_beats_by_itself(make: MakeZygote, listener: socket.socket, tmp_path: Path) -> None:
    zygote = make("beats", notify_address=str(tmp_path / "notify"), heartbeat_s=0.15)
    zygote.spawn()
    assert {listener.recv(100) for _ in range(5)} == {b"WATCHDOG=1", b"READY=1"}
    assert "begun 150000" in zygote.wait_log(1, "begun")


def test_a_frozen_loop_does_not_beat_and_shows_where_it_hangs(
    make: MakeZygote, listener: socket.socket, tmp_path: Path
) -> None:
    zygote = make("beats", notify_address=str(tmp_path / "notify"), heartbeat_s=0.15)
    alive = zygote.spawn(freeze=True)
    zygote.wait_log(1, "begun")
    assert [listener.recv(100), listener.recv(100)] == [b"WATCHDOG=1", b"READY=1"]
    listener.settimeout(0.3)
    with pytest.raises(TimeoutError):
        listener.recv(100)

    for count in (1, 2):
        os.kill(alive.pid, kernel.DUMP_SIGNAL)
        wait_for(lambda count=count: zygote.bot_log(1).count("in _waits_deeper") == count)  # type: ignore[misc]
    threads, _, tasks = zygote.bot_log(1).partition("Task ")
    assert "most recent call first" in threads
    assert "contracts.py" in threads
    assert "in beats" in threads
    running, _, waiting = tasks.partition("Task 'elsewhere'")
    assert "which runs now" in running
    assert "time.sleep(3600)" in running
    assert "in _waits_elsewhere" in waiting


@pytest.mark.parametrize("call", ["loops", "without"])
def test_a_bot_without_heartbeat_ignores_the_signal(make: MakeZygote, call: str) -> None:
    zygote = make(call)
    alive = zygote.spawn()
    zygote.wait_log(1, "begun")
    os.kill(alive.pid, kernel.DUMP_SIGNAL)
    os.kill(alive.pid, signal.SIGTERM)
    assert zygote.ended(alive.run_id).signal in (None, signal.SIGTERM)
    assert "most recent call" not in zygote.bot_log(1)


# ---- crashes


def raised(zygote: ZygoteClient, bot_id: int = 1, **params: Any) -> dict[str, str]:
    alive = zygote.spawn(bot_id, **params)
    assert zygote.ended(alive.run_id).exit_code == 1
    assert "Traceback (most recent call last):" in zygote.bot_log(bot_id)
    first, second = (zygote.directory / f"{bot_id}.lock").read_text().splitlines()
    assert first == f"{alive.run_id} {alive.pid} {alive.start_ticks}"
    return dict(json.loads(second))


def test_a_crash_is_recorded_beside_the_lock(make: MakeZygote) -> None:
    zygote = make("crashes")
    first = raised(zygote, message="a")
    assert (first["type"], first["message"]) == ("ConnectionError", "because of a")
    assert len(first["fingerprint"]) == 16
    assert raised(zygote, message="b", depth=5)["fingerprint"] == first["fingerprint"]
    assert raised(zygote, message="a", other=True)["fingerprint"] != first["fingerprint"]


def test_a_group_that_crashes_a_plain_bot_is_recorded(make: MakeZygote) -> None:
    assert raised(make("crashes_in_a_group"))["message"] == "several (1 sub-exception)"


# ---- secrets


def test_references_are_resolved_in_the_bot(make: MakeZygote) -> None:
    zygote = make("reveals")
    key = "0123456789abcdef" * 2
    (zygote.directory / "secrets").mkdir()
    (zygote.directory / "secrets" / key).write_text("kept")
    (zygote.directory / "token").write_text("from a file\n\n")
    for given, meant in [
        ("env:OF_THE_KIND", "yes"),
        (f"file:{zygote.directory}/token", "from a file\n"),
        (f"secret:{key}", "kept"),
        ("env: no reference", "env: no reference"),
    ]:
        (zygote.directory / "1.log").unlink(missing_ok=True)
        assert zygote.ended(zygote.spawn(token=given).run_id).exit_code == 0, zygote.bot_log(1)
        assert json.loads(zygote.bot_log(1)) == [meant, "plain"]


@pytest.mark.parametrize("given", ["env:THERE_IS_NO_SUCH", "file:/there/is/no/such", f"secret:{'0' * 32}"])
def test_a_reference_to_nothing_is_told(make: MakeZygote, given: str) -> None:
    zygote = make("reveals")
    assert zygote.ended(zygote.spawn(token=given).run_id).exit_code == wire.EXIT_UNUSABLE
    [line] = zygote.bot_log(1).splitlines()
    assert line.startswith(f"bot-1 cannot be set up: the parameter token: {given}: ")
