"""Every call of the API as a value: what is sent, and how the answer is read. Both flavours of the client send these.

The docstrings are those of the clients' methods.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx
from httpx_sse import ServerSentEvent

from supervisor.client import values
from supervisor.client.values import Bot, Crash, Event, Health, Kind, Line, Outcome, PastRun, Reloaded, Run, Skipped

T = TypeVar("T")

_LARGE_PAGE = 1000
"""The most that the supervisor has on one page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """One request. `read` raises ValueError for an answer that is none of ours."""

    method: str = "GET"
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    read: Callable[[httpx.Response], T]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """One page of a list. `cursor` leads to the next; None on the last."""

    items: Sequence[T]
    cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed(Generic[T]):
    """A stream of server-sent events. `since` is the id of the last one that the caller has, if any."""

    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    since: int | None = None
    read: Callable[[ServerSentEvent], T]
    is_last: Callable[[T], bool] = lambda _: False


# ---- bots


def bots(
    *,
    kind: str | None = None,
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    states: Sequence[str] = (),
) -> Call[Page[Bot]]:
    """The bots that are active, or those in `states` ("all" for every bot), in the order of their ids."""
    params = {"limit": _LARGE_PAGE, **_which(kind, name, labels, states)}
    return Call(path="/bots", params=params, read=lambda answer: _bare_page(Bot, answer))


def bot(bot_id: int) -> Call[Bot]:
    """One bot."""
    return Call(path=f"/bots/{bot_id}", read=_bot)


def create(
    kind: str = "counter",
    params: Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    restart: Mapping[str, Any] | None = None,
    grace_s: float | None = None,
    limits: Mapping[str, Any] | None = None,
    schedule: Mapping[str, Any] | None = None,
    wait: bool = False,
    idempotency_key: str | None = None,
) -> Call[Bot]:
    """Make a bot and start it. It returns once the process exists or could not be made; with `wait`, once it is ready
    or has failed. The same `idempotency_key` gives the same bot, made once."""
    return Call(
        method="POST",
        path="/bots",
        params={"wait": "ready"} if wait else {},
        body=_new(kind, params, name, labels, restart, grace_s, limits, schedule),
        headers={"Idempotency-Key": idempotency_key} if idempotency_key else {},
        read=_bot,
    )


def create_many(
    count: int,
    kind: str = "counter",
    params: Mapping[str, Any] | None = None,
    *,
    labels: Mapping[str, str] | None = None,
    restart: Mapping[str, Any] | None = None,
    grace_s: float | None = None,
    limits: Mapping[str, Any] | None = None,
    schedule: Mapping[str, Any] | None = None,
    wait: bool = False,
) -> Call[list[Bot]]:
    """Make `count` bots that are alike, and start them: all of them or, with a Problem, none."""
    return Call(
        method="POST",
        path="/bots/batch",
        params={"wait": "ready"} if wait else {},
        body={"count": count, **_new(kind, params, None, labels, restart, grace_s, limits, schedule)},
        read=lambda answer: values.many(Bot, values.field(answer.json(), "bots")),
    )


def start(bot_id: int, *, wait: bool = True) -> Call[Bot]:
    """Start a bot that has no process; one that is up is left alone. Without `wait` it returns at once."""
    return Call(method="POST", path=f"/bots/{bot_id}/start", params=_settled(wait), read=_bot)


def stop(bot_id: int, *, grace_s: float | None = None, wait: bool = True) -> Call[Bot]:
    """Stop a bot. It returns once the process and all that it started are gone; without `wait` at once."""
    return Call(
        method="POST", path=f"/bots/{bot_id}/stop", params=_settled(wait), body=_given(grace_s=grace_s), read=_bot
    )


def restart(bot_id: int, *, grace_s: float | None = None, wait: bool = True) -> Call[Bot]:
    """End the bot's process, and start another once all of it is gone."""
    return Call(
        method="POST", path=f"/bots/{bot_id}/restart", params=_settled(wait), body=_given(grace_s=grace_s), read=_bot
    )


def signal(bot_id: int, signal: str) -> Call[None]:
    """Send a signal ("SIGHUP") to the bot's process."""
    return Call(method="POST", path=f"/bots/{bot_id}/signal", body={"signal": signal}, read=_nothing)


def delete(bot_id: int) -> Call[None]:
    """Stop a bot, then forget it. Its runs stay."""
    return Call(method="DELETE", path=f"/bots/{bot_id}", read=_nothing)


