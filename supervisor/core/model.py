"""The values that the rooms of the supervisor hand to each other: frozen, without behaviour of their own.

Times are UTC, as integers of microseconds since the epoch, for display alone: every decision is taken on
the event loop's monotonic clock. Durations are seconds (`_s`), sizes bytes (`_bytes`).
"""

from __future__ import annotations

import enum
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")

Params = Mapping[str, Any]
"""The parameters of a bot, as JSON values by name."""

Overrides = Mapping[str, Any]
"""What a bot says itself, as JSON values: some fields of `restart` and `limits`, and `grace_s` and `schedule`. All else
is what its kind says."""

Timestamp = int
"""A moment: microseconds since the epoch, UTC."""


def now_us() -> Timestamp:
    """The wall clock in microseconds since the epoch, UTC."""
    return time.time_ns() // 1000


def storable(text: str) -> str:
    """The text with a backslash escape for each lone surrogate, which neither SQLite nor receivers of JSON take."""
    return text.encode("utf-8", "backslashreplace").decode()


class State(enum.StrEnum):
    """What a bot is doing. Only `table.TABLE` says how one leads to another."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    KILLING = "killing"
    BACKOFF = "backoff"
    SCHEDULED = "scheduled"
    STOPPED = "stopped"
    EXITED = "exited"
    FAILED = "failed"


ACTIVE = frozenset({State.STARTING, State.RUNNING, State.STOPPING, State.KILLING, State.BACKOFF, State.SCHEDULED})
"""A process exists, or one is about to."""

SETTLED = frozenset({State.STOPPED, State.EXITED, State.FAILED})
"""No process, and none will come by itself (but for the slow retry of a failed bot)."""


class WaitingFor(enum.StrEnum):
    """What a bot without a process waits for before its next start."""

    RESTART = "restart"
    BUDGET = "budget"
    LEDGER = "ledger"
    TURN = "turn"
    SCHEDULE = "schedule"
    NODE = "node"


class Goal(enum.StrEnum):
    """What is wanted of a bot, kept apart from what is."""

    UP = "up"
    DOWN = "down"


class Cause(enum.StrEnum):
    """Why a run ended."""

    EXITED = "exited"
    CRASHED = "crashed"
    KILLED = "killed"
    STOPPED = "stopped"
    RESTARTED = "restarted"
    STOP_TIMEOUT = "stop-timeout"
    START_TIMEOUT = "start-timeout"
    HEARTBEAT = "heartbeat"
    OOM = "oom"
    SPAWN_FAILED = "spawn-failed"
    LOST = "lost"


class Policy(enum.StrEnum):
    """When a run that ended by itself is followed by another."""

    NEVER = "never"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """When, how soon and how often a bot is started again by itself.

    The n-th restart in the window waits `delay_s * factor ** n`, at most `max_delay_s`, give or take the share
    `jitter`. More than `max_restarts` within `within_s`: failed, and tried again after `retry_after_s`, if set.
    """

    policy: Policy = Policy.ON_FAILURE
    delay_s: float = 0.5
    factor: float = 2.0
    max_delay_s: float = 30.0
    jitter: float = 0.1
    max_restarts: int = 5
    within_s: float = 60.0
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a bot's process may use; None: as the supervisor's own.

    `memory_bytes`, `pids` and `cpu` (in processors, 0.5 is half of one) are limits of the bot with all that it
    starts, and need a control group; without one, `memory_bytes` is the RLIMIT_DATA of each process. The others hold
    for each process: `address_space_bytes` (RLIMIT_AS), `cpu_s` (RLIMIT_CPU), `open_files` (RLIMIT_NOFILE), `core`
    (whether a crash may leave a core file), `nice`, `cpu_affinity` (numbers of processors) and `oom_score_adj`.
    """

    memory_bytes: int | None = None
    pids: int | None = None
    cpu: float | None = None
    address_space_bytes: int | None = None
    cpu_s: int | None = None
    open_files: int | None = None
    core: bool = False
    nice: int | None = None
    cpu_affinity: tuple[int, ...] | None = None
    oom_score_adj: int | None = None


class Overlap(enum.StrEnum):
    """What becomes of a time of the schedule at which the run before is still going on."""

    SKIP = "skip"
    QUEUE = "queue"
    RESTART = "restart"


