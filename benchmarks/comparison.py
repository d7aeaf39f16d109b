"""Us beside those who do the same: each measure in rounds, and in each round ours and then each of theirs.

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
from collections.abc import Callable, Iterable, Mapping, Sequence
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
ALL_IN = "PSS of everything, divided by the bots"
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
    limit_s: float = 90
    """A peer that needs more for a measure is left out of its later rounds, and of those with more bots."""


USUAL = Effort(rounds=5, fleets=(0, 100, 300), samples=5, lists=100, idle_s=10, web_bots=10)
FULL = Effort(rounds=5, fleets=(0, 100, 300, 1000), samples=5, lists=100, idle_s=10, web_bots=10)
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

    @property
    def behind(self) -> bool:
        """Whether theirs is better."""
        return self.theirs > self.ours if self.what.more_is_better else self.theirs < self.ours


@dataclass(frozen=True, slots=True)
class Step:
    """What is done once in each round: a measure of ours, and then of a peer's."""

    measure: str
    bots: int
    peer: str


@dataclass(frozen=True, slots=True)
class Failed(Step):
    """One that a peer, or ours, has not come through, and why."""

    why: str


@dataclass(frozen=True, slots=True)
class LeftOut(Step):
    """One that is not done (again), since the peer has needed too much for it or for fewer bots."""

    why: str


Result = Compared | Failed | LeftOut


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
            note(ALL_IN, _all_in_mb(session, bots), "MB")
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
        what(ALL_IN, "MB"): all_in_mb,
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


def compare(peers: Sequence[Peer], effort: Effort, chosen: Iterable[str], say: Callable[[str], None]) -> list[Result]:
    """All measures in each round. A peer that fails in one, or that we fail beside, is left out of its later rounds.

    Ctrl-C ends it early, with what was measured by then.
    """
    counts = {"fleet": effort.fleets, "web": (effort.web_bots,), "flood": (1,)}
    steps = [Step(name, count, one.name) for name in chosen for count in counts[name] for one in peers]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        return _rounds(steps, {one.name: one for one in peers}, effort, say)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _rounds(
    steps: Sequence[Step], peers: Mapping[str, Peer], effort: Effort, say: Callable[[str], None]
) -> list[Result]:
    us = ours.Ours()
    ours_found: dict[What, list[float]] = defaultdict(list)
    pairs: dict[tuple[What, str], list[tuple[float, float]]] = defaultdict(list)
    out: dict[Step, Result | None] = {}
    took_s: dict[Step, float] = {}
    todo = [(number, step) for number in range(effort.rounds) for step in steps]
    now_ours: tuple[int, str, int] | None = None
    ours_now: Found = {}
    while todo:
        number, step = todo.pop(0)
        measure, begin = MEASURES[step.measure], time.monotonic()
        who = us.name
        try:
            if now_ours != (now_ours := (number, step.measure, step.bots)):
                ours_now = {}
                ours_now = measure(us, effort, step.bots)
                for what, value in ours_now.items():
                    ours_found[what].append(value)
            who, theirs_begin = step.peer, time.monotonic()
            theirs_now = measure(peers[step.peer], effort, step.bots)
        except KeyboardInterrupt:
            say("interrupted: this is what was measured until now")
            break
        except NotMeasured:
            out[step] = None
        except Exception as error:  # What a peer does wrong can be anything, and is no reason to lose the others.
            out[step] = Failed(step.measure, step.bots, who, str(error) or repr(error))
            if who != us.name:
                why = f"failed with {step.bots:,}"
                out |= {other: _left_out(other, why) for other in larger(step, steps) if other not in took_s}
        else:
            for what, value in ours_now.items():
                if what in theirs_now:
                    pairs[what, step.peer].append((value, theirs_now[what]))
            now = time.monotonic()
            took_s[step] = now - begin
            memory_mb = psutil.virtual_memory().available / 1e6
            out |= too_much(step, steps, theirs_now, now - theirs_begin, limit_s=effort.limit_s, memory_mb=memory_mb)
        todo = [later for later in todo if later[1] not in out]
        say(
            f"{step.measure} {step.bots}, {step.peer}: {time.monotonic() - begin:.0f} s; "
            f"{len(todo)} more, about {left_s((later for _, later in todo), took_s) / 60:.0f} min"
        )
    compared = [
        Compared(
            what=what,
            peer=name,
            ours=statistics.median(values),
            theirs=statistics.median(theirs for _, theirs in pairs[what, name]),
            ratios=tuple(theirs / mine for mine, theirs in pairs[what, name] if mine),
        )
        for what, values in ours_found.items()
        for name in peers
        if (what, name) in pairs
    ]
    return [*compared, *(found for found in out.values() if found is not None)]


def larger(step: Step, steps: Iterable[Step]) -> list[Step]:
    """The same measure and peer with more bots."""
    return [
        other for other in steps if (other.measure, other.peer) == (step.measure, step.peer) and other.bots > step.bots
    ]


def too_much(
    step: Step, steps: Iterable[Step], found: Found, took_s: float, *, limit_s: float, memory_mb: float
) -> dict[Step, LeftOut]:
    """What is to be left out from now on, by what the peer has needed for a step."""
    if took_s > limit_s:
        why = f"more than {limit_s:g} s for {step.bots:,}"
        return {other: _left_out(other, why) for other in (step, *larger(step, steps))}
    each_mb = sum(value for what, value in found.items() if what.name == ALL_IN)
    return {
        other: _left_out(other, f"more than the memory there is: {each_mb * other.bots / 1000:.0f} GB")
        for other in larger(step, steps)
        # Some is for those who measure, and for what else the machine does.
        if each_mb * other.bots > 0.8 * memory_mb
    }


def _left_out(step: Step, why: str) -> LeftOut:
    return LeftOut(step.measure, step.bots, step.peer, why)


def left_s(todo: Iterable[Step], took_s: Mapping[Step, float]) -> float:
    """Each step takes what it took last time; what was not done yet, what the longest took."""
    longest_s = max(took_s.values(), default=0.0)
    return sum(took_s.get(step, longest_s) for step in todo)


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
    """So many samples, but at least two, and no more after some seconds."""
    deadline = time.monotonic() + 8
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
