"""The logs of all bots of this machine: where they are, who follows them, and what each run left in them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from supervisor.core import errors
from supervisor.logs import bounded, tails
from supervisor.logs.follower import Follower
from supervisor.logs.reader import Reader

logger = logging.getLogger(__name__)

LAST_LINES = 10
LAST_LINES_BYTES = 2048
STACKS_LINES = 200
STACKS_BYTES = 8192


@dataclass(frozen=True, slots=True)
class LastWords:
    """What a run left in its bot's log. `log_end` is None where the log could not be read."""

    log_end: int | None
    last_lines: tuple[str, ...]
    stacks: tuple[str, ...]


class Output:
    """The output of one run within its bot's log. No log, and no fault of one, keeps the end of a run from being told.

    Attributes:
        start: where it begins.
    """

    def __init__(self, path: Path, start: int, on_end: Callable[[int], None]) -> None:
        """`on_end` is called with the offset at which it ended, if that can be read."""
        self.start = start
        self._path = path
        self._on_end = on_end
        self._dump: tuple[int, int | None] | None = None

    def dump_begins(self) -> None:
        """Stacks are written from here on."""
        self._dump = self._size(), None

    def dump_ends(self) -> None:
        """All stacks are written."""
        if self._dump is not None and self._dump[1] is None:
            self._dump = self._dump[0], self._size()

    def last_words(self) -> LastWords:
        """What is in the log now that the run has ended."""
        try:
            end = bounded.size(self._path)
            self._on_end(end)
            tail = tails.tail(self._path, LAST_LINES, start=self.start, end=end, max_bytes=LAST_LINES_BYTES)
            return LastWords(end, tails.lines_of(tail), self._stacks())
        except OSError as error:
            logger.warning("cannot read the log %s: %s", self._path, error.strerror)
            return LastWords(None, (), ())

    def _stacks(self) -> tuple[str, ...]:
        if self._dump is None:
            return ()
        start, end = self._dump
        return tails.lines_of(tails.tail(self._path, STACKS_LINES, start=start, end=end, max_bytes=STACKS_BYTES))

    def _size(self) -> int:
        try:
            return bounded.size(self._path)
        except OSError:
            return self.start


class BotLogs:
    """The directory with a log for each bot, and the thread that follows those of bots that run."""

    def __init__(self, directory: Path, follower: Follower) -> None:
        self._directory = directory
        self._follower = follower

    # ---- for the engine

    def path(self, bot_id: int) -> Path:
        """The one log file of a bot."""
        return bounded.log_path(self._directory, bot_id)

    def output(self, bot_id: int, start: int) -> Output:
        """The output of a run that began at this offset."""
        return Output(self.path(bot_id), start, functools.partial(self._follower.ended, bot_id))

    def follow(self, bot_id: int) -> int:
        """Follow the log from its present end on, and return that: a run begins there, or goes on."""
        try:
            offset = bounded.size(self.path(bot_id))
        except OSError:
            # The bot itself will say what is wrong with it.
            offset = 0
        self._follower.follow(bot_id, offset)
        return offset

    def leave(self, bot_id: int) -> None:
        """Nothing is written before the next run."""
        self._follower.leave(bot_id)

    # ---- for readers

    async def tail(self, bot_id: int, lines: int, *, start: int = 0, end: int | None = None) -> bytes:
        """The last lines between two offsets, as they are in the log. Raises Unavailable."""
        with _reading(bot_id):
            return await asyncio.to_thread(tails.tail, self.path(bot_id), lines, start=start, end=end)

    async def size(self, bot_id: int) -> int:
        """The offset of what is written next. Raises Unavailable."""
        with _reading(bot_id):
            return await asyncio.to_thread(bounded.size, self.path(bot_id))

    def reader(self, bot_id: int, offset: int) -> Reader:
        """A reader that begins at an offset."""
        return Reader(self.path(bot_id), offset)

    def watch(self, bot_id: int, on_change: Callable[[], None], on_end: Callable[[int], None]) -> Callable[[], None]:
        """Call back when there is news of the log; see `Follower.watch`. Returns what ends that."""
        return self._follower.watch(bot_id, on_change, on_end)

    def delete(self, bot_id: int) -> None:
        """Delete the log of a bot that is forgotten."""
        self._follower.forget(bot_id, delete=True)

    @property
    def fault(self) -> str | None:
        """What keeps bots from having a log, for /readyz; None when nothing does."""
        try:
            if not stat.S_ISDIR(os.stat(self._directory).st_mode):
                return f"{self._directory} is not a directory; move it away"
        except FileNotFoundError:
            return f"{self._directory} is missing, with what was in it; the next start of a bot makes it again"
        except OSError as error:
            return f"cannot look at {self._directory}: {error.strerror}"
        if not os.access(self._directory, os.W_OK | os.X_OK):
            return f"cannot write to {self._directory}: it must belong to the user who runs the supervisor"
        return None

    def bots(self) -> set[int]:
        """The bots that have a log."""
        stems = (path.stem for path in self._directory.glob("*.log"))
        return {int(stem) for stem in stems if stem.isascii() and stem.isdecimal()}


@contextlib.contextmanager
def _reading(bot_id: int) -> Iterator[None]:
    """Raise Unavailable when the log cannot be read."""
    try:
        yield
    except OSError as error:
        raise errors.Unavailable(f"cannot read the log of bot {bot_id}: {error.strerror}", bot_id=bot_id) from None
