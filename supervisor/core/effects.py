"""What the machine of a bot wants done. `fleet.actor` does it; what fails comes back as `events.EffectFailed`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from supervisor.core.model import Bot, Cause, Exit


@dataclass(frozen=True, slots=True)
class Launch:
    """Make a process. `run_id`: its run, where the row is there already; `again`: this is a restart."""

    began: int
    run_id: int | None
    again: bool


@dataclass(frozen=True, slots=True)
class CancelLaunch:
    """Make no process, if there is still time; `detail` says why there is none."""

    detail: str


@dataclass(frozen=True, slots=True)
class Terminate:
    """Send SIGTERM."""


@dataclass(frozen=True, slots=True)
class Kill:
    """Send SIGKILL."""


@dataclass(frozen=True, slots=True)
class Dump:
    """Ask the process for its stacks."""


@dataclass(frozen=True, slots=True)
class MarkReady:
    """Write since when the run is ready, after so many seconds; None for one that was found ready."""

    run_id: int
    at: int
    latency_s: float | None


@dataclass(frozen=True, slots=True)
class CloseRun:
    """Write how the run ended."""

    run_id: int
    exit_: Exit
    cause: Cause
    detail: str


@dataclass(frozen=True, slots=True)
class SweepRun:
    """Write how many descendants had to be killed after the run."""

    run_id: int
    killed: int


@dataclass(frozen=True, slots=True)
class SetTerms:
    """Write the terms that hold from this attempt on."""

    bot: Bot


@dataclass(frozen=True, slots=True)
class Record:
    """Write the bot's new state, as an event."""

    bot: Bot
    run_id: int | None


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """The attempt is over. Once what comes next is durable, the engine may forget its process.

    `took_s`: from the moment at which it was to end; None where it ended by itself.
    """

    took_s: float | None


@dataclass(frozen=True, slots=True)
class Release:
    """Let go of everything that the bot holds and others may wait for."""


Effect: TypeAlias = (
    Launch
    | CancelLaunch
    | Terminate
    | Kill
    | Dump
    | MarkReady
    | CloseRun
    | SweepRun
    | SetTerms
    | Record
    | Acknowledge
    | Release
)
