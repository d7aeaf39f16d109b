"""What a call may say: bodies and queries. Unknown fields are refused, and so is a number that is a string."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from datetime import datetime
from signal import Signals
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from supervisor import settings
from supervisor.api import paging
from supervisor.core import model, timestamps

LARGEST = 2**53
"""The largest integer that every JSON parser keeps."""


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("only printable characters are allowed")
    return text


def _digits(number: Any) -> Any:
    """Ids come as text, and what else reads as an integer ("1_0", "+1", " 1") names no bot."""
    if isinstance(number, str) and not (number.isascii() and number.isdigit()):
        raise ValueError("an id is a positive integer")
    return number


def _signal(name: str) -> str:
    if name not in Signals.__members__:
        raise ValueError("there is no such signal")
    return name


def _some_of(*known: str) -> tuple[AfterValidator, WithJsonSchema]:
    """Some of these words, with commas between them."""

    def check(text: str) -> str:
        if not set(text.split(",")) <= set(known):
            raise ValueError(f"with commas between them, some of: {', '.join(known)}")
        return text

    one = f"({'|'.join(known)})"
    return AfterValidator(check), WithJsonSchema({"type": "string", "pattern": f"^{one}(,{one})*$"})


Id = Annotated[int, BeforeValidator(_digits), Field(ge=1, le=LARGEST)]
Number = Annotated[int, BeforeValidator(_digits), Field(ge=0, le=LARGEST)]
Text = Annotated[str, AfterValidator(_printable), Field(max_length=200)]
Name = Annotated[Text, Field(min_length=1)]
States = Annotated[str, *_some_of(*model.State, "all")]
Causes = Annotated[str, *_some_of(*model.Cause)]
LabelKey = Annotated[Name, Field(pattern="^[^:]+$")]
Limit = Annotated[int, Field(ge=1, le=1000, description="the most that one page holds")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewBot(_Body):
    """A bot to be made and started. Everything is optional."""

    kind: Name = Field(default="counter", description="one of GET /kinds")
    params: dict[str, Any] = Field(default={}, description="the kind's parameters")
    start_number: Annotated[int, Strict()] | None = Field(
        default=None, ge=-LARGEST, le=LARGEST, description="short for params.start_number"
    )
    name: Name | None = Field(default=None, description="no two bots have the same")
    labels: dict[LabelKey, Text] = Field(default={}, max_length=64)
    restart: settings.Restart | None = Field(default=None, description="what differs from the policy of the kind")
    grace_s: settings.Seconds | None = Field(default=None, description="seconds between SIGTERM and SIGKILL")
    limits: settings.Limits | None = Field(default=None, description="what differs from the limits of the kind")
    schedule: settings.Schedule | None = Field(default=None, description="times to run at, as cron has them")

    @model_validator(mode="after")
    def _lengthen(self) -> Self:
        if self.start_number is not None:
            if self.params.get("start_number", self.start_number) != self.start_number:
                raise ValueError("start_number and params.start_number differ")
            self.params = {**self.params, "start_number": self.start_number}
        return self

    @property
    def canonical(self) -> str:
        """What is asked for: the same text for the same fields with the same values, in whatever order."""
        given = self.model_dump(exclude_unset=True, exclude={"start_number"})
        return json.dumps(given, sort_keys=True)

    @property
    def overrides(self) -> model.Overrides:
        """What it says itself, and does not leave to its kind."""
        own: dict[str, Any] = {}
        if self.restart is not None and (restart := self.restart.model_dump(mode="json", exclude_unset=True)):
            own["restart"] = restart
        if self.limits is not None and (limits := self.limits.model_dump(mode="json", exclude_unset=True)):
            own["limits"] = limits
        if self.grace_s is not None:
            own["grace_s"] = self.grace_s
        if self.schedule is not None:
            own["schedule"] = self.schedule.model_dump(mode="json")
        return own


class NewBots(NewBot):
    """Bots to be made and started, all alike."""

    count: Annotated[int, Strict()] = Field(ge=1, le=1000, description="how many")

    @model_validator(mode="after")
    def _nameless(self) -> Self:
        if self.count > 1 and self.name is not None:
            raise ValueError("only one bot can have the name: leave it out, or make them one by one")
        return self


class Nothing(_Body):
    """No more than an empty object."""


class Grace(_Body):
    """How long the process may take to end by itself."""

    grace_s: settings.Seconds | None = Field(default=None, description="seconds between SIGTERM and SIGKILL")


class Signal(_Body):
    """The signal to send."""

    signal: Annotated[str, AfterValidator(_signal)] = Field(json_schema_extra={"enum": list(Signals.__members__)})

    @property
    def number(self) -> int:
        return Signals[self.signal]


class _Query(BaseModel):
    kind: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, given: dict[str, Any]) -> dict[str, Any]:
        """A form sends all its fields: an empty one is none."""
        return {name: value for name, value in given.items() if value != ""}


class _Page(_Query):
    limit: Limit = 100
    cursor: paging.Cursor | None = Field(default=None, description="where the page before ended")

    @property
    def after(self) -> int:
        return paging.after(self.cursor) if self.cursor else 0


class _WhichBots(_Query):
    name: Text | None = None
    label: list[Text] = Field(default=[], description="key:value; may be repeated")
    state: States | None = Field(default=None, description="states with commas, or all")

    @field_validator("label")
    @classmethod
    def _pairs(cls, labels: list[str]) -> list[str]:
        labels = [label for label in labels if label]
        if any(":" not in label for label in labels):
            raise ValueError("a label is key:value")
        if len({label.partition(":")[0] for label in labels}) < len(set(labels)):
            raise ValueError("no bot has two values of one label")
        return labels

    def query(self, default: Iterable[model.State]) -> model.BotQuery:
        """The query; `default` are the states if none was given."""
        asked = self.state.split(",") if self.state else ()
        states = model.State if "all" in asked else map(model.State, asked) if asked else default
        pairs = (label.partition(":") for label in self.label)
        return model.BotQuery(
            states=frozenset(states),
            kind=self.kind,
            name=self.name,
            labels={key: value for key, _, value in pairs},
        )


class Bots(_WhichBots, _Page):
    """Which bots to list: every condition that is given must hold. Without `state`: those that are active."""

    def page(self) -> model.BotQuery:
        return dataclasses.replace(self.query(model.ACTIVE), after=self.after, limit=self.limit)


class Selector(_WhichBots):
    """Which bots a command is for: every condition that is given must hold."""

    all: bool = Field(default=False, description="of all bots, if no condition is given")

    @model_validator(mode="after")
    def _says_which(self) -> Self:
        # Nobody stops everything by leaving something out.
        if not (self.all or self.kind or self.name or self.label or self.state):
            raise ValueError("say which bots: kind, label, name or state, or all=true for all of them")
        return self


class Rolling(Selector):
    """Which bots to restart: every condition that is given must hold."""

    max_parallel: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None, description="in batches of so many, each ready before the next; the first that fails ends it"
    )


class RunsOfBot(_Page):
    """Which runs of a bot to list: every condition that is given must hold."""

    cause: Causes | None = Field(default=None, description="causes, with commas")
    fingerprint: Text | None = Field(default=None, description="that of a group of GET /crashes")
    since: AwareDatetime | None = Field(default=None, description="started then or later")
    until: AwareDatetime | None = Field(default=None, description="started before")

    def query(self, bot_id: int | None) -> model.RunQuery:
        return model.RunQuery(
            bot_id=bot_id,
            kind=self.kind,
            causes=frozenset(map(model.Cause, self.cause.split(","))) if self.cause else frozenset(),
            fingerprint=self.fingerprint,
            since=_moment(self.since),
            until=_moment(self.until),
            after=self.after,
            limit=self.limit,
        )


class Runs(RunsOfBot):
    """Which runs to list: every condition that is given must hold."""

    bot_id: Id | None = None


class History(Runs):
    """Which runs to list: every condition that is given must hold."""

    limit: Limit = 1000


class Crashes(_Page):
    """Which groups of failed runs to list: every condition that is given must hold."""

    since: AwareDatetime | None = Field(default=None, description="the latest run failed then or later")

    def query(self) -> model.CrashQuery:
        return model.CrashQuery(kind=self.kind, since=_moment(self.since), before=self.after or None, limit=self.limit)


def _moment(at: datetime | None) -> int | None:
    return None if at is None else timestamps.of(at)
