"""The measures. Each brings its own program, and where there is a floor takes turns with it, round by round."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import signal
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from benchmarks import floor, program, web
from benchmarks.floor import Floor
from benchmarks.program import Ours
from benchmarks.report import Row
from tests.browser import launched

LIMIT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is measured."""

    rounds: int
    samples: int
    """A round."""
    fleet: int
    """Where there are many bots."""
    many: int
    """Where there are very many."""
    idle_s: float
    cycles: int
    """Starts and stops of which nothing may be left."""


FULL = Effort(rounds=7, samples=30, fleet=300, many=1000, idle_s=30, cycles=10_000)
QUICK = Effort(rounds=2, samples=5, fleet=30, many=60, idle_s=3, cycles=100)

Measure = Callable[[Effort], list[Row]]


def start(effort: Effort) -> list[Row]:
    """POST /start to the bot's first line, when there is no other bot."""
    with both() as (ours, bare):
        return _starts("start", effort, ours, bare, company=0, at_most=3)


def crowd(effort: Effort) -> list[Row]:
    """The same when a fleet is running: ours among our bots, then the floor among the same number of forked ones."""
    with both() as (ours, bare):
        return _starts("crowd", effort, ours, bare, company=effort.fleet, at_most=4)


def _starts(measure: str, effort: Effort, ours: Ours, bare: Floor, *, company: int, at_most: float) -> list[Row]:
    ours_s: list[list[float]] = []
    floor_s: list[list[float]] = []
    answered_s: list[float] = []
    for _ in range(effort.rounds):
        others = ours.start_many(company)[1] if company else []
        ours_s.append([])
        for _ in range(effort.samples):
            line_s, answer_s, bot_id = ours.start()
            ours_s[-1].append(line_s)
            answered_s.append(answer_s)
            ours.stop([bot_id])
        ours.stop(others)
        if company:
            bare.start(company)
        floor_s.append([])
        for _ in range(effort.samples):
            floor_s[-1].append(bare.start()[0])
            if not company:
                bare.end()
        bare.end()
    among = f" among {company}" if company else ""
    rows = [
        Row(
            measure=measure,
            what=f"POST /start to first line{among}, {name}",
            unit="ms",
            ours=point(_flat(ours_s)) * 1000,
            floor=point(_flat(floor_s)) * 1000,
            ratios=tuple(point(a) / point(b) for a, b in zip(ours_s, floor_s, strict=True)),
            at_most=limit,
        )
        for name, point, limit in (("p50", statistics.median, at_most), ("p90", p90, None))
    ]
    answered = statistics.median(answered_s) * 1000
    return [*rows, Row(measure=measure, what=f"POST /start to its answer{among}, p50", unit="ms", ours=answered)]


def burst(effort: Effort, count: int = 100) -> list[Row]:
    """100 calls at once, each on its own connection, until the last first line."""
    ours_s: list[float] = []
    floor_s: list[float] = []
    with both() as (ours, bare):
        ours.connections(count)
        for _ in range(effort.rounds):
            took_s, bot_ids = ours.burst(count)
            ours_s.append(took_s)
            ours.stop(bot_ids)
            floor_s.append(bare.start(count)[0])
            bare.end()
    return [
        Row(
            measure="burst",
            what=f"{count} of POST /start at once to the last first line, p50",
            unit="ms",
            ours=statistics.median(ours_s) * 1000,
            floor=statistics.median(floor_s) * 1000,
            ratios=tuple(a / b for a, b in zip(ours_s, floor_s, strict=True)),
            at_most=3,
        )
    ]


