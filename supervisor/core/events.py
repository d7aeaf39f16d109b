"""What the machine of a bot is told: each event is a value, and comes with what is known of the world, `Now`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from supervisor.core.effects import Effect
from supervisor.core.model import Exit, Params, Run, WaitingFor
from supervisor.core.table import Step
from supervisor.core.terms import Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """What the machine knows of the world while it takes one event.

    `time` is monotonic, in seconds; `wall` the wall clock in microseconds since the epoch. `heard`: when the process
    last said that it is well; `awake_since`: since when the supervisor could have heard it; both on the monotonic
    clock. `noise`: a random number in [-1, 1].
    """

    time: float
    wall: int
    terms: Terms
    heard: float | None = None
    awake_since: float = float("-inf")
    noise: float = 0.0


@dataclass(frozen=True, slots=True)
class Made:
    """A new bot is to run.

    `run`: the id and start of its first run, where the ledger has it, and with it this event, already.
    """

    run: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class MadeForLater:
    """A new bot is to run at the first time of its schedule, in microseconds since the epoch."""

    due: int


@dataclass(frozen=True, slots=True)
class FoundAlive:
    """An earlier supervisor's run has a process, which is `age_s` seconds old."""

    run: Run
    age_s: float


@dataclass(frozen=True, slots=True)
class FoundLost:
    """An earlier supervisor's run has no process, and nobody saw how it ended."""

    run: Run
    exit_: Exit


@dataclass(frozen=True, slots=True)
class FoundIdle:
    """An earlier supervisor left the bot without a run. `since`: when its latest began, or it was made."""

    since: int


@dataclass(frozen=True, slots=True)
class Command:
    """Somebody asked for a `START`, `STOP` or `RESTART`; `grace_s` overrides the bot's, for this time."""

    verb: Step
    grace_s: float | None = None


@dataclass(frozen=True, slots=True)
class ShutDown:
    """The supervisor ends: the process does too, but the goal stays."""

    grace_s: float


@dataclass(frozen=True, slots=True)
class Queued:
    """The start waits for its turn: its timeout has not begun."""


@dataclass(frozen=True, slots=True)
class Granted:
    """It is the bot's turn to start."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The row of the run is in the ledger; the kind is imported next, if it is not."""

    run_id: int


@dataclass(frozen=True, slots=True)
class Checked:
    """The bot's parameters were checked, now that its kind can be imported. These are in the ledger."""

    params: Params


@dataclass(frozen=True, slots=True)
class Imported:
    """The kind is imported; the process is made next."""


@dataclass(frozen=True, slots=True)
class Spawned:
    """The process is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotSpawned:
    """No process could be made.

    `wait_for`: the ledger or the budget, where that is all that is missing; with `until`, in microseconds since the
    epoch, if it is known. `permanent`: trying again will not help.
    """

    detail: str
    permanent: bool = False
    wait_for: WaitingFor | None = None
    until: int | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """The process said that it is ready."""

    run_id: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The process has ended."""

    run_id: int
    exit_: Exit


@dataclass(frozen=True, slots=True)
class Swept:
    """Nothing that the process had started is left either."""

    run_id: int
    exit_: Exit


@dataclass(frozen=True, slots=True)
class Tick:
    """The deadline may have passed."""


@dataclass(frozen=True, slots=True)
class TermsChanged:
    """The settings may say something else of the bot's kind now. A bot that waits by its schedule looks again."""


@dataclass(frozen=True, slots=True)
class EffectFailed:
    """An effect could not be carried out."""

    effect: Effect
    detail: str


Event: TypeAlias = (
    Made
    | MadeForLater
    | FoundAlive
    | FoundLost
    | FoundIdle
    | Command
    | ShutDown
    | Queued
    | Granted
    | Opened
    | Checked
    | Imported
    | Spawned
    | NotSpawned
    | Ready
    | Ended
    | Swept
    | Tick
    | TermsChanged
    | EffectFailed
)
