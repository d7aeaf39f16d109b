"""What callers see of bots and kinds, and what became of their commands: frozen, without behaviour of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from supervisor.core.model import Bot, Budget, Limits, RestartPolicy, Schedule, State, Timestamp, WaitingFor


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveView:
    """A bot's process as callers see it. What it uses is None where that could not be read."""

    pid: int
    run_id: int
    started_at: Timestamp
    ready_at: Timestamp | None
    uptime_s: float
    cpu_percent: float | None
    rss_bytes: int | None
    threads: int | None
    descendants: int | None
    heartbeat_age_s: float | None
    status: str | None
    """Its own last words, by sd_notify."""
    frozen: bool
    node: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BotView:
    """A bot as callers see it: what is wanted, what is, and why now; `live` is None without a process."""

    bot: Bot
    reason: str
    waiting_for: WaitingFor | None = None
    next_start_at: Timestamp | None = None
    live: LiveView | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KindView:
    """A kind as callers see it. `import_s` and `rss_bytes` are those of its zygote, None while it has none."""

    name: str
    target: str | None
    command: Sequence[str] | None
    description: str
    params_schema: Mapping[str, Any] | None
    restart: RestartPolicy
    grace_s: float
    start_timeout_s: float
    heartbeat_s: float | None
    limits: Limits
    limits_note: str
    schedule: Schedule | None
    budget: Budget | None
    exclusive: str | None
    instances: int
    start_method: str
    warm: bool
    reason: str
    zygote_pid: int | None
    import_s: float | None
    rss_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a command for one of many bots. `state` is None where it could not be done at all."""

    bot_id: int
    ok: bool
    state: State | None
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded:
    """What another reading of the settings has changed: names of kinds.

    `surplus` are the names of instances that are there, and are more than the settings want now.
    """

    added: Sequence[str]
    changed: Sequence[str]
    removed: Sequence[str]
    surplus: Sequence[str] = ()