class Missed(enum.StrEnum):
    """What becomes of the times of a schedule that passed while no supervisor ran."""

    SKIP = "skip"
    RUN = "run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When a bot that runs and ends is started: at the times of a cron expression in a time zone (IANA name)."""

    cron: str
    timezone: str = "UTC"
    overlap: Overlap = Overlap.SKIP
    missed: Missed = Missed.SKIP


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """At most `starts` of all bots with this `key` within `per_s` seconds, whatever is restarted meanwhile."""

    key: str
    starts: int
    per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """A Python exception that ended a run.

    `fingerprint` is the same for the same way to the same type of exception, whatever its message and line numbers.
    """

    type: str
    message: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A process for certain, also after its pid went to another: checked against an open pidfd.

    `start_ticks` is field 22 of /proc/PID/stat; `inode` is that of the pidfd (unique from Linux 6.9 on, one
    for all before); `boot_id` is /proc/sys/kernel/random/boot_id.
    """

    pid: int
    start_ticks: int
    inode: int
    boot_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a process ended, as its parent saw it. Neither `exit_code` nor `signal`: nobody saw."""

    exit_code: int | None
    signal: int | None
    ended_at: int
    cpu_seconds: float | None
    max_rss_bytes: int | None
    descendants_killed: int = 0
    swept: bool = True
    """Everything that the process had started is gone too."""
    detail: str = ""
    oom: bool = False
    """It had more memory than it was allowed, or than there was."""
    raised: Raised | None = None
    asked: Cause | None = None
    """It was ended on purpose, though not by the supervisor: there was none for too long."""
    log_end: int | None = None
    """Where its output ends in the bot's log; None where that could not be read."""
    last_lines: tuple[str, ...] = ()
    """The last lines that it wrote, if it wrote any and they could be read."""
    stacks: tuple[str, ...] = ()
    """What it wrote down when it was asked to dump its stacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LastExit:
    """The end of a bot's latest run, for the listing."""

    exit_code: int | None
    signal: str | None
    cause: Cause
    at: Timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBot:
    """What a caller asks for, checked and with its defaults filled in.

    `unchecked`: but for its parameters, as its kind could not be imported. Each word of them is kept as a secret.
    """

    kind: str
    params: Params
    name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    restart: RestartPolicy = RestartPolicy()
    grace_s: float = 10.0
    limits: Limits = Limits()
    schedule: Schedule | None = None
    overrides: Overrides = field(default_factory=dict)
    unchecked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Idempotency:
    """The key of a request that makes bots: if it comes again, it gives those that were made.

    `digest` is that of the request. The same key with another one is refused; where none is known, it is not compared.
    """

    key: str
    digest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bot:
    """A bot as the ledger keeps it. `state` and `reason` are those of the latest event written.

    `unchecked`: its kind could not be imported when it was made, nor since; see `NewBot`.
    """

    bot_id: int
    name: str | None
    kind: str
    params: Params
    labels: Mapping[str, str]
    goal: Goal
    state: State
    reason: str
    restarts: int
    created_at: Timestamp
    last_exit: LastExit | None = None
    restart: RestartPolicy
    grace_s: float
    limits: Limits = Limits()
    schedule: Schedule | None = None
    overrides: Overrides = field(default_factory=dict)
    unchecked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The life of one OS process of a bot, from the decision to fork to its reaping.

    `started_at` is when the row was written, just before the fork. `log_start` and `log_end` are offsets in the
    bot's log. While `cause` is None the run is open. `signal` is a name ("SIGKILL").
    """

    run_id: int
    bot_id: int
    kind: str
    params: Params
    identity: Identity | None
    started_at: Timestamp
    ready_at: Timestamp | None
    ended_at: Timestamp | None
    exit_code: int | None
    signal: str | None
    cause: Cause | None
    detail: str
    cpu_seconds: float | None
    max_rss_bytes: int | None
    descendants_killed: int
    log_start: int
    log_end: int | None
    last_lines: tuple[str, ...] = ()
    raised: Raised | None = None
    fingerprint: str | None = None
    """Of a run that failed: that of what it raised, or else its cause with its code or signal."""
    node: str | None = None
    """The machine on which it runs or ran; None on the supervisor's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashGroup:
    """The runs of a kind that failed in the same way. All but the count and `first_at` is of the latest, `run_id`."""

    kind: str
    fingerprint: str
    cause: Cause
    detail: str
    raised: Raised | None
    count: int
    first_at: int
    last_at: int
    run_id: int
    bot_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a bot's run ended, with whose it was. The fields of the run are None where it has none that ended so."""

    kind: str
    name: str | None
    labels: Mapping[str, str]
    run_id: int | None = None
    detail: str | None = None
    raised: Raised | None = None
    fingerprint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One change of one bot's state, numbered in the order of the ledger."""

    event_id: int
    at: int
    bot_id: int
    run_id: int | None
    state: State
    goal: Goal
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An event as the feed tells it, with what it says of the bot."""

    event: Event
    kind: str
    name: str | None
    deleted: bool
    """The bot is gone, and this was the last of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a process uses, read from the kernel in one go."""

    cpu_seconds: float
    rss_bytes: int
    threads: int
    descendants: int
    frozen: bool = False
    """It was stopped by a signal, such as SIGSTOP, or by a debugger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BotQuery:
    """Which bots to list: every condition that is given must hold. `after` is the bot_id before the page."""

    states: frozenset[State] = ACTIVE
    bot_ids: frozenset[int] | None = None
    kind: str | None = None
    name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    after: int = 0
    limit: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RunQuery:
    """Which runs to list, oldest first. `since` and `until` bound `started_at`, in microseconds, half open."""

    bot_id: int | None = None
    kind: str | None = None
    causes: frozenset[Cause] = frozenset()
    fingerprint: str | None = None
    since: int | None = None
    until: int | None = None
    after: int = 0
    limit: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashQuery:
    """Which groups of failed runs to list, that with the latest run first.

    `since` is a bound for the end of a group's latest run, in microseconds; `before` the run_id that ended the page
    before.
    """

    kind: str | None = None
    since: int | None = None
    before: int | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list; `next_after` is None on the last page."""

    items: Sequence[T]
    next_after: int | None
