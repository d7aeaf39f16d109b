"""The real program under test: started as a user would, asked over HTTP, looked at through kernel and ledger."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

from tests.waiting import wait_for

T = TypeVar("T")

BOTS = Path(__file__).parent / "bots"
"""Modules with bots that behave badly, as kinds for the tests."""


class Program:
    """A supervisor process and its data directory, which outlives it."""

    def __init__(
        self,
        directory: Path,
        *,
        kinds: Mapping[str, str] | None = None,
        config: str = "",
        flags: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        """`kinds` maps a name to the TOML lines of its table; the path of `tests/bots` is added to each."""
        self.directory = directory
        self.data_dir = directory / "data"
        self.config = directory / "config.toml"
        tables = "".join(f'\n[kinds.{name}]\npath = ["{BOTS}"]\n{lines}\n' for name, lines in (kinds or {}).items())
        self.config.write_text(config + tables)
        self.flags = list(flags)
        self.env = dict(env or {})
        self.output = directory / "output.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.client = httpx.Client(timeout=30, verify=False)
        self.answers_500: list[str] = []
        self.client.event_hooks["response"].append(self._note_500)

    def _note_500(self, response: httpx.Response) -> None:
        if response.status_code == 500:
            self.answers_500.append(str(response.request.url))

    # ---- life

    def launch(self, *, wrapper: Sequence[str] = (), **popen: Any) -> subprocess.Popen[bytes]:
        """Starts the program, by way of a command that executes it if there is one, and waits for nothing."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("BOT_SUPERVISOR_")} | self.env
        command = [
            *wrapper, sys.executable, "-m", "supervisor", "--config", str(self.config),
            "--data-dir", str(self.data_dir), "--port", "0", *self.flags,
        ]  # fmt: skip
        self._said_before = len(self.log())
        with self.output.open("ab") as output:
            usual: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output, "env": env}
            self.process = subprocess.Popen(command, **(usual | popen))
        return self.process

    def start(self, limit_s: float = 60, **popen: Any) -> Program:
        """Starts the program and waits until it listens."""
        self.launch(**popen)
        return self.listens(limit_s)

    def listens(self, limit_s: float = 60) -> Program:
        """Waits until the program that was launched says where it listens."""

        def address() -> str | None:
            log = self.log()[self._said_before :]
            if not self.running:
                raise AssertionError(f"it ended with {self.process and self.process.returncode}:\n{log}")
            found = re.search(r"listening on (http://\S+)", log)
            return found[1] if found else None

        self.client.base_url = wait_for(address, limit_s, "the program listens") or ""
        return self

    def answers_at(self, port: int, limit_s: float = 60) -> Program:
        """Waits until a program that was launched answers at a port; for those whose output nobody can read."""
        self.client.base_url = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            assert self.running, f"it ended: {self.log()}"
            try:
                return self.get("/livez").is_success
            except httpx.TransportError:
                return False

        wait_for(answers, limit_s, f"the program answers at port {port}")
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """kill -9 of the supervisor alone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def terminate(self, signum: int = signal.SIGTERM, limit_s: float = 10) -> int:
        """Asks it to end; its exit code."""
        assert self.process is not None
        self.process.send_signal(signum)
        return self.process.wait(limit_s)

    def replace(self) -> subprocess.CompletedProcess[str]:
        """`bot-supervisor restart`, as a user calls it."""
        command = [sys.executable, "-m", "supervisor", "restart", "--data-dir", str(self.data_dir)]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=80)

    def close(self) -> None:
        """Ends everything that is left, however the test went."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        deadline = time.monotonic() + 5
        while (left := self.processes(every=True)) and time.monotonic() < deadline:
            for process in left:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            psutil.wait_procs(left, timeout=0.1)
        self.client.close()

    # ---- HTTP

    def get(self, path: str, **kwargs: Any) -> httpx.Response:
        return self.client.get(path, **kwargs)

    def post(self, path: str, body: Any = None, **kwargs: Any) -> httpx.Response:
        return self.client.post(path, json=body, **kwargs) if body is not None else self.client.post(path, **kwargs)

    def together(self, *calls: Callable[[httpx.Client], T]) -> list[T]:
        """Makes the calls at the same time, on connections that are closed afterwards; what they returned, in order."""
        with (
            httpx.Client(
                base_url=self.client.base_url,
                timeout=self.client.timeout,
                verify=False,
                limits=httpx.Limits(max_connections=len(calls)),
                event_hooks=self.client.event_hooks,
            ) as client,
            ThreadPoolExecutor(len(calls)) as threads,
        ):
            return list(threads.map(lambda call: call(client), calls))

    def start_bot(self, kind: str = "counter", **fields: Any) -> int:
        """POST /start; the bot's id."""
        response = self.post("/start", {"kind": kind, **fields})
        assert response.status_code == 200, response.text
        return int(response.json()["bot_id"])

    def bot(self, bot_id: int) -> dict[str, Any]:
        response = self.get(f"/bots/{bot_id}")
        assert response.status_code == 200, response.text
        return dict(response.json())

    def runs(self, bot_id: int) -> list[dict[str, Any]]:
        response = self.get(f"/bots/{bot_id}/runs", params={"limit": 1000})
        assert response.status_code == 200, response.text
        return list(response.json()["runs"])

    def ended_runs(self, bot_id: int) -> list[dict[str, Any]]:
        """The bot's runs, once none is open: the bot is seen to have ended a moment before the ledger has it."""
        wait_for(lambda: all(run["cause"] is not None for run in self.runs(bot_id)), what="all runs have ended")
        return self.runs(bot_id)

    def wait_state(self, bot_id: int, *states: str, limit_s: float = 10) -> dict[str, Any]:
        """Waits until the bot is in one of these states; the bot."""
        last: dict[str, Any] = {}

        def there() -> bool:
            last.update(self.bot(bot_id))
            return last["state"] in states

        try:
            wait_for(there, limit_s)
        except AssertionError:
            raise AssertionError(f"bot {bot_id} is not {states} but: {last}\n{self.log()[-3000:]}") from None
        return last

    # ---- kernel, log and ledger

    def log(self) -> str:
        """All that the program has printed, by all supervisors of this directory."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def bot_log(self, bot_id: int) -> str:
        path = self.data_dir / "logs" / f"{bot_id}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def processes(self, *, every: bool = False) -> list[psutil.Process]:
        """The live bots: processes whose output goes to a log of this data directory.

        With `every` also zygotes, and all else that has a file of the data directory open.
        """
        root = str(self.data_dir)
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                fds = os.listdir(f"/proc/{process.pid}/fd") if every else ["1"]
                links = [os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in fds]
            except (OSError, psutil.NoSuchProcess):
                continue
            if any(link.startswith(root if every else f"{root}/logs/") for link in links):
                found.append(process)
        return found

    def family(self) -> list[psutil.Process]:
        """The supervisor, all its descendants, and all else that has a file of the data directory open."""
        me = psutil.Process(self.pid)
        return list({me, *me.children(recursive=True), *self.processes(every=True)})

    def lock_is_free(self) -> bool:
        """Whether no supervisor works in the data directory."""
        with (self.data_dir / "supervisor.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def zygote(self, kind: str = "counter") -> psutil.Process:
        """The warm process of a kind."""
        return psutil.Process(self.get(f"/kinds/{kind}").json()["zygote_pid"])

    def ledger(self, query: str, *args: Any) -> list[sqlite3.Row]:
        """Rows of the ledger, read from outside."""
        with sqlite3.connect(f"file:{self.data_dir / 'ledger.sqlite3'}?mode=ro", uri=True) as connection:
            connection.row_factory = sqlite3.Row
            rows = connection.execute(query, args).fetchall()
        connection.close()
        return rows

    def write(self, statement: str, *args: Any) -> None:
        """Changes the ledger from outside; for when no supervisor runs."""
        with sqlite3.connect(self.data_dir / "ledger.sqlite3") as connection:
            connection.execute(statement, args)
        connection.close()

    def children(self) -> list[psutil.Process]:
        """What the supervisor and its zygotes have as children and that has a bot's log as its output."""
        parents = {self.pid, *(kind["zygote_pid"] for kind in self.get("/kinds").json()["kinds"])}
        found = []
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                if process.ppid() in parents:
                    found.append(process)
        return found

    def resources(self) -> dict[str, int]:
        """Descriptors and threads of the supervisor, and descriptors of its zygotes together."""
        me = psutil.Process(self.pid)
        zygotes = [kind["zygote_pid"] for kind in self.get("/kinds").json()["kinds"] if kind["zygote_pid"]]
        return {
            "descriptors": me.num_fds(),
            "threads": me.num_threads(),
            "descriptors of zygotes": sum(psutil.Process(pid).num_fds() for pid in zygotes),
        }

    @contextmanager
    def level(self, memory_bytes: int = 4 << 20) -> Iterator[None]:
        """What the block does costs nothing for good: descriptors, threads and memory are back at their level."""
        wait_for(lambda: all(kind["warm"] for kind in self.get("/kinds").json()["kinds"]), 30, "all kinds are warm")
        before, rss = self.resources(), psutil.Process(self.pid).memory_info().rss
        yield
        wait_for(lambda: self.resources() == before, 5, f"back at {before}, and not at {self.resources()}")
        more = psutil.Process(self.pid).memory_info().rss - rss
        assert more <= memory_bytes, f"the supervisor has grown by {more / 2**20:.1f} MiB"

    # ---- what must hold after every case

    def check_invariants(self) -> None:
        """API, ledger and kernel agree, and nothing was lost; whether the supervisor runs or not."""
        assert not self.answers_500, f"answered 500: {self.answers_500}"
        if self.running:
            # A busy machine may hold up one of them.
            assert any(self._health_takes_s() < 1 for _ in range(3)), "health took longer than a second"
            self._wait_until_all_agree()
        elif self.process is not None and self.process.returncode == 0:
            assert not self.processes(every=True), f"it left processes behind: {self.processes(every=True)}"
        complaints = re.findall(r"^(?:supervisor \| )?(?:Traceback|.*never retrieved|.*Warning: ).*", self.log(), re.M)
        assert not complaints, f"{complaints} in its log:\n{self.log()[-5000:]}"
        assert [row[0] for row in self.ledger("PRAGMA integrity_check")] == ["ok"]
        for run in self.ledger("SELECT * FROM run"):
            ended = (run["exit_code"] is not None) + (run["signal"] is not None)
            expected = 0 if run["cause"] in (None, "lost") else 1
            assert ended == expected, f"run with {ended} ends: {dict(run)}"
            assert (run["cause"] is None) == (run["ended_at"] is None), dict(run)
        overlapping = """
            SELECT * FROM (SELECT *, lag(ended_at, 1, 0) OVER (PARTITION BY bot_id ORDER BY run_id) AS before FROM run)
            WHERE before IS NULL OR started_at < before"""
        assert not [dict(run) for run in self.ledger(overlapping)], "two runs of one bot at the same time"
        numbers = [row[0] for row in self.ledger("SELECT event_id FROM event ORDER BY rowid")]
        assert numbers == sorted(set(numbers)), "event numbers do not only grow"

    def _health_takes_s(self) -> float:
        begin = time.monotonic()
        assert self.get("/livez").status_code == 200
        return time.monotonic() - begin

    def _wait_until_all_agree(self) -> None:
        seen: dict[str, Any] = {}

        def agree() -> bool:
            """The same processes in all three, and the same states in the first two."""
            live = {process.pid for process in self.processes()}
            ours = {process.pid for process in self.children()}
            bots = self.get("/bots", params={"state": "all", "limit": 1000}).json()
            pids = Counter(bot["pid"] for bot in bots if bot["pid"] is not None)
            runs = Counter(row[0] for row in self.ledger("SELECT pid FROM run WHERE cause IS NULL"))
            states = {bot["bot_id"]: bot["state"] for bot in bots}
            rows = dict(map(tuple, self.ledger("SELECT bot_id, state FROM bot WHERE forgotten_at IS NULL LIMIT 1000")))
            events = "SELECT bot_id, state, max(event_id) FROM event GROUP BY bot_id"
            last = {row[0]: row[1] for row in self.ledger(events) if row[0] in rows}
            seen.update(locals())
            one_each = set(pids.values()) <= {1}
            return one_each and ours <= set(pids) <= live and runs == pids and states == rows == last

        try:
            wait_for(agree, 20)
        except AssertionError:
            raise AssertionError(f"API, ledger and kernel do not agree: {seen}\n{self.log()[-5000:]}") from None
