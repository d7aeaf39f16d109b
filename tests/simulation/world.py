"""What is around the machine of one bot, as plain values: its process, its launch, its rows in the ledger."""

from __future__ import annotations

import dataclasses
from collections import deque
from dataclasses import dataclass, field

from supervisor.core import effects
from supervisor.core.model import Bot, Cause, Exit, Goal, Run, State

NEVER = Exit(exit_code=None, signal=None, ended_at=0, cpu_seconds=None, max_rss_bytes=None)
"""How a process ended of which nobody saw the end."""


@dataclass(slots=True)
class Process:
    """A process of the bot, as the kernel knows it.

    `manners`: "polite" ends at SIGTERM, "slow" some time after it, "deaf" at SIGKILL alone, "immortal" at neither.
    """

    run_id: int
    manners: str
    born: float
    descendants: int = 0
    said_ready: bool = False
    sigterms: int = 0
    sigkills: int = 0
    dumps: int = 0
    end: Exit | None = None
    swept: bool = False
    acknowledged: int = 0
    unsent: bool = False
    """A signal for it was lost, which is not the machine's fault."""

    @property
    def alive(self) -> bool:
        return self.end is None


@dataclass(slots=True)
class Launch:
    """A start that is under way. `stage` is what it does now."""

    effect: effects.Launch
    stage: str = "claiming"
    run_id: int | None = None
    given_up: str | None = None


@dataclass(slots=True)
class Row:
    """A run in the ledger."""

    run_id: int
    started_at: int
    ready_at: int | None = None
    cause: Cause | None = None
    swept: int = 0

    def as_run(self, bot: Bot) -> Run:
        return Run(
            run_id=self.run_id,
            bot_id=bot.bot_id,
            kind=bot.kind,
            params=bot.params,
            identity=None,
            started_at=self.started_at,
            ready_at=self.ready_at,
            ended_at=None,
            exit_code=None,
            signal=None,
            cause=None,
            detail="",
            cpu_seconds=None,
            max_rss_bytes=None,
            descendants_killed=0,
            log_start=0,
            log_end=None,
        )


@dataclass(slots=True)
class Book:
    """The ledger: what is durable, and what waits to be so. Everything is written in the order in which it came.

    An `Acknowledge` takes effect once the record after it is durable.
    """

    bot: Bot
    runs: dict[int, Row] = field(default_factory=dict)
    outage: bool = False
    waiting: deque[tuple[effects.Effect, Process | None]] = field(default_factory=deque)
    excused: set[int] = field(default_factory=set)
    """Runs whose end could not even be given to the ledger."""

    def take(self, effect: effects.Effect, over: Process | None = None) -> None:
        """Write this as soon as it is possible. `over`: the process that may be forgotten then."""
        self.waiting.append((effect, over))
        self.flush()

    def flush(self) -> None:
        """Make everything durable that can be."""
        while self.waiting and not self.outage:
            effect, over = self.waiting.popleft()
            self._write(effect)
            if over is not None:
                over.acknowledged += 1

    def open(self, began: int, restarts: int) -> int:
        """A new run, durable at once."""
        run_id = len(self.runs) + 1
        self.runs[run_id] = Row(run_id, began)
        self.bot = dataclasses.replace(self.bot, restarts=restarts)
        return run_id

    def open_runs(self) -> list[Row]:
        return [row for row in self.runs.values() if row.cause is None]

    def lose(self) -> None:
        """The supervisor dies: what waited is lost."""
        self.waiting.clear()

    def _write(self, effect: effects.Effect) -> None:
        match effect:
            case effects.Record(bot=bot):
                restarts = self.bot.restarts
                self.bot = dataclasses.replace(bot, restarts=restarts)
            case effects.MarkReady(run_id=run_id, at=at):
                self.runs[run_id].ready_at = at
            case effects.CloseRun(run_id=run_id, cause=cause):
                self.runs[run_id].cause = cause
            case effects.SweepRun(run_id=run_id, killed=killed):
                self.runs[run_id].swept = killed
            case _:
                pass


def settled_down(bot: Bot) -> bool:
    """Whether the next supervisor leaves such a bot alone."""
    down = bot.goal is Goal.DOWN and bot.state in (State.STOPPED, State.EXITED, State.FAILED)
    return down or (bot.goal is Goal.UP and bot.state is State.EXITED)
