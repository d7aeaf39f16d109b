"""How much is done for what is asked: counted and not timed, so that it is the same on a slow or a busy machine.

System calls are not among it: only ptrace counts them. Who changes a number here on purpose finds all of them at the
top. Those that are exact have no margin; each other one says what it has.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import os
import re
import resource
import sqlite3
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import psutil
import pytest

from botproc import immortal
from supervisor import fleet as supervisor_fleet
from supervisor import logs, settings
from supervisor.api import application
from supervisor.engine import usage
from supervisor.fleet import retention
from supervisor.metrics import Metrics
from supervisor.program import open_fleet, open_ledger
from supervisor.store import Ledger, writer
from tests.faults.observe import warm_zygote
from tests.process.benches import until
from tests.process.clients import BOTS
from tests.program import Program
from tests.waiting import wait_for


def start(bots: int) -> Counter[str]:
    """What the ledger executes when so many bots are made by one call and started; exact."""
    return Counter(
        {
            # One for what is made by the call; then of each bot its pid, the time when it was ready, and its new state.
            "SAVEPOINT": 1 + 3 * bots,
            "INSERT bot": bots,
            "INSERT run": bots,
            # Starting, and running.
            "INSERT event": 2 * bots,
            # The pid, and the time when it was ready.
            "UPDATE run": 2 * bots,
            # Running.
            "UPDATE bot": bots,
        }
    )


STOP = Counter(
    {
        # That it is to stop, how its run ended, that it has stopped.
        "SAVEPOINT": 3,
        "UPDATE run": 1,
        # Stopping, and stopped: each is an event, and the state of the bot.
        "INSERT event": 2,
        "UPDATE bot": 2,
    }
)
"""What the ledger executes when a bot is stopped; exact."""

START_TRANSACTIONS = 3
"""Bot, run and event before the fork; the pid; and what comes until it runs, if it comes while the pid is written."""
BATCH_TRANSACTIONS = 4
"""The same for a hundred bots: of what comes while the first pids are written, 256 writes at a time are one."""
STOP_TRANSACTIONS = 1
"""If it ends as soon as that: nobody waits for what is written but the last."""

READS = 2
"""From /proc for each bot that is listed: its `stat`, and the children of its one thread; exact. Both files stay open
from one list to the next."""

SELECTOR_CALLS = 150
"""Calls of the fleet's functions for a stop of one bot by its name, however many others there are. They are 80 to 110,
as it has to wait for the disk, and were 192 and more with a hundred others: one for each of these, and a look at the
process."""

SILENT_S = 2.0
"""So long nothing at all wakes a supervisor that nobody asks, a zygote, or a bot that waits; exact."""
SILENT_WITHIN_S = 12.0
"""It may take until then: old runs are looked for five seconds after boot, and then once an hour; and a connection is
closed five seconds after its last call."""

FAULTS = 0.6
"""Page faults of a zygote for each fork of a batch, as a part of those for a fork alone. It was 0.3, and 0.75 when each
bot was told of before the next was forked; between the two there is room."""

PAGES = 600 if immortal.POSSIBLE else 1000
"""Pages of its own that a bot has which has begun and does nothing. They were 350 where what the zygote made is
immortal, and 760 without that."""

TARGET = "misbehaving:sleeps"
"""A bot that never prints."""
KINDS = {"silent": f'target = "{TARGET}"'}


# ---- the ledger, and the list


class Statements:
    """What this process executes in its ledgers, and a disk that can be as slow as is wished."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._executed: list[str] = []
        self._fast = threading.Event()
        self._fast.set()
        connect = sqlite3.connect

        def traced(*args: Any, **kwargs: Any) -> sqlite3.Connection:
            connection: sqlite3.Connection = connect(*args, **kwargs)
            connection.set_trace_callback(self._execute)
            return connection

        monkeypatch.setattr(sqlite3, "connect", traced)

    def begin(self) -> None:
        """Counts from here."""
        self._executed.clear()

    @contextlib.contextmanager
    def slow_disk(self) -> Iterator[None]:
        """In the block one transaction is written, and the next takes until its end. Counts from here."""
        self.begin()
        self._fast.clear()
        try:
            yield
        finally:
            self._fast.set()

    def counted(self) -> Counter[str]:
        """By what they do to which table; those that only read, whole."""
        return Counter(filter(None, map(_kind, self._executed)))

    def transactions(self) -> int:
        return self._executed.count("COMMIT")

    def _execute(self, statement: str) -> None:
        if statement == "BEGIN IMMEDIATE" and self.transactions():
            self._fast.wait()
        self._executed.append(statement)


def _kind(statement: str) -> str:
    match statement.split():
        case ["INSERT", "INTO", table, *_]:
            return f"INSERT {table}"
        case ["UPDATE", table, *_]:
            return f"UPDATE {table}"
        case ["SAVEPOINT", *_]:
            return "SAVEPOINT"
        case ["BEGIN" | "RELEASE" | "COMMIT", *_]:
            return ""  # They come with the transactions and the savepoints.
    return statement


