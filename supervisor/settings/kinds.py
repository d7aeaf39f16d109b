"""Kinds as the settings have them: what to run, and what holds for its bots."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pydantic
from cronsim import CronSim, CronSimError
from pydantic import BaseModel, ConfigDict, Field, Strict

from supervisor.core import model
from supervisor.core.terms import Terms
from supervisor.settings.references import AbsolutePath

log = logging.getLogger(__name__)

ENTRY_POINTS = "bot_supervisor.kinds"
"""The group of entry points by which installed distributions bring kinds."""

Seconds = Annotated[float, Strict(), Field(ge=0, le=86_400, allow_inf_nan=False)]
"""A duration as JSON and TOML have it: a number, never a string."""


class Restart(BaseModel):
    """When, how soon and how often a bot is started again by itself. What is left out keeps its default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: model.Policy = model.Policy.ON_FAILURE
    delay_s: Seconds = Field(default=0.5, description="the wait before the first restart")
    factor: Annotated[float, Strict(), Field(ge=1, le=1000, allow_inf_nan=False)] = Field(
        default=2.0, description="by which each further wait grows"
    )
    max_delay_s: Seconds = Field(default=30.0, description="the longest wait")
    jitter: Annotated[float, Strict(), Field(ge=0, le=1, allow_inf_nan=False)] = Field(
        default=0.1, description="the share by which a wait is varied at random"
    )
    max_restarts: Annotated[int, Strict(), Field(ge=0, le=1_000_000)] = Field(
        default=5, description="more than these within the window: failed"
    )
    within_s: Seconds = Field(default=60.0, description="the window")
    retry_after_s: Seconds | None = Field(default=None, description="how long after it failed a bot is tried again")

    def over(self, default: model.RestartPolicy) -> model.RestartPolicy:
        """The default, changed by what was given here."""
        return dataclasses.replace(default, **self.model_dump(exclude_unset=True))


Whole = Annotated[int, Strict()]
Bytes = Annotated[Whole, Field(ge=1, le=2**53)]


class Limits(BaseModel):
    """What a bot's process may use. What is left out keeps its default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    memory_bytes: Bytes | None = Field(default=None, description="memory of the bot with all that it starts")
    pids: Annotated[Whole, Field(ge=1, le=2**22)] | None = Field(default=None, description="processes and threads")
    cpu: Annotated[float, Strict(), Field(gt=0, le=4096, allow_inf_nan=False)] | None = Field(
        default=None, description="processors; 0.5 is half of one"
    )
    address_space_bytes: Bytes | None = Field(default=None, description="address space of each process")
    cpu_s: Annotated[Whole, Field(ge=1, le=2**31)] | None = Field(
        default=None, description="seconds of CPU time that each process may use"
    )
    open_files: Annotated[Whole, Field(ge=16, le=2**20)] | None = Field(
        default=None, description="open files of each process"
    )
    core: Annotated[bool, Strict()] = Field(default=False, description="whether a crash may leave a core file")
    nice: Annotated[Whole, Field(ge=-20, le=19)] | None = Field(default=None, description="19 is the most modest")
    cpu_affinity: tuple[Annotated[Whole, Field(ge=0, le=4095)], ...] | None = Field(
        default=None, min_length=1, description="the numbers of the processors that it may use"
    )
    oom_score_adj: Annotated[Whole, Field(ge=-1000, le=1000)] | None = Field(
        default=None, description="1000: the first to go when memory runs out"
    )

    def over(self, default: model.Limits) -> model.Limits:
        """The default, changed by what was given here."""
        return dataclasses.replace(default, **self.model_dump(exclude_unset=True))


class Schedule(BaseModel):
    """When a bot that runs and ends is started."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cron: str = Field(max_length=200, description="minute, hour, day of the month, month, day of the week")
    timezone: str = Field(default="UTC", max_length=100, description="an IANA name, such as Europe/Berlin")
    overlap: model.Overlap = Field(default=model.Overlap.SKIP, description="if the run before still goes on then")
    missed: model.Missed = Field(default=model.Missed.SKIP, description="if no supervisor ran then")

    @pydantic.model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: Any) -> Any:
        """A string is a schedule with nothing but its times."""
        return {"cron": given} if isinstance(given, str) else given

    @pydantic.field_validator("cron")
    @classmethod
    def _valid(cls, cron: str) -> str:
        try:
            next(CronSim(cron, datetime(2000, 1, 1, tzinfo=UTC)))
        except (CronSimError, StopIteration) as error:
            raise ValueError(f"this is no cron expression: {error or 'it has no time'}") from None
        return cron

    @pydantic.field_validator("timezone")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("there is no such time zone") from None
        return name

    @property
    def value(self) -> model.Schedule:
        return model.Schedule(**self.model_dump())


