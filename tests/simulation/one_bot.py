"""The machine of one bot, in a world made of values: no event loop, no file, no process."""

from __future__ import annotations

import dataclasses
import random
import signal
from bisect import bisect
from collections import deque
from collections.abc import Callable
from itertools import accumulate

from botproc import wire
from supervisor.core import effects, events
from supervisor.core.events import Event, Now
from supervisor.core.machine import Machine
from supervisor.core.model import (
    SETTLED,
    Bot,
    Cause,
    Exit,
    Goal,
    Limits,
    Missed,
    Overlap,
    Policy,
    Raised,
    RestartPolicy,
    Schedule,
    State,
    WaitingFor,
)
from supervisor.core.table import Step as Verb
from supervisor.core.terms import Terms
from tests.simulation.rules import Rules, require
from tests.simulation.stories import Broken, Step
from tests.simulation.world import NEVER, Book, Launch, Process, settled_down

_EPOCH_US = 1_780_000_000_000_000
_MOST_TICKS = 5_000
"""Maximum number of deadlines that one passage of time may have."""

_GOING_ON = 400
"""Maximum number of steps after which what goes on must have come to an end."""

_TERMS = Terms(
    restart=RestartPolicy(jitter=0.5),
    grace_s=8.0,
    limits=Limits(),
    schedule=None,
    start_timeout_s=30.0,
    ready="start",
    heartbeat_s=None,
)

_POLICIES = (
    RestartPolicy(jitter=0.5),
    RestartPolicy(policy=Policy.ALWAYS, max_restarts=3, within_s=20.0),
    RestartPolicy(policy=Policy.NEVER),
    RestartPolicy(delay_s=0.0, max_restarts=2, jitter=0.0),
    RestartPolicy(max_restarts=1, retry_after_s=100.0),
    RestartPolicy(max_restarts=0),
)

_SCHEDULES = (
    Schedule(cron="*/5 * * * *"),
    Schedule(cron="* * * * *", overlap=Overlap.RESTART, missed=Missed.RUN),
    Schedule(cron="*/2 * * * *", overlap=Overlap.QUEUE),
    Schedule(cron="0 0 29 2 *", timezone="Europe/Berlin", missed=Missed.RUN),
)

_ENDS: tuple[dict[str, object], ...] = (
    {"exit_code": 0},
    {"exit_code": 1},
    {"exit_code": 1, "raised": Raised(type="ValueError", message="no such town", fingerprint="f")},
    {"exit_code": 1, "raised": Raised(type="MemoryError", message="", fingerprint="m")},
    {"signal": signal.SIGSEGV},
    {"signal": signal.SIGKILL, "oom": True},
    {"exit_code": wire.EXIT_LOCKED},
    {"exit_code": wire.EXIT_UNUSABLE},
    {"exit_code": 0, "asked": Cause.STOPPED},
    {},
)
"""How processes end: well, by exceptions and signals, out of memory, for good, on purpose, and unseen."""

_FAILING: dict[str, type[effects.Effect]] = {
    effect.__name__: effect
    for effect in (
        effects.Launch,
        effects.CancelLaunch,
        effects.Terminate,
        effects.Kill,
        effects.Dump,
        effects.MarkReady,
        effects.CloseRun,
        effects.SweepRun,
        effects.SetTerms,
        effects.Record,
        effects.Acknowledge,
        effects.Release,
    )
}

_MANNERS = ("polite", "polite", "slow", "slow", "deaf", "immortal")

_TICK = events.Tick()


