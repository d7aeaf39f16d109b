"""What calls are answered with. These classes are what the OpenAPI document shows, and are written as they are:
slotted dataclasses that pydantic serializes without validating them again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, TypeAdapter, WithJsonSchema
from starlette.responses import Response

from supervisor.core import model, timestamps
from supervisor.store import secrets

T = TypeVar("T")

Time = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
StillAliveOrTime = Annotated[
    str, WithJsonSchema({"anyOf": [{"const": "still alive"}, {"type": "string", "format": "date-time"}]})
]


def _time(at: int | None) -> str | None:
    return None if at is None else timestamps.rfc3339(at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    bot_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    bot_id: int
    state: model.State


@dataclass(frozen=True, slots=True, kw_only=True)
class LastExit:
    """The end of a bot's latest run."""

    exit_code: int | None
    signal: str | None
    cause: model.Cause
    at: Time


@dataclass(slots=True, kw_only=True)
class Bot:
    """What is wanted of a bot, what is, and why. With no process, the fields of a process are null."""

    bot_id: int
    name: str | None
    kind: str
    params: Mapping[str, Any]
    labels: Mapping[str, str]
    restart: model.RestartPolicy
    grace_s: float
    goal: model.Goal
    state: model.State
    reason: str
    pid: int | None
    run_id: int | None
    started_at: Time | None
    ready_at: Time | None
    uptime_s: float | None
    restarts: int
    next_start_at: Time | None
    cpu_percent: float | None
    rss_bytes: int | None
    threads: int | None
    descendants: int | None
    heartbeat_age_s: float | None
    status: str | None
    last_exit: LastExit | None
    limits: model.Limits
    schedule: model.Schedule | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The bots that were made, lowest id first."""

    bots: Sequence[Bot]


@dataclass(slots=True, kw_only=True)
class Run:
    """The life of one process of a bot. Open while `cause` is null."""

    run_id: int
    bot_id: int
    kind: str
    params: Mapping[str, Any]
    pid: int | None
    started_at: Time
    ready_at: Time | None
    ended_at: Time | None
    exit_code: int | None
    signal: str | None
    cause: model.Cause | None
    detail: str
    cpu_seconds: float | None
    max_rss_bytes: int | None
    descendants_killed: int
    log_bytes: int | None
    last_lines: Sequence[str]
    raised: model.Raised | None
    fingerprint: str | None


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
    kinds: Sequence[model.KindView]


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What became of a command, for each bot."""

    results: Sequence[model.Outcome]


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
KIND, KINDS, RELOADED = TypeAdapter(model.KindView), TypeAdapter(Kinds), TypeAdapter(model.Reloaded)
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


def _last_exit(last: model.LastExit | None) -> LastExit | None:
    if last is None:
        return None
    return LastExit(exit_code=last.exit_code, signal=last.signal, cause=last.cause, at=timestamps.rfc3339(last.at))


def bot(view: model.BotView) -> Bot:
    """A bot as callers see it."""
    return Bot(
        bot_id=view.bot_id,
        name=view.name,
        kind=view.kind,
        params=secrets.shown(view.params),
        labels=view.labels,
        restart=view.restart,
        grace_s=view.grace_s,
        goal=view.goal,
        state=view.state,
        reason=view.reason,
        pid=view.pid,
        run_id=view.run_id,
        started_at=_time(view.started_at),
        ready_at=_time(view.ready_at),
        uptime_s=view.uptime_s,
        restarts=view.restarts,
        next_start_at=_time(view.next_start_at),
        cpu_percent=view.cpu_percent,
        rss_bytes=view.rss_bytes,
        threads=view.threads,
        descendants=view.descendants,
        heartbeat_age_s=view.heartbeat_age_s,
        status=view.status,
        last_exit=_last_exit(view.last_exit),
        limits=view.limits,
        schedule=view.schedule,
    )


def run(run: model.Run) -> Run:
    """A run as callers see it."""
    return Run(
        run_id=run.run_id,
        bot_id=run.bot_id,
        kind=run.kind,
        params=secrets.shown(run.params),
        pid=run.identity.pid if run.identity else None,
        started_at=timestamps.rfc3339(run.started_at),
        ready_at=_time(run.ready_at),
        ended_at=_time(run.ended_at),
        exit_code=run.exit_code,
        signal=run.signal,
        cause=run.cause,
        detail=run.detail,
        cpu_seconds=run.cpu_seconds,
        max_rss_bytes=run.max_rss_bytes,
        descendants_killed=run.descendants_killed,
        log_bytes=None if run.log_end is None else run.log_end - run.log_start,
        last_lines=run.last_lines,
        raised=run.raised,
        fingerprint=run.fingerprint,
    )


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
