"""Ours: the real program, started as a user would, asked over real sockets."""

from __future__ import annotations

import contextlib
import re
import selectors
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.client import Connection
from benchmarks.lines import FirstLines
from tests.program import Program

PARALLEL = 50
"""Calls under way at once where there are many to make."""


class Ours:
    """A running supervisor, and its client."""

    def __init__(self, program: Program, kind: str) -> None:
        self._program = program
        self._kind = kind
        self._connections: list[Connection] = []
        self.first_lines = FirstLines(program.data_dir / "logs")
        # Until the kind is imported a start is no warm start.
        while not self.connection.call("GET", f"/kinds/{kind}")["warm"]:
            time.sleep(0.01)

    def connections(self, count: int) -> list[Connection]:
        """So many open connections; the same ones each time, but for those that the server found idle and closed."""
        url = self._program.client.base_url
        kept = [connection for connection in self._connections if not connection.closed]
        while len(kept) < count:
            kept.append(Connection(url.host, url.port or 80))
            kept[-1].call("GET", "/livez")
        self._connections = kept
        return kept[:count]

    @property
    def connection(self) -> Connection:
        return self.connections(1)[0]

    def start(self) -> tuple[float, float, int]:
        """Seconds from POST /start to the bot's first line and to the answer, and the bot's id."""
        connection = self.connection
        begin = time.monotonic()
        connection.send("POST", "/start", {"kind": self._kind})
        line_s = self.first_lines.wait() - begin
        bot_id = connection.receive()["bot_id"]
        # An answer that came before the line counts as having come with it.
        return line_s, time.monotonic() - begin, bot_id

    def start_many(self, count: int, **fields: Any) -> tuple[float, list[int]]:
        """Seconds from the first POST /start to the last bot's first line, and the bots' ids."""
        begin = time.monotonic()
        bot_ids = self.ask_many(count, **fields)
        return self.first_lines.wait(count) - begin, bot_ids

    def ask_many(self, count: int, **fields: Any) -> list[int]:
        """The same without waiting for lines: the bots' ids, once each is answered."""
        answers = self.calls([("POST", "/start", {"kind": self._kind, **fields})] * count)
        return [answer["bot_id"] for answer in answers]

    def burst(self, count: int) -> tuple[float, list[int]]:
        """`start_many` with all calls at once. No answer is read before the last first line was seen."""
        connections = self.connections(count)
        begin = time.monotonic()
        for connection in connections:
            connection.send("POST", "/start")
        line_s = self.first_lines.wait(count) - begin
        return line_s, [connection.receive()["bot_id"] for connection in connections]

    def stop(self, bot_ids: Sequence[int]) -> None:
        """Stops bots; all that they had is gone when this returns."""
        self.calls([("POST", f"/stop/{bot_id}", None) for bot_id in bot_ids])

    def bot(self, bot_id: int) -> dict[str, Any]:
        bot: dict[str, Any] = self.connection.call("GET", f"/bots/{bot_id}")
        return bot

    @property
    def url(self) -> str:
        return str(self._program.client.base_url).rstrip("/")

    def ask(self, path: str) -> None:
        """GET on a connection of its own. Raises OSError when that is refused."""
        url = self._program.client.base_url
        with contextlib.closing(Connection(url.host, url.port or 80)) as connection:
            connection.call("GET", path)

    def replace(self) -> None:
        """`bot-supervisor restart`: returns when the new one serves."""
        self._program.replace().check_returncode()

    def kill(self) -> None:
        """kill -9 of the supervisor."""
        self._program.kill()

    def come_back(self) -> float:
        """Starts it again; how long until it listens, in seconds."""
        begin = time.monotonic()
        self._program.start()
        return time.monotonic() - begin

    @property
    def pid(self) -> int:
        return self._program.pid

    @property
    def zygote_pid(self) -> int:
        pid: int = self.connection.call("GET", f"/kinds/{self._kind}")["zygote_pid"]
        return pid

    @property
    def ledger(self) -> Path:
        return self._program.data_dir / "ledger.sqlite3"

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        self.first_lines.close()

    def calls(self, calls: Sequence[tuple[str, str, Any]]) -> list[Any]:
        """The answers, in the order of the calls. A connection that has its answer makes the next call at once."""
        answers: dict[int, Any] = {}
        waiting = iter(enumerate(calls))
        with selectors.DefaultSelector() as selector:

            def send_next(connection: Connection) -> None:
                number, call = next(waiting, (0, None))
                if call is not None:
                    connection.send(*call)
                    selector.register(connection, selectors.EVENT_READ, (number, connection))

            for connection in self.connections(min(PARALLEL, len(calls))):
                send_next(connection)
            while len(answers) < len(calls):
                for key, _ in selector.select():
                    number, connection = key.data
                    selector.unregister(connection)
                    answers[number] = connection.receive()
                    send_next(connection)
        return [answers[number] for number in range(len(calls))]

    def transactions(self) -> int:
        """How many the ledger has made."""
        connection = self.connection
        connection.send("GET", "/metrics")
        found = re.search(
            rb"^bot_supervisor_ledger_commit_seconds_count (\S+)$", connection.receive_bytes(), re.MULTILINE
        )
        assert found is not None
        return int(float(found[1]))


@contextlib.contextmanager
def running(kind: str = "counter", config: str = "") -> Iterator[Ours]:
    """A supervisor with a data directory of its own. Its stdout, with what the bots print, is a file."""
    with tempfile.TemporaryDirectory(prefix="benchmark-ours-") as directory:
        program = Program(Path(directory), config=config)
        try:
            ours = Ours(program.start(), kind)
            try:
                yield ours
            finally:
                ours.close()
            program.terminate()
        finally:
            program.close()