# ---- many bots: every condition that is given must hold, and with none it takes `all`


def start_many(
    *,
    kind: str | None = None,
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    states: Sequence[str] = (),
    all: bool = False,
) -> Call[list[Outcome]]:
    """Start all bots that match, side by side. It returns once each is ready or has failed."""
    return Call(method="POST", path="/bots/start", params=_selector(kind, name, labels, states, all), read=_outcomes)


def stop_many(
    *,
    kind: str | None = None,
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    states: Sequence[str] = (),
    all: bool = False,
    grace_s: float | None = None,
) -> Call[list[Outcome]]:
    """Stop all active bots that match, side by side. It returns once all of each is gone."""
    params = _selector(kind, name, labels, states, all)
    return Call(method="POST", path="/bots/stop", params=params, body=_given(grace_s=grace_s), read=_outcomes)


def restart_many(
    *,
    kind: str | None = None,
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    states: Sequence[str] = (),
    all: bool = False,
    grace_s: float | None = None,
    max_parallel: int | None = None,
) -> Call[list[Outcome]]:
    """Restart all active bots that match, side by side, or `max_parallel` at a time: then the first batch that fails
    is the last."""
    params = {**_selector(kind, name, labels, states, all), **_given(max_parallel=max_parallel)}
    return Call(method="POST", path="/bots/restart", params=params, body=_given(grace_s=grace_s), read=_outcomes)


# ---- runs


