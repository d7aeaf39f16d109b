"""What calls return. They are read leniently: what a newer supervisor adds is ignored, what it left out is None.

Times are aware, in UTC. States, goals and causes are strings, for a newer supervisor may have others.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class LastExit:
    """The end of a bot's latest run."""

    exit_code: int | None
    signal: str | None
    cause: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Bot:
    """What is wanted of a bot, what is, and why. With no process, the fields of a process are None."""

    bot_id: int
    name: str | None
    kind: str
    params: Mapping[str, Any]
    labels: Mapping[str, str]
    goal: str
    state: str
    reason: str
    restarts: int
    created_at: datetime
    last_exit: LastExit | None
    restart: Mapping[str, Any]
    grace_s: float
    limits: Mapping[str, Any]
    schedule: Mapping[str, Any] | None
    overrides: Mapping[str, Any]
    waiting_for: str | None
    next_start_at: datetime | None
    pid: int | None
    run_id: int | None
    started_at: datetime | None
    ready_at: datetime | None
    uptime_s: float | None
    cpu_percent: float | None
    rss_bytes: int | None
    threads: int | None
    descendants: int | None
    heartbeat_age_s: float | None
    status: str | None
    frozen: bool | None
    node: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """The Python exception that ended a run."""

    type: str
    message: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The life of one process of a bot. Open while `cause` is None."""

    run_id: int
    bot_id: int
    kind: str
    params: Mapping[str, Any]
    started_at: datetime
    ready_at: datetime | None
    ended_at: datetime | None
    exit_code: int | None
    signal: str | None
    cause: str | None
    detail: str
    cpu_seconds: float | None
    max_rss_bytes: int | None
    descendants_killed: int
    last_lines: Sequence[str]
    raised: Raised | None
    fingerprint: str | None
    node: str | None
    pid: int | None
    log_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRun:
    """A run in the short form of the history. `end` is None while it is still alive."""

    start_number: int | None
    start: datetime
    end: datetime | None
    bot_id: int
    run_id: int
    kind: str
    pid: int | None
    exit_code: int | None
    signal: str | None
    cause: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """The runs of a kind that failed in the same way. All but `count` and `first_at` is of the latest, `run_id`."""

    kind: str
    fingerprint: str
    cause: str
    type: str | None
    message: str | None
    detail: str
    count: int
    first_at: datetime
    last_at: datetime
    run_id: int
    bot_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What can be started. `import_s` and `rss_bytes` are those of its zygote, None while it has none."""

    name: str
    target: str | None
    command: Sequence[str] | None
    description: str
    params_schema: Mapping[str, Any] | None
    restart: Mapping[str, Any]
    grace_s: float
    start_timeout_s: float
    heartbeat_s: float | None
    limits: Mapping[str, Any]
    limits_note: str
    schedule: Mapping[str, Any] | None
    budget: Mapping[str, Any] | None
    exclusive: str | None
    instances: int
    start_method: str
    warm: bool
    reason: str
    zygote_pid: int | None
    import_s: float | None
    rss_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded:
    """What another reading of the settings has changed: names of kinds.

    `surplus` are the names of instances that are there, and are more than the settings want now.
    """

    added: Sequence[str]
    changed: Sequence[str]
    removed: Sequence[str]
    surplus: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a command for one of many bots. `state` is None where it could not be done at all."""

    bot_id: int
    ok: bool
    state: str | None
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """`checks` are there if they were asked for: None is good, a sentence is not."""

    status: str
    checks: Mapping[str, str | None] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One change of one bot's state, numbered. `deleted`: the bot is there no more."""

    event_id: int
    at: datetime
    bot_id: int
    run_id: int | None
    kind: str
    name: str | None
    state: str
    goal: str
    reason: str
    deleted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line that a bot wrote. `offset` is behind it in the bot's log: to follow it from there."""

    offset: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """So many bytes of a log were deleted before they could be read, for it is bounded; 0: nobody knows how many."""

    bytes: int


def one(cls: type[T], given: Any) -> T:
    """A value out of a JSON object. Raises ValueError where it is none."""
    if not isinstance(given, Mapping):
        raise ValueError(f"no {cls.__name__} is in the answer")
    declared: Any = cls  # mypy does not know that classes can be hashed
    fields = {
        name: read(given[name]) if given.get(name) is not None else None
        for name, read, may_be_left_out in _fields(declared)
        if name in given or not may_be_left_out
    }
    return cls(**fields)


def many(cls: type[T], given: Any) -> list[T]:
    """Values out of a JSON list. Raises ValueError where it is none."""
    if not isinstance(given, list):
        raise ValueError(f"no list of {cls.__name__} is in the answer")
    return [one(cls, item) for item in given]


def field(given: Any, name: str) -> Any:
    """A field of a JSON object, None if it is not there. Raises ValueError where it is no object."""
    if not isinstance(given, Mapping):
        raise ValueError(f"no {name} is in the answer")
    return given.get(name)


@functools.cache
def _fields(cls: Any) -> Sequence[tuple[str, Callable[[Any], Any], bool]]:
    """Of each field its name, what reads it, and whether it may be left out."""
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)
    return [(each.name, _reader(hints[each.name]), each.default is not dataclasses.MISSING) for each in fields]


def _reader(hint: Any) -> Callable[[Any], Any]:
    """Objects and times become what they are declared as; all else stays as JSON has it."""
    for kind in (hint, *typing.get_args(hint)):
        if kind is datetime:
            return lambda given: datetime.fromisoformat(str(given))
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            return functools.partial(one, kind)
    return lambda given: given
