"""So many starts at once, and so many a second: who may start now, and who waits behind whom."""

from __future__ import annotations

import asyncio
import bisect
import itertools
import math
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """At most `at_once` bots in the act of starting, and `per_s` starts in a second; None: no limit."""

    at_once: int | None = None
    per_s: float | None = None


class Turn:
    """One bot's place among the starts. Awaited, it returns when the bot may start."""

    def __init__(self, starts: Starts, kind: str, number: int) -> None:
        self.kind = kind
        self.number = number
        """Turns are numbered in the order in which they came."""
        self._starts = starts
        self._granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def granted(self) -> bool:
        return self._granted.done()

    @property
    def place(self) -> int:
        """How many wait before it now; 0 once it is granted."""
        return 0 if self.granted else self._starts.before(self)

    def grant(self) -> None:
        # Whoever waits may have been cancelled in this moment.
        if not self._granted.done():
            self._granted.set_result(None)

    def release(self) -> None:
        """The bot has started, or has given up waiting. May be called again."""
        self._starts.release(self)

    def __await__(self) -> Generator[None, None, None]:
        return asyncio.shield(self._granted).__await__()


class Starts:
    """Lets bots start in the order in which they came. One whose kind is at its limit holds up no other kind.

    `rate` tells the limits of a kind, and those of all kinds together for None; it is asked at each start, so that
    changed settings hold from then on. Starts are spaced evenly: one each 1 / per_s seconds.
    """

    def __init__(self, rate: Callable[[str | None], Rate]) -> None:
        self._rate = rate
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count()
        self._waiting: list[Turn] = []  # by number
        self._starting: set[Turn] = set()
        self._at_once: Counter[str | None] = Counter()
        self._next_at: dict[str | None, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, kind: str) -> Turn:
        """A place in the queue, or at once the permission to start: then the turn is `granted` already."""
        turn = Turn(self, kind, next(self._numbers))
        self._waiting.append(turn)
        self._let_start()
        return turn

    def before(self, turn: Turn) -> int:
        """How many wait that came before this one."""
        return bisect.bisect_left(self._waiting, turn.number, key=lambda waiting: waiting.number)

    def release(self, turn: Turn) -> None:
        if turn in self._starting:
            self._starting.remove(turn)
            for group in (None, turn.kind):
                self._at_once[group] -= 1
        elif turn in self._waiting:
            self._waiting.remove(turn)
        else:
            return
        self._let_start()

    def _let_start(self) -> None:
        """Grants what can be granted now, and comes back when time alone makes more possible."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._loop.time()
        wake_at = math.inf
        for turn in list(self._waiting):
            free_at = self._free_at(None)
            if free_at > now:
                wake_at = free_at
                break
            free_at = self._free_at(turn.kind)
            if free_at > now:
                wake_at = min(wake_at, free_at)
            else:
                self._waiting.remove(turn)
                self._grant(turn, now)
        if wake_at < math.inf:
            self._timer = self._loop.call_at(wake_at, self._let_start)

    def _free_at(self, group: str | None) -> float:
        """When the limits of a kind, or of all for None, allow the next start; infinity while too many start."""
        at_once = self._rate(group).at_once
        if at_once is not None and self._at_once[group] >= at_once:
            return math.inf
        return self._next_at.get(group, 0.0)

    def _grant(self, turn: Turn, now: float) -> None:
        self._starting.add(turn)
        for group in (None, turn.kind):
            self._at_once[group] += 1
            per_s = self._rate(group).per_s
            if per_s is not None:
                self._next_at[group] = max(self._next_at.get(group, 0.0), now) + 1 / per_s
        turn.grant()