class OneBot:
    """One bot, its supervisors one after another, and all that happens to them.

    Attributes:
        fed: the number of events that the machine has taken.
    """

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.fed = 0
        self._time, self._wall = 1000.0, _EPOCH_US
        self._awake_since = float("-inf")
        self._heard: float | None = None
        self._terms = _some_terms(rng)
        self._inbox: deque[Event] = deque()
        self._holds = False
        self._failing: type[effects.Effect] | None = None
        self._launch: Launch | None = None
        self._process: Process | None = None
        self._steps: dict[str, tuple[Callable[..., None], Callable[[random.Random], Step | None], float]] = {
            "command": (self._command, self._draw_command, 3.0),
            "launch": (self._go_on, self._draw_launch, 8.0),
            "spawn": (self._spawn, self._draw_spawn, 4.0),
            "say": (self._say, self._draw_say, 2.0),
            "end": (self._end, self._draw_end, 2.5),
            "sweep": (self._sweep, lambda rng: ("sweep",), 2.0),
            "pass": (self._pass, self._draw_pass, 4.0),
            "sleep": (self._sleep, lambda rng: ("sleep", round(rng.uniform(0.0, 100.0), 3)), 0.3),
            "clock": (self._set_clock, lambda rng: ("clock", rng.choice((-3600, -60, -1, 1, 60, 3600, 86400))), 0.4),
            "tick": (self._tick, lambda rng: ("tick",), 0.4),
            "hold": (self._hold, lambda rng: ("hold", rng.random() < 0.3), 1.0),
            "outage": (self._set_outage, lambda rng: ("outage", rng.random() < 0.3), 0.6),
            "fail": (self._fail_next, lambda rng: ("fail", rng.choice(list(_FAILING))), 0.3),
            "terms": (self._set_terms, lambda rng: ("terms", rng.randrange(1 << 30)), 0.2),
            "die": (self._die, lambda rng: ("die", round(rng.uniform(0, 60), 3), rng.random() < 0.5), 0.3),
            "retire": (self._retire, lambda rng: ("retire",), 0.3),
            "shutdown": (self._shut_down, lambda rng: ("shutdown", round(rng.uniform(0, 6), 3)), 0.15),
        }
        # Not every story has everything: what is rare beside all else is then frequent.
        weights = [weight * rng.choice((0.0, 0.5, 1.0, 1.0, 2.0)) for _, _, weight in self._steps.values()]
        weights[1], weights[2] = max(2.0, weights[1]), max(1.0, weights[2])
        self._names = list(self._steps)
        self._weights = list(accumulate(weights))
        bot = self._terms.applied(_new_bot())
        self._book = Book(bot)
        later = bot.schedule is not None and rng.random() < 0.5
        event: Event = events.MadeForLater(_EPOCH_US + 30_000_000) if later else events.Made()
        if not later and rng.random() < 0.5:
            event = events.Made((self._book.open(_EPOCH_US, 0), _EPOCH_US))
        self._begin(event)

    # ---- the stage

    def draw(self, rng: random.Random) -> Step:
        while True:
            name = self._names[bisect(self._weights, rng.random() * self._weights[-1])]
            step = self._steps[name][1](rng)
            if step is not None:
                return step

    def play(self, step: Step) -> None:
        self._steps[step[0]][0](*step[1:])
        if not self._holds:
            self._take_all()

    def finish(self) -> None:
        self._holds, self._failing = False, None
        self._set_outage(False)
        if self._rules.shutting_down:
            self._die(0.0, False)
        self._settle()
        self._inbox.append(events.Command(Verb.STOP, 1.0))
        self._settle()
        bot = self._machine.bot
        require(bot.state is State.STOPPED, "a stop ends in stopped, not in", bot.state)
        forgotten = self._process is None or self._process.acknowledged or self._book.excused
        require(forgotten, "a process that is gone is forgotten")
        for row in self._book.runs.values():
            done = row.cause is not None or row.run_id in self._book.excused
            require(done, "each run has an end in the ledger:", row.run_id)
        require(self._book.bot.state is State.STOPPED or self._book.excused, "the ledger has what is")

    def picture(self) -> str:
        attempt, process = self._machine.attempt, self._process
        parts = [f"{self._time:.3f}", str(self._machine.bot.state), f"goal {self._machine.bot.goal}"]
        if attempt is not None:
            parts.append(f"run {attempt.run_id} {attempt.phase}")
        if self._machine.deadline is not None:
            parts.append(f"due {self._machine.deadline:.3f}")
        if self._launch is not None:
            parts.append(f"launch {self._launch.stage}")
        if process is not None and not process.swept:
            parts.append(f"{process.manners} process{'' if process.alive else ' ended'}")
        if self._inbox:
            parts.append(f"inbox {len(self._inbox)}")
        if self._book.outage:
            parts.append("outage")
        return ", ".join(parts)

    def close(self) -> None:
        """Nothing has to be closed."""

    # ---- what feeds the machine

    def _begin(self, birth: Event | None) -> None:
        """Begin a supervisor's machine of the bot as the ledger has it."""
        self._machine = Machine(self._book.bot)
        self._rules = Rules(self._machine)
        if birth is not None:
            self._feed(birth)

    def _take_all(self) -> None:
        while self._inbox:
            self._feed(self._inbox.popleft())
        self._rules.check_world(self._process, self._launch, self._now())

    def _now(self) -> Now:
        return Now(
            time=self._time,
            wall=self._wall,
            terms=self._terms,
            heard=self._heard,
            awake_since=self._awake_since,
            noise=self.fed * 7919 % 2001 / 1000 - 1,
        )

    def _feed(self, event: Event) -> None:
        self.fed += 1
        machine, now = self._machine, self._now()
        was, before, due = machine.bot, machine.attempt, machine.deadline
        ending, waited = before.ending if before else None, machine.waiting
        todo = machine.feed(event, now)
        self._rules.check_event(event, was, before, ending, due, waited, todo, now)
        for effect in todo:
            if type(effect) is self._failing:
                self._fail(effect)
            else:
                self._carry_out(effect)
        self._rules.check_state(now)

    def _fail(self, effect: effects.Effect) -> None:
        self._failing = None
        match effect:
            case effects.Terminate() | effects.Kill() | effects.Dump() if self._process is not None:
                self._process.unsent = True
            case effects.CloseRun(run_id=run_id):
                self._book.excused.add(run_id)
            case effects.Acknowledge() if self._process is not None:
                self._process.acknowledged += 1
            case effects.Record():
                self._book.excused.add(0)
            case _:
                pass
        self._inbox.append(events.EffectFailed(effect, "it fails once"))

    def _carry_out(self, effect: effects.Effect) -> None:
        process = self._process
        match effect:
            case effects.Launch():
                require(self._launch is None, "a bot has one launch")
                require(process is None or process.swept, "a bot has one process")
                self._launch = Launch(effect, run_id=effect.run_id)
            case effects.CancelLaunch(detail=detail):
                self._cancel(detail)
            case effects.Terminate() if process is not None:
                process.sigterms += 1
                if process.manners == "polite":
                    self._end(exit_code=0)
            case effects.Kill() if process is not None:
                process.sigkills += 1
                if process.manners != "immortal":
                    self._end(signal=signal.SIGKILL)
            case effects.Dump() if process is not None:
                process.dumps += 1
            case effects.Acknowledge():
                if process is not None and process.acknowledged == 0 and process.swept:
                    self._over = process
                self._heard = None
            case effects.Record():
                over, self._over = self._over, None
                self._book.take(effect, over)
            case _:
                self._book.take(effect)

    _over: Process | None = None
    """A process that may be forgotten as soon as what follows is durable."""

    # ---- commands, time, the supervisor

    def _draw_command(self, rng: random.Random) -> Step:
        verb = rng.choice((Verb.START, Verb.STOP, Verb.RESTART))
        grace_s = None if verb is Verb.START else rng.choice((None, None, 0.0, round(rng.uniform(0.0, 20.0), 3)))
        return ("command", verb, grace_s)

    def _command(self, verb: Verb, grace_s: float | None) -> None:
        self._inbox.append(events.Command(verb, grace_s))

    def _shut_down(self, grace_s: float) -> None:
        self._inbox.append(events.ShutDown(grace_s))

    def _draw_pass(self, rng: random.Random) -> Step:
        due = self._machine.deadline
        if due is not None and rng.random() < 0.5:
            return ("pass", max(0.0, due - self._time + rng.choice((0.0, 0.0, -0.001, 0.001))))
        return ("pass", round(rng.choice((0.1, 1.0, 10.0, 100.0)) * rng.random(), 3))

    def _pass(self, seconds: float) -> None:
        """Time goes on, and the timer fires when it should."""
        until = self._time + seconds
        for _ in range(_MOST_TICKS):
            due = self._machine.deadline
            if due is None or due > until:
                break
            self._move(max(0.0, due - self._time))
            self._time = max(self._time, due)
            self._inbox.append(_TICK)
            if self._holds:
                break
            self._take_all()
        else:
            raise Broken("the timer fires again and again")
        self._move(max(0.0, until - self._time))

    def _move(self, seconds: float) -> None:
        self._time += seconds
        self._wall += round(seconds * 1e6)

    def _sleep(self, seconds: float) -> None:
        """The supervisor does nothing for a while: its timer fires late."""
        self._move(seconds)
        self._awake_since = self._time
        self._tick()

    def _tick(self) -> None:
        self._inbox.append(_TICK)

    def _set_clock(self, seconds: int) -> None:
        self._wall += seconds * 1_000_000

    def _hold(self, holds: bool) -> None:
        self._holds = holds

    def _set_outage(self, outage: bool) -> None:
        self._book.outage = outage
        self._book.flush()

    def _set_terms(self, seed: int) -> None:
        self._terms = _some_terms(random.Random(seed))
        self._tick()

    def _fail_next(self, name: str) -> None:
        self._failing = _FAILING[name]

    def _retire(self) -> None:
        """A bot with which nothing goes on is forgotten until somebody asks for it."""
        machine = self._machine
        idle = machine.bot.state in SETTLED and machine.deadline is None and not self._inbox and not self._book.waiting
        if idle and not self._rules.shutting_down:
            # What could not be recorded is not in the ledger, and would come back otherwise.
            self._book.bot = machine.bot
            self._begin(None)

    def _die(self, away_s: float, forks: bool) -> None:
        """The supervisor dies, with all that it knew. `forks`: a fork that was ordered still comes to be."""
        self._inbox.clear()
        self._holds = False
        self._book.lose()
        launch, self._launch, self._over, self._failing = self._launch, None, None, None
        if launch is not None and launch.stage == "forking" and forks:
            assert launch.run_id is not None
            self._process = Process(launch.run_id, "polite", self._time)
        self._move(away_s)
        self._awake_since, self._heard = self._time, None
        self._book.outage = False
        self._begin(None)
        self._find()
        self._take_all()

    def _find(self) -> None:
        """The next supervisor finds what the one before has left."""
        book, process = self._book, self._process
        if process is not None and process.acknowledged:
            process = None
        rows = book.open_runs()
        for earlier in rows[:-1]:
            earlier.cause = Cause.LOST
        row = rows[-1] if rows else None
        if row is None or (process is not None and process.run_id != row.run_id):
            # Nobody claims it: it is ended.
            self._process = process = None
        if row is not None and process is not None:
            process.said_ready = True
            if process.end is not None:
                self._inbox.append(events.Ended(row.run_id, process.end))
                if process.swept:
                    self._inbox.append(events.Swept(row.run_id, process.end))
            self._feed(events.FoundAlive(row.as_run(book.bot), self._time - process.born))
        elif row is not None:
            self._feed(events.FoundLost(row.as_run(book.bot), dataclasses.replace(NEVER, ended_at=self._wall)))
        elif not settled_down(book.bot):
            began = [run.started_at for run in book.runs.values()]
            self._feed(events.FoundIdle(max(began, default=book.bot.created_at)))

    # ---- the launch

    def _draw_launch(self, rng: random.Random) -> Step | None:
        if self._launch is None:
            return None
        what = {
            "claiming": ("ok", "ok", "ok", "turn", "turn", "held"),
            "queued": ("ok",),
            "opening": ("ok", "ok", "ok", "ok", "budget", "error"),
            "importing": ("ok", "ok", "ok", "error", "permanent"),
            "forking": ("error", "permanent"),
        }
        if self._launch.stage == "forking" and rng.random() < 0.8:
            return self._draw_spawn(rng)
        return ("launch", rng.choice(what[self._launch.stage]))

    def _go_on(self, how: str) -> None:
        """The launch takes its next step, well or badly."""
        launch = self._launch
        if launch is None or (launch.stage == "forking" and how == "ok"):
            return
        if how in ("error", "permanent") or (how == "held" and launch.stage == "claiming"):
            self._not_spawned(f"{launch.stage} failed", permanent=how != "error")
        elif launch.stage == "claiming" and how == "turn":
            launch.stage = "queued"
            self._inbox.append(events.Queued())
            self._cancel(launch.given_up)
        elif launch.stage in ("claiming", "queued"):
            if launch.stage == "queued":
                self._inbox.append(events.Granted())
            launch.stage = "opening"
        elif launch.stage == "opening":
            self._open(launch, budget=how == "budget")
        elif launch.stage == "importing":
            self._inbox.append(events.Imported())
            launch.stage = "forking"

    def _open(self, launch: Launch, *, budget: bool) -> None:
        if launch.run_id is None and self._book.outage:
            self._not_spawned("locked", wait_for=WaitingFor.LEDGER)
        elif launch.run_id is None and budget:
            self._not_spawned("spent", wait_for=WaitingFor.BUDGET, until=self._wall + 20_000_000)
        else:
            if launch.run_id is None:
                launch.run_id = self._book.open(launch.effect.began, self._machine.bot.restarts)
            self._inbox.append(events.Opened(launch.run_id))
            launch.stage = "importing"
            self._cancel(launch.given_up)

    def _cancel(self, detail: str | None) -> None:
        launch = self._launch
        if launch is not None and detail is not None:
            launch.given_up = detail
            if launch.stage in ("queued", "importing"):
                self._not_spawned(detail)

    def _not_spawned(
        self, detail: str, *, permanent: bool = False, wait_for: WaitingFor | None = None, until: int | None = None
    ) -> None:
        self._launch = None
        self._inbox.append(events.NotSpawned(detail=detail, permanent=permanent, wait_for=wait_for, until=until))

    def _draw_spawn(self, rng: random.Random) -> Step | None:
        if self._launch is None or self._launch.stage != "forking":
            return None
        return ("spawn", rng.choice(_MANNERS), rng.choice((0, 0, 0, 2)), rng.random() < 0.8)

    def _spawn(self, manners: str, descendants: int, early: bool) -> None:
        """The process is made. `early`: what it says first comes before the launch has told of it."""
        launch = self._launch
        if launch is None or launch.stage != "forking":
            return
        assert launch.run_id is not None
        self._launch = None
        self._process = Process(launch.run_id, manners, self._time, descendants)
        self._heard = None
        if self._terms.ready == "start" and early:
            self._say("ready")
        self._inbox.append(events.Spawned())
        if self._terms.ready == "start" and not early:
            self._say("ready")

    # ---- the process

    def _draw_say(self, rng: random.Random) -> Step:
        return ("say", rng.choice(("ready", "ready", "well", "late")))

    def _say(self, what: str) -> None:
        """The process says something; "late": something is said of earlier runs."""
        process = self._process
        if what == "late":
            now = (process.run_id if process else None, self._launch.run_id if self._launch else None)
            for run_id in [run_id for run_id in self._book.runs if run_id not in now][-2:]:
                self._inbox.append(events.Ready(run_id))
                self._inbox.append(events.Ended(run_id, NEVER))
                self._inbox.append(events.Swept(run_id, NEVER))
        elif process is not None and process.alive and what == "ready":
            process.said_ready = True
            self._inbox.append(events.Ready(process.run_id))
        elif process is not None and process.alive:
            self._heard = self._time

    def _draw_end(self, rng: random.Random) -> Step | None:
        process = self._process
        if process is None or not process.alive:
            return None
        if process.sigterms and process.manners == "slow":
            return ("end", 0)
        return ("end", rng.choice((1, rng.randrange(len(_ENDS)))))

    def _end(self, which: int = -1, *, exit_code: int | None = None, signal: int | None = None) -> None:
        process = self._process
        if process is None or not process.alive:
            return
        how = {"exit_code": exit_code, "signal": signal} if which < 0 else _ENDS[which]
        nothing = {"exit_code": None, "signal": None, "cpu_seconds": None, "max_rss_bytes": None}
        process.end = Exit(**{**nothing, **how, "ended_at": self._wall, "swept": not process.descendants})  # type: ignore[arg-type]
        self._inbox.append(events.Ended(process.run_id, process.end))
        if process.end.swept:
            process.swept = True
            self._inbox.append(events.Swept(process.run_id, process.end))

    def _sweep(self) -> None:
        """Nothing is left of the process."""
        process = self._process
        if process is None or process.end is None or process.swept:
            return
        process.swept = True
        process.end = dataclasses.replace(process.end, swept=True, descendants_killed=process.descendants)
        self._inbox.append(events.Swept(process.run_id, process.end))

    # ---- the end of the story

    def _settle(self) -> None:
        """Let everything go on until nothing does: launches succeed, descendants end, nothing is immortal."""
        for _ in range(_GOING_ON):
            self._take_all()
            process, machine = self._process, self._machine
            if process is not None and not process.swept and process.manners == "immortal":
                process.manners = "deaf"
            if self._launch is not None:
                if self._launch.stage == "forking":
                    self._spawn("polite", 0, True)
                else:
                    self._go_on("ok")
            elif process is not None and not process.alive and not process.swept:
                self._sweep()
            elif process is not None and process.alive and process.sigterms and process.manners == "slow":
                self._end(exit_code=0)
            elif machine.bot.state is State.STARTING and process is not None and process.alive:
                self._say("ready")
            elif machine.bot.state in (State.STARTING, State.STOPPING, State.KILLING) and machine.deadline is not None:
                self._pass(max(0.0, machine.deadline - self._time))
            elif not self._inbox:
                return
        raise Broken(f"what goes on comes to an end, but not here: {self.picture()}")


def _some_terms(rng: random.Random) -> Terms:
    return dataclasses.replace(
        _TERMS,
        restart=rng.choice(_POLICIES),
        grace_s=rng.choice((0.0, 0.1, 8.0, 20.0)),
        schedule=rng.choice(_SCHEDULES) if rng.random() < 0.2 else None,
        ready=rng.choice(("start", "start", "notify", 2.0)),
        heartbeat_s=rng.choice((None, None, 3.0)),
    )


def _new_bot() -> Bot:
    return Bot(
        bot_id=1,
        kind="any",
        params={},
        name=None,
        labels={},
        restart=RestartPolicy(),
        grace_s=10.0,
        goal=Goal.UP,
        state=State.STARTING,
        reason="",
        restarts=0,
        created_at=_EPOCH_US,
    )