def uss(effort: Effort, count: int = 10) -> list[Row]:
    """The memory that a bot has to itself, some lines after its start."""
    ours_mb: list[float] = []
    floor_mb: list[float] = []
    with both() as (ours, bare):
        for _ in range(effort.rounds):
            _, bot_ids = ours.start_many(count)
            ours_mb.append(_uss_mb([ours.bot(bot_id)["pid"] for bot_id in bot_ids]))
            ours.stop(bot_ids)
            floor_mb.append(_uss_mb(bare.start(count)[1]))
            bare.end()
    return [
        Row(
            measure="uss",
            what=f"USS of a counter, p50 of {count}",
            unit="MB",
            ours=statistics.median(ours_mb),
            floor=statistics.median(floor_mb),
            ratios=tuple(a / b for a, b in zip(ours_mb, floor_mb, strict=True)),
            at_most=1.6,
        )
    ]


def _uss_mb(pids: Sequence[int]) -> float:
    time.sleep(1.2)  # A second line, and with it the code that each second needs.
    return statistics.median(psutil.Process(pid).memory_full_info().uss for pid in pids) / 1e6


def listing(effort: Effort) -> list[Row]:
    """GET /bots with a fleet, CPU and memory of each process included."""
    with program.running() as ours:
        ours.start_many(effort.fleet)
        took_s: list[float] = []
        for _ in range(effort.rounds * effort.samples):
            connection = ours.connection
            begin = time.monotonic()
            bots = connection.call("GET", "/bots?limit=1000")
            took_s.append(time.monotonic() - begin)
            assert len(bots) == effort.fleet
            assert all(bot["rss_bytes"] for bot in bots)
    what = f"GET /bots with {effort.fleet} bots"
    return [
        Row(measure="listing", what=f"{what}, p50", unit="ms", ours=statistics.median(took_s) * 1000, at_most=15),
        Row(measure="listing", what=f"{what}, p99", unit="ms", ours=p99(took_s) * 1000),
    ]


def idle(effort: Effort, count: int = 100) -> list[Row]:
    """What 100 bots that print each second cost the supervisor and its zygote, the supervisor's stdout included."""
    with program.running() as ours:
        ours.start_many(count)
        pids = (ours.pid, ours.zygote_pid)
        time.sleep(2)
        before = [_cpu_s(pid) for pid in pids]
        begin = time.monotonic()
        time.sleep(effort.idle_s)
        spent = [_cpu_s(pid) - cpu_s for pid, cpu_s in zip(pids, before, strict=True)]
        per_minute = 60 / (time.monotonic() - begin)
    what = f"CPU in a minute with {count} bots"
    return [
        Row(measure="idle", what=f"supervisor's {what}", unit="s", ours=spent[0] * per_minute, at_most=0.5),
        Row(measure="idle", what=f"zygote's {what}", unit="s", ours=spent[1] * per_minute),
    ]


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def watched(effort: Effort) -> list[Row]:
    """A large fleet: its list, and what one open dashboard and one who follows a log add to the supervisor's CPU."""
    rounds = 3

    def cpu_percent() -> float:
        before, begin = _cpu_s(ours.pid), time.monotonic()
        time.sleep(effort.idle_s / rounds)
        return 100 * (_cpu_s(ours.pid) - before) / (time.monotonic() - begin)

    with program.running() as ours, launched() as browser:
        ours.start_many(effort.many)
        took_s: list[float] = []
        for _ in range(effort.rounds * effort.samples):
            begin = time.monotonic()
            ours.connection.send("GET", "/bots?limit=1000")
            answer = ours.connection.receive_bytes()
            took_s.append(time.monotonic() - begin)
        bots = json.loads(answer)
        alone: list[float] = []
        added: list[float] = []
        for _ in range(rounds):
            alone.append(cpu_percent())
            with (
                browser.new_page(base_url=ours.url) as page,
                httpx.stream("GET", f"{ours.url}/bots/1/logs", headers={"Accept": "text/event-stream"}, timeout=None),
            ):
                page.goto("/")
                page.get_by_role("link", name="Bot 1", exact=True).wait_for()
                added.append(cpu_percent() - alone[-1])
    assert len(bots) == effort.many
    what = f"with {effort.many} bots"
    return [
        Row(
            measure="watched",
            what=f"GET /bots {what}, p50",
            unit="ms",
            ours=statistics.median(took_s) * 1000,
            at_most=40,
        ),
        Row(measure="watched", what=f"supervisor's CPU {what}", unit="%", ours=statistics.median(alone)),
        Row(
            measure="watched",
            what="what a dashboard and a follower of a log add",
            unit="%",
            ours=statistics.median(added),
            at_most=3,
        ),
    ]