def runs(
    *,
    bot_id: int | None = None,
    kind: str | None = None,
    causes: Sequence[str] = (),
    fingerprint: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Call[Page[Run]]:
    """The runs that match, oldest first: started at `since` or later, before `until` (both aware)."""
    path = "/runs" if bot_id is None else f"/bots/{bot_id}/runs"
    params = {"limit": _LARGE_PAGE, **_of_runs(None, kind, causes, fingerprint, since, until)}
    return Call(path=path, params=params, read=lambda answer: _page(Run, answer, "runs"))


def run(run_id: int) -> Call[Run]:
    """One run."""
    return Call(path=f"/runs/{run_id}", read=lambda answer: values.one(Run, answer.json()))


def history(
    *,
    bot_id: int | None = None,
    kind: str | None = None,
    causes: Sequence[str] = (),
    since: datetime | None = None,
    until: datetime | None = None,
) -> Call[Page[PastRun]]:
    """The runs that match in the short form, oldest first."""
    params = {"limit": _LARGE_PAGE, **_of_runs(bot_id, kind, causes, None, since, until)}
    return Call(path="/bots_history", params=params, read=_past_runs)


def crashes(*, kind: str | None = None, since: datetime | None = None) -> Call[Page[Crash]]:
    """The failed runs in groups, those of a kind that failed in the same way; the latest first."""
    params = _given(kind=kind, since=_time(since))
    return Call(path="/crashes", params=params, read=lambda answer: _page(Crash, answer, "crashes"))


# ---- live


def logs(bot_id: int, *, tail: int = 100, run_id: int | None = None) -> Call[list[str]]:
    """The last lines that a bot wrote, or that it wrote in one run."""
    return Call(path=f"/bots/{bot_id}/logs", params=_given(tail=tail, run=run_id), read=_lines)


def follow(bot_id: int, *, tail: int = 100, since: int | None = None) -> Feed[Line | Skipped]:
    """The last lines that a bot wrote, then each line as it writes it, over its restarts; without end. `since`: from
    the offset of a Line on. Raises Problem once the bot is deleted."""
    return Feed(path=f"/bots/{bot_id}/logs", params={"tail": tail}, since=since, read=_line)


def events(*, bot_id: int | None = None, since: int | None = None) -> Feed[Event]:
    """The latest event of each bot, then each change as it comes, without end; or those of one bot until it is
    deleted. `since`: instead all events with a larger number."""
    return Feed(
        path="/events",
        params=_given(bot_id=bot_id),
        since=since,
        read=_event,
        is_last=lambda event: event.deleted and bot_id is not None,
    )


def kinds() -> Call[list[Kind]]:
    """What can be started."""
    return Call(path="/kinds", read=lambda answer: values.many(Kind, values.field(answer.json(), "kinds")))


def kind(name: str) -> Call[Kind]:
    """One kind."""
    return Call(path=f"/kinds/{quote(name, safe='')}", read=_kind)


def reload_kinds() -> Call[Reloaded]:
    """Read the kinds again, from the settings file and from what is installed. Bots that run are not touched."""
    return Call(method="POST", path="/kinds/reload", read=lambda answer: values.one(Reloaded, answer.json()))


def reload_kind(name: str) -> Call[Kind]:
    """Import the code of a kind again, for later starts."""
    return Call(method="POST", path=f"/kinds/{quote(name, safe='')}/reload", read=_kind)


def livez(*, verbose: bool = False) -> Call[Health]:
    """The supervisor answers."""
    return Call(path="/livez", params=_given(verbose=verbose or None), read=_health)


def readyz(*, verbose: bool = False) -> Call[Health]:
    """The supervisor can start bots; if not, the Problem says why."""
    return Call(path="/readyz", params=_given(verbose=verbose or None), read=_health)


# ---- what is sent


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _settled(wait: bool) -> Mapping[str, Any]:
    return {} if wait else {"wait": 0}


def _time(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


def _new(
    kind: str,
    params: Mapping[str, Any] | None,
    name: str | None,
    labels: Mapping[str, str] | None,
    restart: Mapping[str, Any] | None,
    grace_s: float | None,
    limits: Mapping[str, Any] | None,
    schedule: Mapping[str, Any] | None,
) -> dict[str, Any]:
    return _given(
        kind=kind,
        params=params,
        name=name,
        labels=labels,
        restart=restart,
        grace_s=grace_s,
        limits=limits,
        schedule=schedule,
    )


def _which(
    kind: str | None, name: str | None, labels: Mapping[str, str] | None, states: Sequence[str]
) -> dict[str, Any]:
    pairs = [f"{key}:{value}" for key, value in (labels or {}).items()]
    return _given(kind=kind, name=name, label=pairs or None, state=",".join(states) or None)


def _selector(
    kind: str | None, name: str | None, labels: Mapping[str, str] | None, states: Sequence[str], all: bool
) -> dict[str, Any]:
    return {**_which(kind, name, labels, states), **({"all": "true"} if all else {})}


def _of_runs(
    bot_id: int | None,
    kind: str | None,
    causes: Sequence[str],
    fingerprint: str | None,
    since: datetime | None,
    until: datetime | None,
) -> dict[str, Any]:
    return _given(
        bot_id=bot_id,
        kind=kind,
        cause=",".join(causes) or None,
        fingerprint=fingerprint,
        since=_time(since),
        until=_time(until),
    )


# ---- how answers are read


def _bot(answer: httpx.Response) -> Bot:
    return values.one(Bot, answer.json())


def _kind(answer: httpx.Response) -> Kind:
    return values.one(Kind, answer.json())


def _health(answer: httpx.Response) -> Health:
    return values.one(Health, answer.json())


def _outcomes(answer: httpx.Response) -> list[Outcome]:
    return values.many(Outcome, values.field(answer.json(), "results"))


def _nothing(answer: httpx.Response) -> None:
    if answer.status_code != 204:
        raise ValueError("there is an answer where none is expected")


def _lines(answer: httpx.Response) -> list[str]:
    text = answer.content.decode("utf-8", "replace")
    return text.removesuffix("\n").split("\n") if text else []


def _page(cls: type[T], answer: httpx.Response, name: str) -> Page[T]:
    body = answer.json()
    return Page(items=values.many(cls, values.field(body, name)), cursor=values.field(body, "next_cursor"))


def _bare_page(cls: type[T], answer: httpx.Response) -> Page[T]:
    return Page(items=values.many(cls, answer.json()), cursor=_linked(answer))


def _linked(answer: httpx.Response) -> str | None:
    """The cursor in the Link header."""
    following = answer.links.get("next", {}).get("url")
    return httpx.URL(following).params.get("cursor") if following else None


def _past_runs(answer: httpx.Response) -> Page[PastRun]:
    body = answer.json()
    if isinstance(body, list):
        body = [{**run, "end": None} if values.field(run, "end") == "still alive" else run for run in body]
    return Page(items=values.many(PastRun, body), cursor=_linked(answer))


def _event(message: ServerSentEvent) -> Event:
    event = values.one(Event, json.loads(message.data))
    return dataclasses.replace(event, deleted=message.event == "deleted")


def _line(message: ServerSentEvent) -> Line | Skipped:
    if message.event == "skipped":
        return Skipped(bytes=int(message.data))
    return Line(offset=int(message.id), text=message.data)
