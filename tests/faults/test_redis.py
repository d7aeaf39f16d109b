"""Events in a stream of a real Redis: each once and in order, whatever goes down meanwhile."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.faults.observe import ready
from tests.program import Program
from tests.waiting import wait_for

Make = Callable[..., Program]

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="there is no redis-server on the PATH")

STREAM = "bot-supervisor:events"
PASSWORD = "pass-of-redis"


class Server:
    """A Redis of our own at a unix socket. Its memory goes with it, unless it was told to save."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.socket = directory / "redis.sock"
        self.url = f"unix://{self.socket}?password={PASSWORD}"
        self.client = redis.Redis(unix_socket_path=str(self.socket), password=PASSWORD, decode_responses=True)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            "redis-server", "--port", "0", "--unixsocket", str(self.socket), "--save", "", "--appendonly", "no",
            "--dir", str(self._directory), "--dbfilename", "dump.rdb", "--requirepass", PASSWORD,
        ]  # fmt: skip
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def answers() -> bool:
            with contextlib.suppress(redis.ConnectionError):
                return bool(self.client.ping())
            return False

        wait_for(answers, what="Redis answers")

    def end(self) -> None:
        if self._process is not None:
            self.client.close()
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()

    def signal(self, signum: int) -> None:
        assert self._process is not None
        self._process.send_signal(signum)

    def entries(self) -> list[tuple[str, dict[str, Any]]]:
        found: Any = self.client.xrange(STREAM)
        return list(found)


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("redis"))
    try:
        server.start()
        yield server
    finally:
        server.end()


def complete(program: Program, server: Server) -> None:
    """Waits until the stream has each event of the ledger, once and in order."""

    def same() -> bool:
        there = [entry[0] for entry in server.entries()]
        return there == [f"{row[0]}-0" for row in program.ledger("SELECT event_id FROM event ORDER BY event_id")]

    wait_for(same, 20, "the stream has all events")


def test_each_event_is_an_entry(make_program: Make, server: Server) -> None:
    program = make_program(env={"BOT_SUPERVISOR_REDIS_URL": server.url}, flags=["--log-level", "debug"]).start()
    bot_id = program.start_bot(name="first")
    ready(program, bot_id)
    program.get(f"/stop/{bot_id}")
    complete(program, server)
    [event] = program.ledger("SELECT * FROM event WHERE state = 'running'")
    assert dict(server.entries())[f"{event['event_id']}-0"] == {
        **{name: str(event[name]) for name in ("event_id", "at", "bot_id", "run_id", "state", "goal", "reason")},
        "kind": "counter",
        "name": "first",
    }
    # What stands in the environment of the supervisor is not in that of its bots.
    environ = Path(f"/proc/{ready(program, program.start_bot())}/environ").read_bytes()
    assert PASSWORD.encode() not in environ
    assert program.terminate() == 0
    assert PASSWORD not in program.log()


def test_nothing_is_lost_and_nothing_comes_twice(make_program: Make, server: Server) -> None:
    program = make_program(config=f'redis_url = "{server.url}"\n').start()
    for _ in range(5):
        program.start_bot()
    complete(program, server)

    # It is away, and comes back as it was.
    server.client.save()
    server.end()
    for _ in range(5):
        program.start_bot()
    wait_for(lambda: "events wait, they cannot be sent to Redis" in program.log())
    server.start()
    complete(program, server)
    # Said once all have gone.
    wait_for(lambda: "events go to Redis again" in program.log())
    assert program.log().count("events wait") == program.log().count("events go to Redis again") == 1

    # It hangs while the supervisor ends, and the next one goes on.
    server.signal(signal.SIGSTOP)
    assert program.terminate() == 0
    server.signal(signal.SIGCONT)
    program.start()
    complete(program, server)

    # A supervisor that is killed has told nothing that is not so, and forgotten nothing.
    program.start_bot()
    program.kill()
    program.start()
    program.start_bot()
    complete(program, server)


def test_it_has_no_memory_left(make_program: Make, server: Server) -> None:
    program = make_program(config=f'redis_url = "{server.url}"\n').start()
    program.start_bot()
    complete(program, server)
    server.client.config_set("maxmemory", 1)
    program.start_bot()
    wait_for(lambda: "events wait" in program.log())
    server.client.config_set("maxmemory", 0)
    complete(program, server)


def test_a_stream_of_somebody_else_is_left_alone(make_program: Make, server: Server) -> None:
    server.client.xadd(STREAM, {"event_id": 1}, id="999999-0")
    program = make_program(config=f'redis_url = "{server.url}"\n').start()
    program.start_bot()
    wait_for(lambda: f"the stream {STREAM} has an entry 999999" in program.log())
    assert len(server.entries()) == 1
    assert program.terminate() == 0


def test_the_package_is_missing(tmp_path: Path) -> None:
    """As it is for those who have not asked for it."""
    program = Program(tmp_path, config='redis_url = "redis://localhost"\n')
    hidden = "import sys; sys.modules['redis'] = None; from supervisor.cli import app; sys.exit(app.main())"
    command = [sys.executable, "-c", hidden, "--config", str(program.config), "--data-dir", str(program.data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert "pip install 'bot-supervisor[redis]'" in line