class Supervisor:
    """All of a supervisor but its socket, in this process, with the kind `silent`."""

    def __init__(self, client: httpx.AsyncClient, ledger: Ledger) -> None:
        self._client = client
        self._ledger = ledger

    async def post(self, path: str, body: Any = None) -> Any:
        answer = await self._client.post(path, json=body)
        assert answer.is_success, answer.text
        return answer.json()

    async def list(self) -> list[dict[str, Any]]:
        """The bots that run."""
        answer = await self._client.get("/bots", params={"state": "running", "limit": 1000})
        assert answer.is_success, answer.text
        bots: list[dict[str, Any]] = answer.json()
        return bots

    async def runs(self, bots: int) -> None:
        """Waits until so many bots run."""
        async with asyncio.timeout(10):
            while len(await self.list()) < bots:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def written(self) -> None:
        """Waits until nothing is to be written any more."""
        await until(lambda: not self._ledger.queued)


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> Statements:
    return Statements(monkeypatch)


@pytest.fixture
async def supervisor(
    tmp_path: Path, statements: Statements, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Supervisor]:
    monkeypatch.setattr(retention, "FIRST_S", 3600.0)
    kind = settings.Kind(target=TARGET, path=(BOTS,))
    chosen = settings.Settings(data_dir=tmp_path, kinds={"silent": kind})
    counts = Metrics()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    out = logs.Console(nowhere)
    os.close(nowhere)
    try:
        async with (
            open_ledger(chosen, counts) as ledger,
            open_fleet(chosen, ledger, counts, out, lambda: chosen, lambda: False) as fleet,
            httpx.AsyncClient(
                transport=httpx.ASGITransport(application.create(fleet, chosen)), base_url="http://localhost"
            ) as client,
        ):
            made = Supervisor(client, ledger)
            try:
                # The first write of all connects to the ledger.
                await made.post("/stop/{bot_id}".format(**await made.post("/start")))
                yield made
            finally:
                await fleet.shutdown(5)
    finally:
        out.close(1)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "fields", "bots", "transactions"),
    [("/start", {}, 1, START_TRANSACTIONS), ("/bots/batch", {"count": 100}, 100, BATCH_TRANSACTIONS)],
)
async def test_what_a_start_writes(
    supervisor: Supervisor, statements: Statements, path: str, fields: dict[str, Any], bots: int, transactions: int
) -> None:
    async with asyncio.TaskGroup() as tasks:
        with statements.slow_disk():
            asked = tasks.create_task(supervisor.post(path, {"kind": "silent"} | fields))
            await supervisor.runs(bots)
    assert asked.result()
    await supervisor.written()
    assert statements.counted() == start(bots)
    assert 2 <= statements.transactions() <= transactions


