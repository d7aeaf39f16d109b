"""Each example does what it says, started by the file that stands beside them."""

from __future__ import annotations

import http.server
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.program import Program
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    program = Program(tmp_path_factory.mktemp("examples"))
    program.config.write_text((ROOT / "examples" / "kinds.toml").read_text())
    try:
        yield program.start(cwd=ROOT)
        assert program.terminate() == 0
        program.check_invariants()
    finally:
        program.close()


def lines(program: Program, bot_id: int, *wanted: str) -> None:
    wait_for(lambda: all(line in program.bot_log(bot_id) for line in wanted), what=f"{wanted} in its log")


def test_all_are_warm_and_described(examples: Program) -> None:
    wait_for(lambda: all(kind["warm"] for kind in examples.get("/kinds").json()["kinds"]), what="all kinds are warm")
    kinds = {kind["name"]: kind for kind in examples.get("/kinds").json()["kinds"]}
    assert kinds["echo"]["description"].startswith("Sends back what it gets")
    assert kinds["node"]["start_method"] == "exec"
    assert kinds["trader"]["params_schema"]["properties"]["api_key"]["format"] == "password"


def test_the_counter_with_limits(examples: Program) -> None:
    bot_id = examples.start_bot("limited", start_number=7)
    lines(examples, bot_id, "7\n")
    limits = Path(f"/proc/{examples.bot(bot_id)['pid']}/limits").read_text()
    assert [line.split()[4] for line in limits.splitlines() if line.startswith("Max open files")] == ["64"]


def test_the_echo_server(examples: Program) -> None:
    bot_id = examples.start_bot("echo")
    bot = examples.wait_state(bot_id, "running")
    status = wait_for(lambda: examples.bot(bot_id)["status"], what="it says where it listens")
    with socket.create_connection(("127.0.0.1", int(status.split()[-1])), timeout=10) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
    lines(examples, bot_id, "INFO client 1")
    stopped = examples.post(f"/bots/{bot_id}/stop").json()
    assert (stopped["last_exit"]["exit_code"], stopped["last_exit"]["cause"]) == (0, "stopped")
    assert bot["pid"]


def test_the_trader_and_its_key(examples: Program) -> None:
    key = "a-key-that-nobody-sees"
    params = {"account": "alice", "api_key": key, "every_s": 0.01}
    refused = examples.post("/start", {"kind": "trader", "params": {**params, "symbol": "nonsense"}})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["loc"] == ["body", "params", "symbol"]
    bot_id = examples.start_bot("trader", params=params)
    lines(examples, bot_id, f"logs in as alice with a key of {len(key)} characters")
    wait_for(lambda: "BTC-EUR at" in (examples.bot(bot_id)["status"] or ""), what="it trades")
    second = examples.post("/start", {"kind": "trader", "params": {**params, "api_key": "another"}})
    assert (second.status_code, second.json()["bot_id"]) == (409, bot_id)
    assert f"exchange:alice is held by bot {bot_id}" in second.json()["detail"]
    assert examples.bot(bot_id)["params"]["api_key"] == "**********"
    examples.post(f"/bots/{bot_id}/stop")
    lines(examples, bot_id, "INFO logs out")
    journal = examples.data_dir / "bots" / str(bot_id) / "journal"
    assert journal.read_text().startswith("buy BTC-EUR ")
    everywhere = [p for p in examples.data_dir.rglob("*") if p.is_file() and key.encode() in p.read_bytes()]
    assert [p.parent.name for p in everywhere] == ["secrets"]
    assert everywhere[0].stat().st_mode & 0o777 == 0o600
    assert key not in examples.log()
    assert examples.client.delete(f"/bots/{bot_id}").status_code == 204
    assert not everywhere[0].exists()
    assert not (examples.data_dir / "bots" / str(bot_id)).exists()


def test_the_scraper(examples: Program) -> None:
    class Pages(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"news")

        def log_message(self, *_: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/"
            bot_id = examples.start_bot("scraper", params={"url": url})
            lines(examples, bot_id, f"{url} has changed: 4 bytes")
            # It sleeps for a minute, and is stopped in the midst of it.
            stopped = examples.post(f"/bots/{bot_id}/stop").json()
            assert (stopped["last_exit"]["exit_code"], stopped["last_exit"]["cause"]) == (0, "stopped")
        finally:
            server.shutdown()
            serving.join()


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node here")
def test_the_bot_in_javascript(examples: Program) -> None:
    bot_id = examples.start_bot("node", start_number=41)
    lines(examples, bot_id, "41\n", "42\n")
    examples.post(f"/bots/{bot_id}/stop")
    lines(examples, bot_id, "closes the shop\n")
    [run] = examples.ended_runs(bot_id)
    assert (run["cause"], run["exit_code"]) == ("stopped", 0)


def test_the_bot_that_hangs_is_caught_by_its_heartbeat(examples: Program) -> None:
    bot_id = examples.start_bot("hangs", params={"after_s": 0.1})
    bot = examples.wait_state(bot_id, "failed", limit_s=20)
    assert "missed its heartbeat" in bot["reason"]
    [run] = examples.ended_runs(bot_id)
    assert run["cause"] == "heartbeat"
    for text in (run["detail"], examples.bot_log(bot_id)):
        assert "hangs.py" in text
        assert "time.sleep(3600)" in text
        assert "answer customers" in text


def test_the_report_waits_for_its_time_and_can_be_run_at_once(examples: Program) -> None:
    bot_id = examples.start_bot("report")
    bot = examples.bot(bot_id)
    assert (bot["state"], bot["pid"]) == ("scheduled", None)
    assert bot["next_start_at"].endswith(("0:00.000000Z", "5:00.000000Z"))
    for count in (1, 2):
        examples.post(f"/bots/{bot_id}/start")
        lines(examples, bot_id, f"report {count}, at ")
        examples.wait_state(bot_id, "scheduled")
    assert "waits for the next time of its schedule" in examples.bot(bot_id)["reason"]
