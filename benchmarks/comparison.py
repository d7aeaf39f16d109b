"""Us beside those who do the same: each measure in rounds, and in each round ours right before each of theirs.

A measure runs a manager, asks it over its own interface, and looks at the kernel for what came of it: a bot has started
when its first line is in its log, and is gone when its process is. Only one manager runs at a time.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from select import POLLIN, poll
from typing import TypeVar

import psutil

from benchmarks.measures import p99
from benchmarks.peers import ours, peer
from benchmarks.peers.peer import Listed, NotMeasured, Peer, Session

T = TypeVar("T")

LIMIT_S = 180.0
LOOKED_AT = 30
"""Of how many bots the memory is read for a median."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is measured."""

    rounds: int
    fleets: tuple[int, ...]
    """How many bots there are."""
    samples: int
    lists: int
    idle_s: float
    web_bots: int


USUAL = Effort(rounds=5, fleets=(0, 100, 300), samples=10, lists=100, idle_s=10, web_bots=20)
FULL = Effort(rounds=5, fleets=(0, 100, 300, 1000), samples=10, lists=100, idle_s=10, web_bots=20)
QUICK = Effort(rounds=1, fleets=(0, 3), samples=2, lists=5, idle_s=1, web_bots=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class What:
    """Something that is measured. The order is that of the tables."""

    measure: str
    bots: int
    name: str
    unit: str
    more_is_better: bool = False


Found = Mapping[What, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Ours and theirs. A ratio is theirs divided by ours of the same round; there is none where ours is 0."""

    what: What
    peer: str
    ours: float
    theirs: float
    ratios: tuple[float, ...]

    @property
    def ratio(self) -> float | None:
        return statistics.median(self.ratios) if self.ratios else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A measure that a peer has not come through, and why."""

    measure: str
    bots: int
    peer: str
    why: str


def fleet(manager: Peer, effort: Effort, count: int) -> Found:
    """The life of so many light bots: all at once, one more, the listing, a kill -9, memory, an idle time, the end."""
    found: dict[What, float] = {}

    def note(name: str, value: float, unit: str) -> None:
        found[What(measure="fleet", bots=count, name=name, unit=unit)] = value

    # One more than the fleet: it comes and goes.
    with manager.running("light", count + 1) as session:
        if count:
            before = _cpu_s(_managers(session))
            begin, numbers, seen = start(session, count)
            note("all at once to the last first line", seen - begin, "s")
            bots = checked(session, numbers)
            spent = _cpu_s(_managers(session)) - before + _cpu_s(psutil.Process(bot.pid) for bot in bots)
            note("the same, CPU of all processes", spent, "s")
        else:
            numbers = []

        def come_and_go() -> tuple[float, float]:
            begin, [number], seen = start(session, 1)
            checked(session, [*numbers, number])
            return seen - begin, stop(session, [number])

        started, stopped = zip(*_samples(effort.samples, come_and_go), strict=True)
        note("start of one to its first line", statistics.median(started) * 1000, "ms")
        note("stop of one until it is gone", statistics.median(stopped) * 1000, "ms")
        if not count:
            _, numbers, _ = start(session, 1)
        if count and manager.lists:
            took = _samples(effort.lists, lambda: _took(session.listing))
            note("listing, p50", statistics.median(took) * 1000, "ms")
            note("listing, p99", p99(took) * 1000, "ms")
        if manager.restarts:
            victims = itertools.cycle(numbers)
            killed = _samples(effort.samples, lambda: _kill(session, next(victims)))
            note("kill -9 to the next first line", statistics.median(killed) * 1000, "ms")
        if count:
            bots = checked(session, numbers)
            sizes = [psutil.Process(bot.pid).memory_full_info() for bot in bots[:LOOKED_AT]]
            note("USS of a bot", statistics.median(size.uss for size in sizes) / 1e6, "MB")
            note("PSS of a bot", statistics.median(size.pss for size in sizes) / 1e6, "MB")
            note("PSS of everything, divided by the bots", _all_in_mb(session, bots), "MB")
            managers = _managers(session)
            before, begin = _running_s(managers), time.monotonic()
            time.sleep(effort.idle_s)
            spent = _running_s(managers) - before
            note("CPU of the manager in a minute", spent * 60 / (time.monotonic() - begin), "s")
            note("stop of all until they are gone", stop(session, numbers), "s")
    return found


def web(manager: Peer, effort: Effort, count: int) -> Found:
    """Bots that import a web stack: what the start of one takes, and what it holds."""
    with manager.running("web", count) as session:
        took: list[float] = []
        numbers: list[int] = []
        for _ in range(count):
            begin, [number], seen = start(session, 1)
            took.append(seen - begin)
            numbers.append(number)
        bots = checked(session, numbers)
        time.sleep(1.2)  # A second line, and with it the code that each second needs.
        uss = statistics.median(psutil.Process(bot.pid).memory_full_info().uss for bot in bots)
        all_in_mb = _all_in_mb(session, bots)

    def what(name: str, unit: str) -> What:
        return What(measure="web", bots=count, name=name, unit=unit)

    return {
        what("start of one to its first line", "ms"): statistics.median(took) * 1000,
        what("USS of a bot", "MB"): uss / 1e6,
        what("PSS of everything, divided by the bots", "MB"): all_in_mb,
    }


def flood(manager: Peer, effort: Effort, count: int) -> Found:
    """One bot that prints as fast as it can for five seconds, and the listing meanwhile."""
    listed: list[float] = []
    with manager.running("flood", 1) as session:
        before = _running_s(_managers(session))
        _, [number], _ = start(session, 1)
        report, log = session.report(number), session.log(number)
        deadline = time.monotonic() + LIMIT_S
        while not report.exists() or report.stat().st_size == 0:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the bot had not printed its lines within {LIMIT_S:g} s")
            if manager.lists:
                listed.append(_took(session.listing))
            time.sleep(0.02)
        printed = json.loads(report.read_text())
        size = -1
        while size != (size := log.stat().st_size):
            time.sleep(0.5)  # What is on its way into the log comes to its end.
        spent = _running_s(_managers(session)) - before
        logged = _lines(log)

    def what(name: str, unit: str, *, more_is_better: bool = False) -> What:
        return What(measure="flood", bots=1, name=name, unit=unit, more_is_better=more_is_better)

    found = {
        what("lines in a second", "", more_is_better=True): printed["lines"] / printed["seconds"],
        what("lines lost", ""): float(printed["lines"] - logged),
        what("CPU of the manager", "s"): spent,
    }
    if listed:
        found[what("listing meanwhile, p50", "ms")] = statistics.median(listed) * 1000
        found[what("listing meanwhile, p99", "ms")] = p99(listed) * 1000 if len(listed) > 1 else listed[0] * 1000
    return found


Measure = Callable[[Peer, Effort, int], Found]
MEASURES: dict[str, Measure] = {measure.__name__: measure for measure in (fleet, web, flood)}


def compare(
    peers: Sequence[Peer], effort: Effort, chosen: Iterable[str], say: Callable[[str], None]
) -> Iterator[Compared | Failed]:
    """Each measure, in rounds. A peer that fails in one, or that we fail beside, is left out of its later rounds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        counts = {"fleet": effort.fleets, "web": (effort.web_bots,), "flood": (1,)}
        for name in chosen:
            for count in counts[name]:
                yield from _rounds(name, count, peers, effort, say)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _rounds(
    name: str, count: int, peers: Sequence[Peer], effort: Effort, say: Callable[[str], None]
) -> Iterator[Compared | Failed]:
    pairs: dict[tuple[str, What], list[tuple[float, float]]] = defaultdict(list)
    ours_found: dict[What, list[float]] = defaultdict(list)
    us, left = ours.Ours(), list(peers)
    for number in range(effort.rounds):
        for one in list(left):
            begin = time.monotonic()
            who = us.name
            try:
                ours_now = MEASURES[name](us, effort, count)
                who = one.name
                theirs_now = MEASURES[name](one, effort, count)
            except NotMeasured:
                left.remove(one)
                continue
            except (TimeoutError, RuntimeError, OSError, psutil.Error) as error:
                left.remove(one)
                yield Failed(measure=name, bots=count, peer=who, why=str(error) or repr(error))
                continue
            for what, value in ours_now.items():
                ours_found[what].append(value)
                if what in theirs_now:
                    pairs[one.name, what].append((value, theirs_now[what]))
            say(f"{name} {count}, round {number + 1}, {one.name}: {time.monotonic() - begin:.0f} s")
    for (peer_name, what), values in pairs.items():
        yield Compared(
            what=what,
            peer=peer_name,
            ours=statistics.median(ours_found[what]),
            theirs=statistics.median(theirs for _, theirs in values),
            ratios=tuple(theirs / mine for mine, theirs in values if mine),
        )


def start(session: Session, count: int) -> tuple[float, list[int], float]:
    """When it was asked, the bots' numbers, and when the last one's first line was there."""
    session.first_lines.drain()

    def ask() -> tuple[float, list[int]]:
        begin = time.monotonic()
        return begin, session.start(count)

    # The line may be there before the answer is.
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(ask)
        try:
            seen = session.first_lines.wait(count)
        finally:
            begin, numbers = asked.result(LIMIT_S)
    return begin, numbers, seen


def stop(session: Session, numbers: Sequence[int]) -> float:
    """Seconds from asking until the last process is gone, whether that is answered by then or not."""
    pids = {bot.number: bot.pid for bot in session.listing()}

    def ask() -> float:
        begin = time.monotonic()
        session.stop(numbers)
        return begin

    with ExitStack() as files, ThreadPoolExecutor(1) as threads:
        waiting = poll()
        alive = set()
        for number in numbers:
            pidfd = os.pidfd_open(pids[number])
            files.callback(os.close, pidfd)
            waiting.register(pidfd, POLLIN)
            alive.add(pidfd)
        asked = threads.submit(ask)
        deadline = time.monotonic() + LIMIT_S
        while alive:
            ready = waiting.poll(max(0.0, deadline - time.monotonic()) * 1000)
            if not ready:
                asked.result(LIMIT_S)
                raise TimeoutError(f"{len(alive)} bots were not gone within {LIMIT_S:g} s")
            for pidfd, _ in ready:
                waiting.unregister(pidfd)
                alive.discard(pidfd)
        gone = time.monotonic()
        begin = asked.result(LIMIT_S)
    ended = {pids[number] for number in numbers}
    peer.wait_until(lambda: not ended & {bot.pid for bot in session.listing()}, "the listing shows them no more")
    peer.wait_until(lambda: not any(map(psutil.pid_exists, ended)), "all of them are reaped")
    return gone - begin


def _kill(session: Session, number: int) -> float:
    """Seconds from the kill -9 of a bot to the first line of the next one."""
    [pid] = (bot.pid for bot in session.listing() if bot.number == number)
    # Right after a line, so that no line of the old one is still on its way.
    session.first_lines.wait_next(number)
    time.sleep(0.1)
    session.first_lines.drain()
    begin = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    seen = session.first_lines.wait_next(number)

    def another() -> bool:
        return any(bot.number == number and bot.pid != pid for bot in session.listing())

    peer.wait_until(another, "it was started again")
    return seen - begin


def checked(session: Session, numbers: Sequence[int]) -> list[Listed]:
    """The bots with these numbers, which are all there are, and really run: processes of the manager's, that print."""
    wanted = set(numbers)

    def there() -> bool:
        return {bot.number for bot in session.listing()} == wanted

    peer.wait_until(there, "the listing shows the bots that were started, and no others")
    bots = session.listing()
    family = {process.pid for process in peer.tree(session.root_pid)}
    pids = {bot.pid for bot in bots}
    if len(pids) != len(wanted) or not pids <= family:
        raise RuntimeError(f"bots that are not one process each, of the manager's: {pids - family or bots}")
    for bot in bots:
        with session.log(bot.number).open("rb") as log:
            if (line := log.readline()) != b"0\n":
                raise RuntimeError(f"the log of bot {bot.number} begins with {line!r}")
    return bots


def _managers(session: Session) -> list[psutil.Process]:
    """All processes that are no bots. None, where the measuring process itself starts them."""
    if session.root_pid == os.getpid():
        return []
    bots = {bot.pid for bot in session.listing()}
    return [process for process in peer.tree(session.root_pid) if process.pid not in bots]


def _cpu_s(processes: Iterable[psutil.Process]) -> float:
    """What they have used, and what those of their children have that they have reaped."""
    return sum(sum(process.cpu_times()[:4]) for process in processes)


def _running_s(processes: Iterable[psutil.Process]) -> float:
    """How long their threads were on a core: the kernel counts nanoseconds here, where CPU times are ticks."""
    return (
        sum(
            int((task / "schedstat").read_text().split()[0])
            for process in processes
            for task in Path(f"/proc/{process.pid}/task").iterdir()
        )
        / 1e9
    )


def _all_in_mb(session: Session, bots: Sequence[Listed]) -> float:
    processes = [*_managers(session), *(psutil.Process(bot.pid) for bot in bots)]
    return sum(process.memory_full_info().pss for process in processes) / len(bots) / 1e6


def _samples(count: int, sample: Callable[[], T]) -> list[T]:
    """So many samples, but at least two, and no more after a quarter of a minute."""
    deadline = time.monotonic() + 15
    samples = [sample(), sample()]
    while len(samples) < count and time.monotonic() < deadline:
        samples.append(sample())
    return samples


def _took(ask: Callable[[], object]) -> float:
    begin = time.monotonic()
    ask()
    return time.monotonic() - begin


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b""))