@pytest.mark.anyio
async def test_what_a_stop_writes(
    supervisor: Supervisor, statements: Statements, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However slow the machine is.
    monkeypatch.setattr(writer, "FACT_WAITS_S", 60)
    bot = await supervisor.post("/bots?wait=ready", {"kind": "silent"})
    statements.begin()
    await supervisor.post(f"/stop/{bot['bot_id']}")
    await supervisor.written()
    assert statements.counted() == STOP
    assert statements.transactions() == STOP_TRANSACTIONS


@pytest.mark.anyio
async def test_what_a_list_reads(
    supervisor: Supervisor, statements: Statements, monkeypatch: pytest.MonkeyPatch
) -> None:
    await supervisor.post("/bots/batch?wait=ready", {"kind": "silent", "count": 10})
    await supervisor.list()
    statements.begin()
    reads = calls(monkeypatch, os, "pread")
    opened = [calls(monkeypatch, *one) for one in ((os, "open"), (os, "listdir"), (os, "scandir"), (builtins, "open"))]
    listed = await supervisor.list()
    assert len([bot for bot in listed if bot["rss_bytes"]]) == 10
    assert len(reads) == READS * 10
    assert opened == [[]] * len(opened)
    assert statements.counted() == Counter()


@pytest.mark.anyio
async def test_an_answer_that_is_an_id_reads_no_process(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    bots = await supervisor.post("/bots/batch?wait=ready", {"kind": "silent", "count": 4, "labels": {"team": "a"}})
    first, second, *_ = (bot["bot_id"] for bot in bots["bots"])
    used, opened = calls(monkeypatch, usage.Meter, "read"), calls(monkeypatch, builtins, "open")
    await supervisor.post("/start", {"kind": "silent"})
    await supervisor.post(f"/stop/{first}")
    # Here the answer has an outcome for each.
    await supervisor.post("/bots/restart?label=team:a&state=running")
    await supervisor.post(f"/bots/{second}/stop")
    await supervisor.post("/bots/stop?all=true")
    assert used == []
    # What a process is for certain is read once, when it begins.
    read = [str(path) for path, *_ in opened if str(path).startswith("/proc/")]
    assert len(read) == len(set(read)) == 1 + 3
    assert all(re.fullmatch(r"/proc/\d+/stat", path) for path in read)


@pytest.mark.anyio
async def test_a_stop_by_selector_does_nothing_for_others(supervisor: Supervisor) -> None:
    many = {"kind": "silent", "count": 100, "labels": {"team": "others"}}
    await supervisor.post("/bots/batch?wait=ready", many)
    for name in ("alice", "bob"):
        await supervisor.post("/bots?wait=ready", {"kind": "silent", "name": name})
    await supervisor.post("/bots/stop?name=alice")
    with calls_in(Path(supervisor_fleet.__file__).parent) as made:
        outcomes = await supervisor.post("/bots/stop?name=bob")
    assert [outcome["state"] for outcome in outcomes["results"]] == ["stopped"]
    assert sum(made.values()) <= SELECTOR_CALLS, made.most_common(10)


@contextlib.contextmanager
def calls_in(folder: Path) -> Iterator[Counter[tuple[str, str]]]:
    """How often each function of a folder is called in the block, or goes on after it has waited, in this thread."""
    made: Counter[tuple[str, str]] = Counter()

    def note(frame: FrameType, event: str, arg: object) -> None:
        file = Path(frame.f_code.co_filename) if event == "call" else None
        if file is not None and file.parent == folder:
            made[file.name, frame.f_code.co_name] += 1

    sys.setprofile(note)
    try:
        yield made
    finally:
        sys.setprofile(None)


def calls(monkeypatch: pytest.MonkeyPatch, where: Any, name: str) -> list[tuple[Any, ...]]:
    """The arguments of all calls of a function from now on, in this thread: the one that follows the logs may come to
    those of new bots only now."""
    made: list[tuple[Any, ...]] = []
    function = getattr(where, name)
    thread = threading.get_ident()

    def noted(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() == thread:
            made.append(args)
        return function(*args, **kwargs)

    monkeypatch.setattr(where, name, noted)
    return made


# ---- nothing to do


def test_nothing_wakes_without_a_reason(make_program: Callable[..., Program]) -> None:
    programs = [make_program(kinds=KINDS) for _ in range(2)]
    for program in programs:
        program.launch()
    for program in programs:
        program.listens()
        warm_zygote(program, "counter")
        warm_zygote(program, "silent")
    answer = programs[0].post("/bots/batch?wait=ready", {"kind": "silent", "count": 10})
    assert answer.status_code == 201, answer.text
    processes = [process for program in programs for process in program.family()]
    # Two supervisors with two zygotes each and what multiprocessing keeps beside them, and the bots.
    assert len(processes) == 2 * (1 + 2 + 1) + 10
    assert_silent([process.pid for process in processes])


def assert_silent(pids: Collection[int]) -> None:
    """There is a time of `SILENT_S` in which no thread of these processes wakes."""
    seen: dict[str, int] = {}
    since = time.monotonic()
    woken: set[str] = set()

    def silent() -> bool:
        nonlocal seen, since, woken
        if (now := wakeups(pids)) != seen:
            woken = {name for name, number in now.items() if seen.get(name) != number}
            seen, since = now, time.monotonic()
        return time.monotonic() - since >= SILENT_S

    try:
        wait_for(silent, SILENT_WITHIN_S)
    except AssertionError:
        raise AssertionError(f"woken again and again, at last: {woken}") from None


def wakeups(pids: Collection[int]) -> dict[str, int]:
    """How often each thread of these processes has gone to sleep."""
    found = {}
    for pid in pids:
        for tid in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(FileNotFoundError):  # It ended meanwhile.
                status = Path(f"/proc/{pid}/task/{tid}/status").read_text()
                [(name, switches)] = re.findall(r"\AName:\t(.*)\n(?s:.*)\nvoluntary_ctxt_switches:\t(\d+)\n", status)
                found[f"thread {tid} of {name} {pid}"] = int(switches)
    return found


# ---- a fork


def test_forks_in_a_row_share_their_pages(make_program: Callable[..., Program]) -> None:
    program = make_program(kinds=KINDS).start()
    program.start_bot("silent")
    zygote = warm_zygote(program, "silent")
    before = faults(zygote)
    for _ in range(100):
        program.start_bot("silent")
    alone = faults(zygote) - before
    before = faults(zygote)
    answer = program.post("/bots/batch", {"kind": "silent", "count": 100})
    assert answer.status_code == 201, answer.text
    together = faults(zygote) - before
    assert together < FAULTS * alone, f"{together / 100:g} page faults for each, and {alone / 100:g} alone"
    assert program.terminate() == 0


def test_a_bot_shares_its_zygotes_pages(make_program: Callable[..., Program]) -> None:
    program = make_program(kinds=KINDS).start()
    answer = program.post("/bots/batch?wait=ready", {"kind": "silent", "count": 10})
    assert answer.status_code == 201, answer.text
    pids = [program.bot(bot["bot_id"])["pid"] for bot in answer.json()["bots"]]
    owned = statistics.median(psutil.Process(pid).memory_full_info().uss for pid in pids) / resource.getpagesize()
    assert owned < PAGES, f"{owned:g} pages of its own"
    assert program.terminate() == 0


def faults(process: psutil.Process) -> int:
    """How many pages it has touched that had to be made or copied: the field `minflt` of proc_pid_stat(5)."""
    return int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[7])
