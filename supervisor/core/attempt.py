"""One run of a bot as its machine sees it, from the decision to start to the judgement of its end; and what it waits
for without one."""

from __future__ import annotations

import dataclasses
import enum
from collections import deque
from dataclasses import dataclass

from supervisor.core import schedules
from supervisor.core.events import Now
from supervisor.core.model import Cause, Schedule, WaitingFor
from supervisor.core.terms import Terms

KILL_AGAIN_S = 5.0
"""Interval between SIGKILLs to a process that survives them."""

LONGEST_WAIT_S = 60.0
"""Maximum time between two looks at the wall clock while a time of day is awaited."""


class Phase(enum.StrEnum):
    """How far an attempt has come."""

    QUEUED = "queued"
    OPENING = "opening"
    IMPORTING = "importing"
    FORKING = "forking"
    ALIVE = "alive"
    DUMPING = "dumping"
    SWEEPING = "sweeping"


@dataclass(slots=True)
class Ending:
    """How a run is being ended: why, since when, with which grace, and until when SIGTERM is enough.

    `again`: somebody asked for another run after it, whatever the policy says.
    """

    asked: Cause
    since: float
    grace_s: float
    kill_at: float
    again: bool
    dump_until: float | None = None
    killed_at: float | None = None

    @property
    def deadline(self) -> float:
        """When the next signal is due."""
        if self.killed_at is not None:
            return self.killed_at + KILL_AGAIN_S
        return self.kill_at if self.dump_until is None else min(self.dump_until, self.kill_at)

    def hurry(self, grace_s: float | None, now: float) -> None:
        """Take a later stop into account, which may be less patient than the one before, never more."""
        if grace_s is not None:
            self.kill_at = min(self.kill_at, now + grace_s)
            self.grace_s = min(self.grace_s, grace_s)


@dataclass(frozen=True, slots=True)
class Appointment:
    """A time of day, and when to look at the clock for it."""

    due: int
    look_at: float

    @classmethod
    def at(cls, due: int, now: Now) -> Appointment:
        return cls(due, now.time + min(max(0.0, (due - now.wall) / 1e6), LONGEST_WAIT_S))


@dataclass(slots=True)
class Attempt:
    """One run, from the decision to start to the judgement of its end.

    `terms`: those of its start; settings that change later are for the next. `began`: when it was decided, in
    microseconds since the epoch. `start_by`: when it must be ready; None while it waits for its turn. `spawned`: since
    when it has a process. `heard`: when it was last heard. `again`: when its schedule begins the next one, if that ends
    this one.
    """

    terms: Terms
    began: int
    start_by: float | None
    phase: Phase = Phase.OPENING
    run_id: int | None = None
    spawned: float | None = None
    ready_at: int | None = None
    heard: float = 0.0
    again: Appointment | None = None
    ending: Ending | None = None

    @property
    def alive_at(self) -> float | None:
        """When a process that only has to live is ready."""
        if self.phase is not Phase.ALIVE or not isinstance(self.terms.ready, float):
            return None
        assert self.spawned is not None
        return self.spawned + self.terms.ready

    @property
    def deadline(self) -> float | None:
        """When something is due of it; None while nothing is."""
        if self.ending is not None:
            return self.ending.deadline
        due: list[float | None]
        if self.ready_at is None:
            # Also while it is swept: others wait for its turn.
            due = [self.start_by, self.alive_at]
        elif self.phase is Phase.SWEEPING:
            due = []
        else:
            heartbeat_s = self.terms.heartbeat_s
            heartbeat_due = None if heartbeat_s is None else self.heard + heartbeat_s
            due = [heartbeat_due, None if self.again is None else self.again.look_at]
        return min((at for at in due if at is not None), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What a bot without an attempt waits for.

    `due`: when it is started, in microseconds since the epoch. `look_at`: when to see to it, on the monotonic clock.
    `by_clock`: it is a time of day, and not a delay.
    """

    why: WaitingFor
    due: int
    look_at: float
    by_clock: bool = False

    def looked_at(self, now: Now) -> Waiting:
        """The time of day has not come yet: when to look again."""
        return dataclasses.replace(self, look_at=Appointment.at(self.due, now).look_at)

    def under(self, schedule: Schedule | None, now: Now) -> Waiting:
        """The same, by a schedule that may be another than before. Without one, or if it is due, it stays as it is."""
        due = None if schedule is None or self.due <= now.wall else schedules.next_after(schedule, now.wall)
        return self if due is None else dataclasses.replace(self, due=due).looked_at(now)


class RestartWindow:
    """The restarts of a bot by itself, as far as its policy still counts them."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def count(self, now: float, within_s: float) -> int:
        """How many there were within this time. A run that was longer leaves none: each came before it."""
        while self._times and self._times[0] < now - within_s:
            self._times.popleft()
        return len(self._times)

    def add(self, now: float) -> None:
        self._times.append(now)

    def clear(self) -> None:
        """Somebody starts the bot by hand and has seen what was wrong: the count begins again."""
        self._times.clear()