class Budget(BaseModel):
    """How often the bots that share a credential may be started."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str = Field(min_length=1, max_length=500)
    starts: Annotated[Whole, Field(ge=1, le=1_000_000)]
    per_s: Annotated[float, Strict(), Field(gt=0, le=366 * 86_400, allow_inf_nan=False)]

    @property
    def value(self) -> model.Budget:
        return model.Budget(**self.model_dump())


class Kind(BaseModel):
    """A type of bot: the callable behind it, and what holds for its bots unless they say otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: str | None = Field(default=None, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$", max_length=500)
    command: tuple[str, ...] | None = Field(default=None, min_length=1)
    params: Mapping[str, pydantic.JsonValue] = {}
    description: str = ""
    preload: tuple[str, ...] = ()
    path: tuple[AbsolutePath, ...] = ()
    env: Mapping[str, str] = {}
    cwd: AbsolutePath | None = None
    grace_s: Seconds = 10.0
    start_timeout_s: Seconds = 30.0
    restart: Restart = Restart()
    ready: Literal["start", "notify"] | Seconds = "start"
    heartbeat_s: Annotated[float, Strict(), Field(gt=0, le=86_400, allow_inf_nan=False)] | None = None
    limits: Limits = Limits()
    schedule: Schedule | None = None
    budget: Budget | None = None
    exclusive: str | None = Field(default=None, min_length=1, max_length=500)
    starts_at_once: Annotated[Whole, Field(ge=1)] | None = None
    starts_per_s: Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)] | None = None
    instances: Annotated[Whole, Field(ge=0, le=10_000)] = 0

    @pydantic.model_validator(mode="after")
    def _one_thing_to_run(self) -> Self:
        if (self.target is None) == (self.command is None):
            raise ValueError("a kind has either a target or a command")
        if self.params and self.command is None:
            raise ValueError("params are those of a command; a target has its own")
        return self

    # Each start of a bot asks for these.
    @functools.cached_property
    def restart_policy(self) -> model.RestartPolicy:
        """The policy of its bots, complete."""
        return self.restart.over(model.RestartPolicy())

    @functools.cached_property
    def default_limits(self) -> model.Limits:
        """The limits of its bots, complete."""
        return self.limits.over(model.Limits())

    @functools.cached_property
    def terms(self) -> Terms:
        """The terms of its bots, as far as they do not say otherwise."""
        return Terms(
            restart=self.restart_policy,
            grace_s=self.grace_s,
            limits=self.default_limits,
            schedule=self.schedule.value if self.schedule else None,
            start_timeout_s=self.start_timeout_s,
            ready=self.ready,
            heartbeat_s=self.heartbeat_s,
        )


GONE = Kind(target="no.longer:there", start_timeout_s=1.0)
"""Stands for a kind that the settings had once: its bots may still run."""

TERMS_OF_GONE = dataclasses.replace(GONE.terms, known=False)

COUNTER = Kind(target="botproc.counter:main", description="Prints a number, then one more each second.")

KindName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
_KIND_NAME = pydantic.TypeAdapter(KindName)


def over(brought: Mapping[str, Mapping[str, Any]], kinds: Any) -> Any:
    """The kinds of the settings over those that are there without any.

    One that says what to run is all that it says; another only changes settings of a kind that is there.
    """
    if not isinstance(kinds, Mapping):
        return kinds
    merged = dict(kinds)
    for name, kind in brought.items():
        own = kinds.get(name, {})
        if isinstance(own, Mapping) and not own.keys() & {"target", "command"}:
            merged[name] = {**kind, **own}
    return merged


def installed() -> dict[str, dict[str, Any]]:
    """The kinds that installed distributions bring. What is wrong with one of them is told, and ends nothing."""
    # What was installed since the last look is not seen otherwise.
    importlib.invalidate_caches()
    kinds: dict[str, dict[str, Any]] = {}
    for distribution in importlib.metadata.distributions():
        try:
            entries = [entry for entry in distribution.entry_points if entry.group == ENTRY_POINTS]
        except (OSError, TypeError, ValueError) as error:
            log.warning("the entry points of a distribution cannot be read, and are left out: %s", error)
            continue
        for entry in entries:
            try:
                _KIND_NAME.validate_python(entry.name)
                Kind(target=entry.value)
            except pydantic.ValidationError as invalid:
                what = invalid.errors(include_input=False, include_url=False)[0]["msg"]
                log.warning("the entry point %r = %r brings no kind: %s", entry.name, entry.value, what)
                continue
            # The first on the path comes first, as it does for imports.
            first = kinds.setdefault(entry.name, {"target": entry.value})
            if first["target"] != entry.value:
                log.warning(
                    "the entry point %r = %r brings no kind: there is %r already",
                    entry.name, entry.value, first["target"],
                )  # fmt: skip
    return kinds
