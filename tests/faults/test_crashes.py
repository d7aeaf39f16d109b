"""Bots that end by an exception: what is told of it, whoever saw the end, and whatever the bot left."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from tests.faults.observe import end, ready
from tests.program import Program

KINDS = {"raises": 'target = "crashes:raises"', "leaves": 'target = "crashes:leaves"'}
NEVER = {"policy": "never"}


def ended(program: Program, bot_id: int) -> dict[str, Any]:
    """The bot's only run."""
    program.wait_state(bot_id, "failed")
    [run] = program.ended_runs(bot_id)
    return run


def crashes(program: Program, **query: Any) -> list[dict[str, Any]]:
    return list(program.get("/crashes", params=query).raise_for_status().json()["crashes"])


def test_an_exception_is_told(shared: Program) -> None:
    bots = [
        shared.start_bot("raises", restart=NEVER, params={"message": text}) for text in ("no such town\nat all", "")
    ]
    first, second = (ended(shared, bot_id) for bot_id in bots)
    assert first["raised"] == {**first["raised"], "type": "ValueError", "message": "no such town\nat all"}
    assert first["detail"] == "crashed with exit code 1: ValueError: no such town"
    assert shared.bot(bots[0])["reason"] == f"{first['detail']}; the restart policy is never"
    assert second["detail"] == "crashed with exit code 1: ValueError"
    assert first["fingerprint"] == second["fingerprint"] == first["raised"]["fingerprint"]

    [group] = crashes(shared, kind="raises")
    assert group == {
        "kind": "raises",
        "fingerprint": first["fingerprint"],
        "cause": "crashed",
        "type": "ValueError",
        "message": "",
        "detail": second["detail"],
        "count": 2,
        "first_at": first["ended_at"],
        "last_at": second["ended_at"],
        "run_id": second["run_id"],
        "bot_id": bots[1],
    }
    alike = shared.get("/runs", params={"fingerprint": group["fingerprint"]}).json()["runs"]
    assert [run["run_id"] for run in alike] == [first["run_id"], second["run_id"]]
    # The file was its bot's alone, and is no longer of use.
    assert not list((shared.data_dir / "run" / "locks").glob(f"{bots[0]}.lock"))


@pytest.mark.parametrize("killed", ["supervisor", "zygote"])
def test_an_exception_is_told_whoever_saw_it(make_program: Callable[..., Program], killed: str) -> None:
    program = make_program(kinds={"raises": KINDS["raises"]}).start()
    bot_id = program.start_bot("raises", restart=NEVER, params={"waits": True})
    process = psutil.Process(ready(program, bot_id, "waiting"))
    if killed == "supervisor":
        program.kill()
        end(process, signal.SIGUSR1)
        program.start()
    else:
        zygote = program.zygote("raises")
        zygote.kill()
        zygote.wait()
        process.send_signal(signal.SIGUSR1)
    run = ended(program, bot_id)
    assert (run["cause"], run["exit_code"], run["raised"]["message"]) == ("crashed", 1, "no such town")
    assert program.bot(bot_id)["reason"].startswith("crashed with exit code 1: ValueError: no such town; ")


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("", 1),
        ("\n\n\n", 1),
        ("[", 1_000_000),
        ('{"type": "E", "message": "\x1b[2J", "fingerprint": "../../etc/passwd"}\n', 1),
        ('{"type": "E", "message": "m", "fingerprint": "0b1d"}', 1),
        ('{"type": {}, "message": [], "fingerprint": 1}\n', 1),
    ],
)
def test_whatever_a_bot_leaves(shared: Program, text: str, times: int) -> None:
    run = ended(shared, shared.start_bot("leaves", restart=NEVER, params={"text": text, "times": times}))
    assert (run["raised"], run["fingerprint"], run["detail"]) == (None, "crashed:3", "crashed with exit code 3")
