"""Answers of calls. These classes are what the OpenAPI document shows, and are written as they are: slotted
dataclasses that pydantic serializes without validating them again. A bot and a run have the fields of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, TypeAdapter, WithJsonSchema
from starlette.responses import Response

from supervisor.api.projection import Time, Values, fields, has
from supervisor.core import model, timestamps, views

T = TypeVar("T")

StillAliveOrTime = Annotated[
    str, WithJsonSchema({"anyOf": [{"const": "still alive"}, {"type": "string", "format": "date-time"}]})
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    bot_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    bot_id: int
    state: model.State


_LAST_EXIT = fields(model.LastExit)


@has(_LAST_EXIT)
class LastExit:
    """The end of a bot's latest run."""


_BOT = fields(model.Bot, at="bot", without=("unchecked",), LastExit=LastExit)
_BOT |= fields(views.BotView, without=("bot", "live"))
_LIVE = fields(views.LiveView, at="live", nullable=True)


@has(_BOT | _LIVE)
class Bot:
    """What is wanted of a bot, what is, and why. With no process, the fields of a process are null."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The bots that were made, lowest id first."""

    bots: Sequence[Bot]


_RUN = fields(model.Run, without=("identity", "log_start", "log_end"))


@has(_RUN)
class Run:
    """The life of one process of a bot. Open while `cause` is null."""

    pid: int | None
    log_bytes: int | None


@dataclass(slots=True, kw_only=True)
class PastRun:
    """A run in the short form of GET /bots_history."""

    start_number: int | None
    start: Time
    end: StillAliveOrTime
    bot_id: int
    run_id: int
    kind: str
    pid: int | None
    exit_code: int | None
    signal: str | None
    cause: model.Cause | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    runs: Sequence[Run]
    next_cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """The runs of a kind that failed in the same way. `type` and `message` are null where no exception is known.

    All but `count` and `first_at` is of the latest of them, the run `run_id`.
    """

    kind: str
    fingerprint: str
    cause: model.Cause
    type: str | None
    message: str | None
    detail: str
    count: int
    first_at: Time
    last_at: Time
    run_id: int
    bot_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Crashes:
    crashes: Sequence[Crash]
    next_cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One change of one bot's state."""

    event_id: int
    at: Time
    bot_id: int
    run_id: int | None
    kind: str
    name: str | None
    state: model.State
    goal: model.Goal
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kinds:
    kinds: Sequence[views.KindView]


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What became of a command, for each bot."""

    results: Sequence[views.Outcome]


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """`checks` are there with ?verbose: null is good, a sentence is not."""

    status: str
    checks: Mapping[str, str | None] | None = None


class Problem(BaseModel):
    """Why a call was not done (RFC 9457). Machines look at `type`, people read `detail`."""

    type: str
    title: str
    status: int
    detail: str
    bot_id: int | None = None
    state: model.State | None = None
    errors: list[dict[str, Any]] | None = None
    checks: dict[str, str | None] | None = None


BOT, BOTS, BATCH = TypeAdapter(Bot), TypeAdapter(list[Bot]), TypeAdapter(Batch)
RUN, RUNS, HISTORY = TypeAdapter(Run), TypeAdapter(Runs), TypeAdapter(list[PastRun])
CRASHES, EVENT = TypeAdapter(Crashes), TypeAdapter(Event)
KIND, KINDS, RELOADED = TypeAdapter(views.KindView), TypeAdapter(Kinds), TypeAdapter(views.Reloaded)
RESULTS = TypeAdapter(Results)
STARTED, STOPPED, HEALTH = TypeAdapter(Started), TypeAdapter(Stopped), TypeAdapter(Health)


def reply(adapter: TypeAdapter[T], value: T, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The value as JSON."""
    return Response(adapter.dump_json(value), status, headers, "application/json")


def event(entry: model.Entry) -> Event:
    """As the feed tells it."""
    told = entry.event
    return Event(
        event_id=told.event_id,
        at=timestamps.rfc3339(told.at),
        bot_id=told.bot_id,
        run_id=told.run_id,
        kind=entry.kind,
        name=entry.name,
        state=told.state,
        goal=told.goal,
        reason=told.reason,
    )


# What mypy does not know: that these classes have fields.
_new_last_exit: Callable[..., LastExit] = LastExit
_new_bot: Callable[..., Bot] = Bot
_new_run: Callable[..., Run] = Run

_last_exit = Values(_LAST_EXIT)
_conversions = {LastExit: lambda last: _new_last_exit(*_last_exit(last))}
_settled_bot, _live_bot = Values(_BOT, _conversions), Values(_BOT | _LIVE, _conversions)
_no_process = (None,) * len(_LIVE)
_run = Values(_RUN)


def bot(view: views.BotView) -> Bot:
    """A bot as callers see it."""
    return _new_bot(*_live_bot(view)) if view.live else _new_bot(*_settled_bot(view), *_no_process)


def run(run: model.Run) -> Run:
    """A run as callers see it."""
    pid = run.identity.pid if run.identity else None
    log_bytes = None if run.log_end is None else run.log_end - run.log_start
    return _new_run(*_run(run), pid, log_bytes)


def crash(group: model.CrashGroup) -> Crash:
    """A group of failed runs as callers see it."""
    raised = group.raised
    return Crash(
        kind=group.kind,
        fingerprint=group.fingerprint,
        cause=group.cause,
        type=None if raised is None else raised.type,
        message=None if raised is None else raised.message,
        # The stacks that may follow are with the run.
        detail=group.detail.partition("\n")[0],
        count=group.count,
        first_at=timestamps.rfc3339(group.first_at),
        last_at=timestamps.rfc3339(group.last_at),
        run_id=group.run_id,
        bot_id=group.bot_id,
    )


def past_run(run: model.Run) -> PastRun:
    """A run in the short form."""
    number = run.params.get("start_number")
    return PastRun(
        start_number=number if isinstance(number, int) else None,
        start=timestamps.rfc3339(run.started_at),
        end="still alive" if run.ended_at is None else timestamps.rfc3339(run.ended_at),
        bot_id=run.bot_id,
        run_id=run.run_id,
        kind=run.kind,
        pid=run.identity.pid if run.identity else None,
        exit_code=run.exit_code,
        signal=run.signal,
        cause=run.cause,
    )