def growth(effort: Effort) -> list[Row]:
    """Start after start to 1,000 bots: what the last ones cost beside the first ones, for us and for the floor."""
    edge = min(50, effort.many // 3)
    with both() as (ours, bare):
        started = [ours.start() for _ in range(effort.many)]
        ours_s = [line_s for line_s, _, _ in started]
        ours.stop([bot_id for _, _, bot_id in started])
        floor_s = [bare.start()[0] for _ in range(effort.many)]
    (ours_first, ours_last), (floor_first, floor_last) = (
        (statistics.median(took_s[:edge]), statistics.median(took_s[-edge:])) for took_s in (ours_s, floor_s)
    )
    return [
        Row(
            measure="growth",
            what=f"start to first line, first {edge}",
            unit="ms",
            ours=ours_first * 1000,
            floor=floor_first * 1000,
            ratios=(ours_first / floor_first,),
        ),
        Row(
            measure="growth",
            what=f"start to first line, last {edge} of {effort.many}",
            unit="ms",
            ours=ours_last * 1000,
            floor=floor_last * 1000,
            ratios=(ours_last / floor_last,),
        ),
        Row(
            measure="growth",
            what="last beside first",
            unit="x",
            ours=ours_last / ours_first,
            floor=floor_last / floor_first,
        ),
    ]


def ledger(effort: Effort) -> list[Row]:
    """How many starts a second are in the ledger when they are answered, and how many share a transaction. The floor is
    SQLite alone, with a small INSERT in each transaction, in the same directory."""
    ours_per_s: list[float] = []
    floor_per_s: list[float] = []
    shared: list[float] = []
    with program.running() as ours:
        for _ in range(effort.rounds):
            before, begin = ours.transactions(), time.monotonic()
            bot_ids = ours.ask_many(effort.fleet)
            ours_per_s.append(effort.fleet / (time.monotonic() - begin))
            shared.append(effort.fleet / (ours.transactions() - before))
            ours.stop(bot_ids)
            floor_per_s.append(_transactions_per_s(ours.ledger.with_name("floor.sqlite3"), effort.fleet))
    return [
        Row(
            measure="ledger",
            what=f"durable starts a second, {program.PARALLEL} asked for at a time, beside transactions",
            unit="/s",
            ours=statistics.median(ours_per_s),
            floor=statistics.median(floor_per_s),
            ratios=tuple(a / b for a, b in zip(ours_per_s, floor_per_s, strict=True)),
        ),
        Row(measure="ledger", what="starts to a transaction", unit="", ours=statistics.median(shared)),
    ]


def _transactions_per_s(path: Path, count: int) -> float:
    """Of one small INSERT each, durable as the ledger's are."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = wal")
        db.execute("PRAGMA synchronous = full")
        db.execute("CREATE TABLE IF NOT EXISTS start (id INTEGER PRIMARY KEY, at INTEGER NOT NULL)")
        begin = time.monotonic()
        for _ in range(count):
            db.execute("INSERT INTO start (at) VALUES (?)", (time.time_ns(),))
        return count / (time.monotonic() - begin)


def stop(effort: Effort) -> list[Row]:
    """POST /stop to its answer: the process is gone, and the ledger has it."""
    took_s: list[float] = []
    with program.running() as ours:
        for _ in range(effort.rounds * effort.samples):
            _, _, bot_id = ours.start()
            connection = ours.connection
            begin = time.monotonic()
            connection.call("POST", f"/stop/{bot_id}")
            took_s.append(time.monotonic() - begin)
    return [
        Row(measure="stop", what="POST /stop to its answer, p50", unit="ms", ours=statistics.median(took_s) * 1000),
        Row(measure="stop", what="POST /stop to its answer, p99", unit="ms", ours=p99(took_s) * 1000),
    ]


def end(effort: Effort) -> list[Row]:
    """kill -9 of a bot until its end stands in the ledger, and until the API says it."""
    with program.running() as ours, contextlib.closing(sqlite3.connect(f"file:{ours.ledger}?mode=ro", uri=True)) as db:

        def in_ledger(bot_id: int) -> bool:
            row = db.execute("SELECT cause FROM run WHERE bot_id = ?", (bot_id,)).fetchone()
            return row[0] is not None

        def in_listing(bot_id: int) -> bool:
            return ours.bot(bot_id)["pid"] is None

        rows: list[Row] = []
        for where, seen in (("the ledger", in_ledger), ("GET /bots/{id}", in_listing)):
            took_s = [_end_s(ours, seen) for _ in range(effort.rounds * effort.samples)]
            what = f"kill -9 to its end in {where}"
            rows += [
                Row(measure="end", what=f"{what}, p50", unit="ms", ours=statistics.median(took_s) * 1000),
                Row(measure="end", what=f"{what}, p99", unit="ms", ours=p99(took_s) * 1000),
            ]
        return rows


def _end_s(ours: Ours, seen: Callable[[int], bool]) -> float:
    _, [bot_id] = ours.start_many(1, restart={"policy": "never"})
    pid = ours.bot(bot_id)["pid"]
    begin = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    while not seen(bot_id):
        if time.monotonic() - begin > LIMIT_S:
            raise TimeoutError(f"the end of bot {bot_id} was not seen")
        time.sleep(0.0001)  # Whoever watches must leave the cores to those who work.
    return time.monotonic() - begin


def web_stack(effort: Effort) -> list[Row]:
    """A bot that imports httpx, pydantic and FastAPI, beside a new interpreter for each: multiprocessing's spawn, and
    subprocess."""
    rows: list[Row] = []
    for way in web.WAYS:
        took_s: list[tuple[float, float]] = []
        own_mb: list[tuple[float, float]] = []
        with program.running("web", web.KIND) as ours, floor.running("benchmarks.web", way) as theirs:
            for _ in range(effort.rounds):
                # Theirs takes half a second each: few samples are enough.
                started = [ours.start() for _ in range(5)]
                other = [theirs.start() for _ in range(3)]
                took_s.append(
                    (
                        statistics.median(line_s for line_s, _, _ in started),
                        statistics.median(line_s for line_s, _ in other),
                    )
                )
                bot_ids = [bot_id for _, _, bot_id in started]
                own_mb.append(
                    (
                        _uss_mb([ours.bot(bot_id)["pid"] for bot_id in bot_ids]),
                        _uss_mb([pid for _, pids in other for pid in pids]),
                    )
                )
                ours.stop(bot_ids)
                theirs.end()
        for what, unit, scale, pairs, at_most in (
            ("start to first line", "ms", 1000, took_s, 1 / 50),
            ("USS", "MB", 1, own_mb, 1 / 10),
        ):
            rows.append(
                Row(
                    measure="web_stack",
                    what=f"{what} with a web stack, beside {way}, p50",
                    unit=unit,
                    ours=statistics.median(a for a, _ in pairs) * scale,
                    floor=statistics.median(b for _, b in pairs) * scale,
                    ratios=tuple(a / b for a, b in pairs),
                    at_most=at_most if way == "spawn" else None,
                )
            )
    return rows


def cycles(effort: Effort, at_once: int = 50) -> list[Row]:
    """Starts and stops, again and again: what supervisor and zygote hold then. The floor is what they held before."""
    with program.running() as ours:
        pids = {"supervisor": ours.pid, "zygote": ours.zygote_pid}

        def cycle(times: int) -> list[tuple[int, float]]:
            for _ in range(times // at_once):
                ours.stop(ours.start_many(at_once)[1])
            time.sleep(1)  # The last logs are closed a moment later.
            return [_held(pid) for pid in pids.values()]

        # What is made with the first bots, and kept, is not what grows.
        before = cycle(4 * at_once)
        after = cycle(effort.cycles)
    rows: list[Row] = []
    for name, held, held_before in zip(pids, after, before, strict=True):
        for what, unit, ours_, floor_, at_most in zip(
            ("descriptors", "USS"), ("", "MB"), held, held_before, (1, 1.2), strict=True
        ):
            rows.append(
                Row(
                    measure="cycles",
                    what=f"{what} of the {name} after {effort.cycles} starts and stops, beside before",
                    unit=unit,
                    ours=ours_,
                    floor=floor_,
                    ratios=(ours_ / floor_,),
                    at_most=at_most,
                )
            )
    return rows


def _held(pid: int) -> tuple[int, float]:
    """Open descriptors, and megabytes of memory of its own."""
    process = psutil.Process(pid)
    return process.num_fds(), process.memory_full_info().uss / 1e6


def restart(effort: Effort) -> list[Row]:
    """`bot-supervisor restart` among a fleet: how long a call may wait for its answer. And a start after a kill -9, to
    where it listens, with the fleet to adopt; the floor is one with no bots."""
    away_s: list[float] = []
    adopted_s: list[float] = []
    empty_s: list[float] = []
    with program.running() as ours:
        for _ in range(effort.rounds):
            ours.kill()
            empty_s.append(ours.come_back())
        _, bot_ids = ours.start_many(effort.fleet)
        pids = [ours.bot(bot_id)["pid"] for bot_id in bot_ids]
        for _ in range(effort.rounds):
            over = threading.Event()
            with concurrent.futures.ThreadPoolExecutor() as threads:
                waited = threads.submit(_longest_wait_s, ours, over)
                ours.replace()
                over.set()
                away_s.append(waited.result())
        for _ in range(effort.rounds):
            ours.kill()
            adopted_s.append(ours.come_back())
        assert [ours.bot(bot_id)["pid"] for bot_id in bot_ids] == pids
    return [
        Row(
            measure="restart",
            what=f"start that adopts {effort.fleet} bots, beside one without, p50",
            unit="ms",
            ours=statistics.median(adopted_s) * 1000,
            floor=statistics.median(empty_s) * 1000,
            ratios=tuple(a / b for a, b in zip(adopted_s, empty_s, strict=True)),
        ),
        Row(
            measure="restart",
            what=f"longest wait for an answer in a restart with {effort.fleet} bots, p50",
            unit="ms",
            ours=statistics.median(away_s) * 1000,
        ),
        Row(measure="restart", what="the same, longest", unit="ms", ours=max(away_s) * 1000),
    ]


def _longest_wait_s(ours: Ours, over: threading.Event) -> float:
    """Calls one after another, each on a connection of its own: none is refused."""
    longest_s = 0.0
    while not over.is_set():
        begin = time.monotonic()
        ours.ask("/livez")
        longest_s = max(longest_s, time.monotonic() - begin)
        time.sleep(0.002)  # The cores are the supervisor's.
    return longest_s


MEASURES: dict[str, Measure] = {
    measure.__name__: measure
    for measure in (
        start,
        crowd,
        burst,
        uss,
        listing,
        idle,
        growth,
        ledger,
        stop,
        end,
        restart,
        web_stack,
        cycles,
        watched,
    )
}


@contextlib.contextmanager
def both() -> Iterator[tuple[Ours, Floor]]:
    """Us and the floor."""
    with program.running() as ours, floor.running() as bare:
        yield ours, bare


def p90(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=10, method="inclusive")[-1]


def p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[-1]


def _flat(rounds: Sequence[Sequence[float]]) -> list[float]:
    return [value for one in rounds for value in one]
