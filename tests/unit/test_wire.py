"""What the processes say to each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from botproc import wire

MESSAGES: list[wire.Message] = [
    wire.Spawn(
        run_id=1,
        bot_id=2,
        name="ü",
        labels={"a": "b"},
        params={"n": [1]},
        log_path="/l",
        lock_path="/k",
        data_dir="/d",
        grace_s=10.0,
        limits={},
    ),
    wire.Ack(run_ids=[1, 2]),
    wire.Quit(),
    wire.Alive(run_id=1, bot_id=2, pid=3, start_ticks=4, inode=2**60),
    wire.NotSpawned(run_id=1, errno=11, detail="fork"),
    wire.Ended(
        run_id=1,
        exit_code=None,
        signal=9,
        ended_at=5,
        cpu_seconds=0.5,
        max_rss_bytes=6,
        descendants_killed=0,
        swept=True,
    ),
    wire.Hello(kind="k", pid=1, import_s=0.1, error="a\nb", threads=1, description="", params=[]),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_there_and_back(message: wire.Message) -> None:
    line = wire.encode(message)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert wire.decode(line) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_a_field_of_another_version_is_left_out(message: wire.Message) -> None:
    values = json.loads(wire.encode(message))
    assert wire.decode(json.dumps(values | {"of_a_later_version": [1]}).encode()) == message


def test_a_message_within_a_message_may_be_of_another_version() -> None:
    older = {"run_id": 1, "bot_id": 2, "pid": 3, "start_ticks": 4, "inode": 5}
    expected = wire.Alive(run_id=1, bot_id=2, pid=3, start_ticks=4, inode=5, log_start=0)
    assert wire.of_fields(wire.Alive, older) == expected
    assert wire.of_fields(wire.Alive, older | {"node": "eu-3"}) == expected


RECORDED = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "fixtures" / "zygote-0.1.0.jsonl").read_text().splitlines()
]
"""What a zygote of 0.1.0 and its supervisor said when that came back: who lives, an end, and good-bye."""


def test_a_zygote_of_0_1_0_is_understood() -> None:
    hello, ended = [wire.decode(json.dumps(said["line"]).encode()) for said in RECORDED if said["from"] == "zygote"]
    assert isinstance(hello, wire.Hello)
    assert (hello.kind, hello.error, hello.start_method, hello.ended) == ("counter", "", "fork", [])
    alive = [wire.of_fields(wire.Alive, values) for values in hello.alive]
    assert [(bot.bot_id, bot.run_id, bot.pid) for bot in alive] == [(1, 1, 11855), (2, 2, 11856), (7, 7, 11861)]
    assert isinstance(ended, wire.Ended)
    assert (ended.run_id, ended.bot_id, ended.signal, ended.exit_code, ended.swept) == (7, 7, 9, None, True)


def test_a_zygote_of_0_1_0_understands_us() -> None:
    """It refuses a field that it does not know. It is asked for no bot, and told these two."""
    theirs = [said["line"] for said in RECORDED if said["from"] == "supervisor"]
    assert [json.loads(wire.encode(message)) for message in (wire.Ack(run_ids=[7]), wire.Quit())] == theirs


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"{}", b'{"type": "Nonsense"}', b'{"type": "Ack"}', b'{"type": "Ack", "x": 1}']
)
def test_what_is_no_message_is_refused(line: bytes) -> None:  # fmt: skip
    with pytest.raises((ValueError, TypeError, AttributeError)):
        wire.decode(line)


@given(st.lists(st.binary().filter(lambda line: b"\n" not in line)), st.data())
def test_lines_come_whole_however_they_are_cut(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    cutter = wire.Lines()
    found: list[bytes] = []
    while stream:
        n = data.draw(st.integers(1, len(stream)))
        found += cutter.feed(stream[:n])
        stream = stream[n:]
    assert found == lines
