"""What supervisor, zygote and bot say to each other, and the exit codes that they share.

Supervisor and zygote talk over a unix stream socket, one JSON object a line, each with the name of its class
under "type". Values are plain JSON, so that a supervisor can read a zygote of an earlier version, and of a later one:
a new field has a default, and one that is not known is left out.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

VERSION = 2
"""Changes with what supervisor and zygote say to each other: an older zygote is understood, and makes no bot."""

EXIT_LOCKED = 125
"""Another process holds the bot's lock: there is one copy already."""

EXIT_UNUSABLE = 126
"""The bot could not be set up, e.g. its log could not be opened. It will not be better without a change."""

REFERENCE = re.compile(r"env:(?P<variable>[A-Za-z_]\w*)|file:(?P<path>/.+)|secret:(?P<key>[0-9a-f]{32})", re.ASCII)
"""A parameter that says where its value is found: in a variable of the bot's environment, in a file, or in what the
supervisor keeps under this key."""

PERMANENT_EXITS = {
    EXIT_LOCKED: "another copy of this bot holds its lock",
    EXIT_UNUSABLE: "the bot could not be set up; its log or the kind's says why",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ZygoteSpec:
    """All that a zygote is told when it is made (pickled by multiprocessing, never sent over the socket).

    `run_dir` holds the socket `socket_name`; `log_path` takes what the kind's modules print when imported. Either
    `target` or `command` is empty; `params` are the defaults of the command's parameters.
    """

    kind: str
    target: str
    command: tuple[str, ...]
    params: dict[str, Any]
    preload: tuple[str, ...]
    path: tuple[str, ...]
    env: dict[str, str]
    cwd: str | None
    run_dir: str
    socket_name: str
    log_path: str
    notify_address: str
    secrets_dir: str
    ready_at_start: bool
    heartbeat_s: float | None
    without_supervisor_s: float | None = None
    """A zygote that has had no supervisor for so long ends its bots; None: it never does."""
    described: Hello | None = None
    """What a zygote of this kind had found before, whose imports start threads: this one imports nothing, and each bot
    is a fresh interpreter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spawn:
    """Supervisor to zygote: fork a bot."""

    run_id: int
    bot_id: int
    name: str | None
    labels: dict[str, str]
    params: dict[str, Any]
    log_path: str
    lock_path: str
    data_dir: str
    grace_s: float
    limits: dict[str, Any]
    cgroup: str = ""
    log_start: int = 0
    """Where its output will begin in its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """Supervisor to zygote: the ends of these runs are in the ledger, forget them."""

    run_ids: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quit:
    """Supervisor to zygote: leave, now if no bot lives, else when the last one has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alive:
    """Zygote to supervisor: the process of a run, in answer to `Spawn` and within `Hello`."""

    run_id: int
    bot_id: int
    pid: int
    start_ticks: int
    inode: int
    log_start: int = 0
    """Where its output begins in its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotSpawned:
    """Zygote to supervisor: `fork` failed."""

    run_id: int
    errno: int
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """Zygote to supervisor: a run's process was reaped.

    Sent at once, and again with `swept` when nothing that it had started is left. Kept by the zygote until
    acknowledged. `cpu_seconds` and `max_rss_bytes` include the descendants that the bot had waited for. `bot_id` is 0
    from an older zygote. `asked` is the cause where the zygote itself has ended the bot, as it had no supervisor for
    too long: "stopped", or "stop-timeout" if that took SIGKILL after the grace.
    """

    run_id: int
    exit_code: int | None
    signal: int | None
    ended_at: int
    cpu_seconds: float
    max_rss_bytes: int
    descendants_killed: int
    swept: bool
    bot_id: int = 0
    asked: str = ""
    log_start: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Zygote to supervisor, first on each connection, once the kind is imported.

    `error` is the traceback if it could not be; the zygote then leaves. `params` describes the target's
    keyword parameters (see `zygote.describe`); `schema` is the JSON Schema of its model instead, if it has one.
    `threads` counts those that the imports left running. `start_method` is "fork", "exec" or "spawn".
    """

    kind: str
    pid: int
    import_s: float
    error: str
    threads: int
    description: str
    params: list[dict[str, Any]]
    schema: dict[str, Any] | None = None
    start_method: str = "fork"
    alive: list[dict[str, Any]] = field(default_factory=list)
    ended: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Supervisor to zygote: would the kind's model take these parameters?"""

    check_id: int
    params: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """Zygote to supervisor: what is wrong with the parameters, each with `loc`, `msg` and `type`."""

    check_id: int
    errors: list[dict[str, Any]]


M = TypeVar("M", Spawn, Ack, Quit, Check, Alive, NotSpawned, Ended, Hello, Checked)
Message: TypeAlias = Spawn | Ack | Quit | Check | Alive | NotSpawned | Ended | Hello | Checked
_TYPES: dict[str, type[Any]] = {
    t.__name__: t for t in (Spawn, Ack, Quit, Check, Alive, NotSpawned, Ended, Hello, Checked)
}


def fields(message: Message) -> dict[str, Any]:
    """The fields of a message, not copied."""
    return {f.name: getattr(message, f.name) for f in dataclasses.fields(message)}


def encode(message: Message) -> bytes:
    """One line, newline included."""
    return json.dumps({"type": type(message).__name__, **fields(message)}).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Return the message of one line. Raises ValueError, TypeError or AttributeError where it is none of ours."""
    values = json.loads(line)
    kind = _TYPES.get(values.pop("type", ""))
    if kind is None:
        raise ValueError(f"unknown message: {line[:100]!r}")
    message: Message = of_fields(kind, values)
    return message


def of_fields(kind: type[M], values: Mapping[str, Any]) -> M:
    """Return the message with these fields. Those that it does not have are left out: another version has more of them.

    Raises TypeError where one is missing.
    """
    known = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in known})


class Lines:
    """Cuts a stream of bytes into lines."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that `data` completes, without their newlines."""
        self._rest += data
        *lines, self._rest = self._rest.split(b"\n")
        return map(bytes, lines)
