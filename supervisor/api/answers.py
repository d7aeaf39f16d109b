"""What calls are answered with. These classes are what the OpenAPI document shows, and are written as they are:
slotted dataclasses that pydantic serializes without validating them again.

A bot, a run and its end are not spelled again here: `_has` makes their classes of the fields that `model` gives
them, with a time as RFC 3339 and without secrets.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, GetCoreSchemaHandler, TypeAdapter, WithJsonSchema
from pydantic_core import CoreSchema, core_schema
from starlette.responses import Response

from supervisor.core import model, timestamps
from supervisor.store import secrets

T = TypeVar("T")

Time = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
StillAliveOrTime = Annotated[
    str, WithJsonSchema({"anyOf": [{"const": "still alive"}, {"type": "string", "format": "date-time"}]})
]


class _PlainText:
    """Writes a word of an enumeration as the string that it is: pydantic asks each for its `value`, which took an
    eighth of the time of a long list."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return {**handler(source), "serialization": core_schema.simple_ser_schema("str")}


_WORDS = {
    **vars(model),
    **{cls.__name__: Annotated[cls, _PlainText()] for cls in (model.State, model.Goal, model.Cause, model.WaitingFor)},
    "Timestamp": Time,
}
"""What the words in the model's annotations mean to callers."""

_CONVERSIONS: dict[Any, Callable[[Any], Any]] = {Time: timestamps.rfc3339, model.Params: secrets.shown}
"""What a value becomes, by the type that callers see."""


def _hints(value: type[Any], **words: Any) -> dict[str, Any]:
    """The fields of a value, with the types that callers see."""
    return typing.get_type_hints(value, {**_WORDS, **words}, include_extras=True)


def _has(hints: Mapping[str, Any]) -> Callable[[type[T]], type[T]]:
    """A decorator: the class gets these fields, followed by its own."""

    def fill(cls: type[T]) -> type[T]:
        fields = {**hints, **typing.get_type_hints(cls)}
        namespace = {"__doc__": cls.__doc__, "__module__": cls.__module__}
        return dataclasses.make_dataclass(cls.__name__, fields.items(), namespace=namespace, slots=True)

    return fill


class _Reader:
    """Reads fields of an answer from where they are in a value: `paths`, such as "live.pid", in their order."""

    def __init__(self, hints: Mapping[str, Any], paths: Iterable[str] = ()) -> None:
        self._read = attrgetter(*(paths or hints))
        self._conversions = [
            (position, convert)
            for position, hint in enumerate(hints.values())
            for shown, convert in _CONVERSIONS.items()
            if shown in (hint, *typing.get_args(hint))
        ]

    def __call__(self, value: Any) -> list[Any]:
        values = list(self._read(value))
        for position, convert in self._conversions:
            if (given := values[position]) is not None:
                values[position] = convert(given)
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    bot_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    bot_id: int
    state: model.State


_LAST_EXIT = _hints(model.LastExit)


@_has(_LAST_EXIT)
class LastExit:
    """The end of a bot's latest run."""


_BOT = _hints(model.Bot, LastExit=LastExit)
_VIEW = {name: hint for name, hint in _hints(model.BotView).items() if name not in ("bot", "live")}
_LIVE = {name: hint | None for name, hint in _hints(model.LiveView).items()}


@_has({**_BOT, **_VIEW, **_LIVE})
class Bot:
    """What is wanted of a bot, what is, and why. With no process, the fields of a process are null."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The bots that were made, lowest id first."""

    bots: Sequence[Bot]


_RUN = {name: hint for name, hint in _hints(model.Run).items() if name not in ("identity", "log_start", "log_end")}


@_has(_RUN)
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


def _made(cls: Callable[..., T], reader: _Reader) -> Callable[[Any], T]:
    return lambda value: cls(*reader(value))


_CONVERSIONS[LastExit] = _made(LastExit, _Reader(_LAST_EXIT))

_PATHS = {**{name: f"bot.{name}" for name in _BOT}, **{name: name for name in _VIEW}}
_settled_bot = _Reader({**_BOT, **_VIEW}, _PATHS.values())
_live_bot = _Reader({**_BOT, **_VIEW, **_LIVE}, [*_PATHS.values(), *(f"live.{name}" for name in _LIVE)])
_NO_PROCESS = (None,) * len(_LIVE)
_new_bot: Callable[..., Bot] = Bot

_run = _Reader(_RUN)
_new_run: Callable[..., Run] = Run


def bot(view: model.BotView) -> Bot:
    """A bot as callers see it."""
    return _new_bot(*_live_bot(view)) if view.live else _new_bot(*_settled_bot(view), *_NO_PROCESS)


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
