"""Notices of the real program to real receivers, good and bad."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.observe import end, ready
from tests.faults.receiver import Got, Receiver, hanging, receiving
from tests.program import Program
from tests.waiting import wait_for

Make = Callable[..., Program]

RAISES = {"raises": 'target = "crashes:raises"'}
NEVER = {"policy": "never"}


def webhook(url: str, **fields: Any) -> str:
    """A table of the settings."""
    lines = {"url": url, "group_s": 0.0, **fields}
    return "[[webhooks]]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in lines.items())


def heard(receiver: Receiver, count: int = 1) -> list[Got]:
    """Waits until it has got so many requests; all that it got."""
    wait_for(lambda: len(receiver.got) >= count, 15, f"{count} requests")
    return receiver.got


def crash(program: Program) -> int:
    """A bot that fails once and for all; its id."""
    bot_id = program.start_bot("raises", restart=NEVER)
    program.wait_state(bot_id, "failed")
    return bot_id


def test_a_crash_and_its_recovery_are_told(make_program: Make) -> None:
    with receiving() as receiver:
        hook = webhook(f"{receiver.url}/hook", secret="a secret", again_s=0.0)
        program = make_program(kinds=RAISES, config=f"recovered_after_s = 0.2\n{hook}").start()
        bot_id = program.start_bot("raises", name="btc", params={"waits": True}, restart={"delay_s": 0.01})
        end(psutil.Process(ready(program, bot_id, "waiting")), signal.SIGUSR1)
        crashed, recovered = heard(receiver, 2)
        assert program.terminate() == 0
        assert len(receiver.got) == 2  # and a stop is no news

    [run, *_] = program.ledger("SELECT * FROM run")
    assert crashed.path == "/hook"
    assert crashed.headers["content-type"] == "application/json"
    assert crashed.json["type"] == "bot.crashed"
    assert crashed.json["data"] == {
        **crashed.json["data"],
        "kind": "raises",
        "cause": "crashed",
        "fingerprint": run["fingerprint"],
        "message": "ValueError: no such town",
        "count": 1,
        "bot_count": 1,
    }
    [told] = crashed.json["data"]["bots"]
    assert (told["bot_id"], told["name"], told["run_id"]) == (bot_id, "btc", run["run_id"])
    assert told["reason"].startswith("crashed with exit code 1: ValueError: no such town; restart 1 of 5")
    assert (recovered.json["type"], recovered.json["data"]["bots"][0]["bot_id"]) == ("bot.recovered", bot_id)

    for got in receiver.got:
        message_id, sent_at = got.headers["webhook-id"], got.headers["webhook-timestamp"]
        content = f"{message_id}.{sent_at}.".encode() + got.body
        expected = "v1," + base64.b64encode(hmac.digest(b"a secret", content, hashlib.sha256)).decode()
        assert hmac.compare_digest(got.headers["webhook-signature"], expected)
        assert abs(time.time() - int(sent_at)) < 60
    assert crashed.headers["webhook-id"] != recovered.headers["webhook-id"]


def test_three_hundred_crashes_are_one_message(make_program: Make) -> None:
    """Told at the end of the window, or at that of the supervisor."""
    with receiving() as receiver:
        program = make_program(kinds=RAISES, config=webhook(receiver.url, format="slack", group_s=600.0)).start()
        for _ in range(300):
            program.start_bot("raises", restart=NEVER)
        failed = "SELECT count(*) FROM bot WHERE state = 'failed'"
        wait_for(lambda: program.ledger(failed)[0][0] == 300, 20, "all have failed")
        assert receiver.got == []
        assert program.terminate() == 0
        [got] = receiver.got
    assert re.fullmatch(
        r"300 bots of kind raises failed: `crashed with exit code 1: ValueError: no such town; the restart policy is"
        r" never` \(bots \d+, \d+, \d+ and 297 more\)",
        got.json["text"],
    )
    assert "was not told" not in program.log()


def test_what_happened_while_no_supervisor_ran_is_told(make_program: Make) -> None:
    with receiving() as receiver:
        program = make_program(kinds=RAISES, config=webhook(receiver.url)).start()
        told_before = crash(program)
        heard(receiver)
        program.client.delete(f"/bots/{told_before}").raise_for_status()
        bot_id = program.start_bot("raises", params={"waits": True}, restart={"delay_s": 60})
        process = psutil.Process(ready(program, bot_id, "waiting"))
        program.kill()
        end(process, signal.SIGUSR1)
        program.start()
        first, second = heard(receiver, 2)
        assert program.terminate() == 0
    assert [got.json["data"]["bots"][0]["bot_id"] for got in (first, second)] == [told_before, bot_id]
    assert [got.json["type"] for got in (first, second)] == ["bot.failed", "bot.crashed"]


def test_what_a_receiver_does_not_take_is_sent_again(make_program: Make) -> None:
    with receiving((500, {}), (429, {"Retry-After": "2"})) as receiver:
        program = make_program(kinds=RAISES, config=webhook(receiver.url)).start()
        crash(program)
        first, second, third = heard(receiver, 3)
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == third.headers["webhook-id"]
    assert first.body == second.body == third.body
    assert second.at - first.at > 0.7
    assert third.at - second.at > 1.9
    wait_for(lambda: "webhook 1 (127.0.0.1) takes notices again" in program.log())
    assert program.log().count("cannot tell webhook 1 (127.0.0.1): 500 Internal Server Error; tries again") == 1


def test_what_a_receiver_refuses_is_counted(make_program: Make) -> None:
    with receiving() as elsewhere, receiving() as receiver:
        receiver.answers = [(404, {}), (302, {"Location": elsewhere.url})]
        program = make_program(kinds=RAISES, config=webhook(receiver.url)).start()
        for number in range(3):
            crash(program)
            heard(receiver, number + 1)
        assert [got.json["data"]["lost"] for got in receiver.got] == [0, 1, 2]
        assert elsewhere.got == []
    assert program.log().count("cannot tell webhook 1 (127.0.0.1): 404 Not Found; it will not be told") == 1


@pytest.mark.parametrize("drip", [b"", b"HTTP/1.1 200 OK\r\nSet-Cookie: a=" + b"a" * 1000])
def test_a_receiver_that_hangs_harms_nothing(make_program: Make, drip: bytes) -> None:
    with hanging(drip) as url, receiving() as receiver:
        config = webhook(url) + webhook(receiver.url, format="discord")
        program = make_program(kinds=RAISES, config=config).start()
        crash(program)
        heard(receiver)
        for _ in range(10):
            crash(program)
            begin = time.monotonic()
            assert program.get("/livez").status_code == 200
            assert time.monotonic() - begin < 1
        connections = [
            c for c in psutil.Process(program.pid).net_connections("tcp") if c.raddr and c.raddr.port == port(url)
        ]
        assert len(connections) == 1
        begin = time.monotonic()
        assert program.terminate() == 0
        assert time.monotonic() - begin < 5
        told = sum(got.json["content"].count("bot ") for got in receiver.got)
        assert told >= 1
    assert "webhook 1 (127.0.0.1) was not told of 11 occurrences" in program.log()
    assert "webhook 2" not in program.log()


def port(url: str) -> int:
    return int(url.rpartition(":")[2])


def test_nobody_is_there(make_program: Make) -> None:
    with receiving() as receiver:
        gone = receiver.url
    program = make_program(kinds=RAISES, config=webhook(gone) + webhook("http://no-such-host.invalid/")).start()
    crash(program)
    for told in ("webhook 1 (127.0.0.1): cannot connect", "webhook 2 (no-such-host.invalid): cannot connect"):
        wait_for(lambda told=told: told in program.log(), what=told)  # type: ignore[misc]


SECRETS = ("hook-in-the-path", "key-in-the-query", "pass-of-the-user", "signing-key")


def test_urls_and_secrets_are_told_to_nobody(make_program: Make) -> None:
    with receiving((500, {}), (200, {})) as receiver:
        secret = receiver.url.replace("//", "//user:pass-of-the-user@") + "/hook-in-the-path?key=key-in-the-query"
        config = webhook(secret, secret="signing-key") + webhook("env:HOOK", format="slack")
        program = make_program(
            kinds=RAISES, config=config, flags=["--log-level", "debug"], env={"HOOK": f"{secret}&slack"}
        ).start()
        crash(program)
        heard(receiver, 3)
        wait_for(lambda: "takes notices again" in program.log())
        shown = program.get("/openapi.json").text + program.get("/kinds").text + program.get("/readyz?verbose").text
        code, printed = notify(program)
        assert code == 0
    assert program.terminate() == 0
    code, failed = notify(program)
    assert code == 1
    for text in (program.log(), shown, printed, failed, *psutil.Process().cmdline()):
        assert not [secret for secret in SECRETS if secret in text]


def notify(program: Program) -> tuple[int, str]:
    """`bot-supervisor notify`, as a user calls it: its exit code and all that it prints."""
    command = [sys.executable, "-m", "supervisor", "notify", "--config", str(program.config)]
    env = {k: v for k, v in os.environ.items() if not k.startswith("BOT_SUPERVISOR_")} | program.env
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=env)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def test_a_test_notice(tmp_path: Path) -> None:
    with receiving((204, {})) as receiver:
        program = Program(tmp_path, config=webhook(receiver.url, format="telegram", chat_id=42))
        assert notify(program) == (0, "webhook 1 (127.0.0.1, telegram): ok: 204 No Content\n")
        assert "this is a test" in receiver.got[0].json["text"]
        assert receiver.got[0].json["chat_id"] == 42
        receiver.answers = [(401, {})]
        assert notify(program) == (1, "webhook 1 (127.0.0.1, telegram): failed: 401 Unauthorized\n")
    program.config.write_text("")
    code, printed = notify(program)
    assert (code, len(printed.splitlines())) == (2, 1)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ('[[webhooks]]\nurl = "hook-in-the-path"\n', "webhooks.0.url: this is no URL"),
        ('[[webhooks]]\nurl = ["hook-in-the-path"]\n', "webhooks.0.url"),
        ('[[webhooks]]\nurl = "http://a.example"\nformat = "telegram"\n', "needs a chat_id"),
        ('redis_url = "hook-in-the-path"\n', "redis_url: this is no URL"),
        ('redis_url = "redis://:hook-in-the-path@localhost?db=x"\n', "redis_url: "),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, config: str, words: str) -> None:
    program = Program(tmp_path, config=config)
    assert program.launch().wait(20) == 2
    assert words in program.log()
    assert len(program.log().splitlines()) == 1
    assert "hook-in-the-path" not in program.log()


def test_a_proxy_that_cannot_be_used(tmp_path: Path) -> None:
    program = Program(tmp_path, config=webhook("https://a.example"), env={"HTTPS_PROXY": "gopher://pass-of-the-proxy"})
    assert program.launch().wait(20) == 2
    [line] = program.log().splitlines()
    assert "the proxy or the certificates" in line
    assert "pass-of-the-proxy" not in line


def test_webhooks_stand_in_the_file_alone(tmp_path: Path) -> None:
    program = Program(tmp_path, env={"BOT_SUPERVISOR_WEBHOOKS": "[]"})
    assert program.launch().wait(20) == 2
    assert program.log() == "bot-supervisor: BOT_SUPERVISOR_WEBHOOKS: there is no such setting\n"
