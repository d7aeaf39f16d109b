"""What the rooms above ask of the place where processes run. They know of nothing below this file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from supervisor import settings
from supervisor.core.model import Exit, Identity, Limits, Params, Run, Usage
from supervisor.logs.reader import Line, Skipped

OnNotify = Callable[[int, int, Mapping[str, str]], None]
"""Called with a bot_id, a run_id and what its process told by sd_notify: READY, STATUS, WATCHDOG…"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A process to be made."""

    run_id: int
    bot_id: int
    kind: str
    name: str | None
    labels: Mapping[str, str]
    params: Params
    grace_s: float = 10.0
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class KindParams:
    """The parameters of a kind: described one by one, or the JSON Schema of its model."""

    params: Sequence[Mapping[str, Any]]
    schema: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KindStatus:
    """What is known of a kind once its modules are imported, and of what keeps them warm."""

    warm: bool
    reason: str
    description: str
    params: Sequence[Mapping[str, Any]] | None
    schema: Mapping[str, Any] | None
    start_method: str
    limits_note: str
    pid: int | None
    import_s: float | None
    rss_bytes: int | None


class Process(Protocol):
    """One process of a bot."""

    @property
    def identity(self) -> Identity: ...

    @property
    def log_start(self) -> int:
        """Where its output begins in the bot's log."""

    @property
    def age_s(self) -> float:
        """For how long it has lived."""

    async def wait(self) -> Exit:
        """Returns as soon as the process has ended. May be called again, and from several tasks."""

    async def sweep(self) -> Exit:
        """Returns when nothing that the process had started is left either."""

    def terminate(self) -> None:
        """Asks it to end, a frozen one too. Nothing happens when it has ended."""

    def kill(self) -> None:
        """Ends it. Nothing happens when it has ended."""

    def signal(self, signum: int) -> None:
        """Sends any other signal. Raises ProcessLookupError when it has ended, Unavailable when it cannot be sent."""

    def dump(self) -> None:
        """Asks it to write the stacks of its threads and tasks to its log, if it can. Nothing happens otherwise."""

    def usage(self) -> Usage | None:
        """What it uses now; None when it has ended."""

    def acknowledge(self) -> None:
        """Its end is in the ledger: the engine may forget it."""


class LogReader(Protocol):
    """One who reads a log from an offset on. Each call may block."""

    offset: int
    stop: int | None

    @property
    def is_done(self) -> bool: ...

    def ended(self, offsets: Iterable[int]) -> None:
        """Runs ended there: a line before it is complete, newline or not."""

    def read(self) -> Sequence[Line | Skipped]:
        """What comes next: complete lines; nothing if there is none. Raises OSError."""


class Logs(Protocol):
    """The logs of the bots, wherever their processes run."""

    @property
    def fault(self) -> str | None:
        """What keeps bots from having a log, for /readyz; None when nothing does."""

    async def tail(self, bot_id: int, lines: int, *, start: int = 0, end: int | None = None) -> bytes:
        """The last lines between two offsets. Raises Unavailable."""

    async def size(self, bot_id: int) -> int:
        """The offset of what is written next. Raises Unavailable."""

    def reader(self, bot_id: int, offset: int) -> LogReader:
        """A reader that begins at an offset."""

    def watch(self, bot_id: int, on_change: Callable[[], None], on_end: Callable[[int], None]) -> Callable[[], None]:
        """Call the one when the log has changed or is gone, and once at first; the other with the offset at which a run
        ended. Both on the caller's event loop. Returns what ends that."""

    def delete(self, bot_id: int) -> None:
        """Delete the log of a bot that is forgotten."""

    def bots(self) -> set[int]:
        """The bots that have a log."""


class Engine(Protocol):
    """Makes processes and finds those again that were made before."""

    async def warm(self, kind: str) -> KindParams:
        """Returns when a process of this kind can be made: with what it takes. Raises SpawnFailed, permanent or not."""

    async def check(self, kind: str, given: Params) -> Params:
        """The parameters, checked and with their defaults. Raises BadParams, and SpawnFailed as `warm` does."""

    def set_kinds(self, kinds: Mapping[str, settings.Kind]) -> None:
        """From now on these are the kinds. Those that are new or changed are imported for later starts; bots that
        run are not touched."""

    async def reload(self, kind: str) -> None:
        """Imports the kind again, for later starts. Raises SpawnFailed; then what was imported before stays."""

    async def spawn(self, order: Order) -> Process:
        """Makes a process. To be called after `warm`, and not to be cancelled. Raises SpawnFailed."""

    def adopt(self, run: Run) -> Process | None:
        """The process of a run of an earlier supervisor, alive or ended since; None when it cannot be found."""

    def lost(self, run: Run) -> Exit:
        """The end of a run whose process cannot be found, with what it left in the log."""

    def disown(self, claimed: Collection[int]) -> None:
        """Ends the processes of earlier supervisors that belong to none of these runs."""

    def forget(self, bot_id: int) -> None:
        """The bot has no process, and none will come soon: what was kept to find one can go."""

    def kind_status(self, kind: str) -> KindStatus:
        """How warm the kind is, without waiting."""
