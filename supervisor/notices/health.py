"""What of all that happens to bots is worth a notice. Pure: the time is passed in, on the loop's clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from supervisor.core.model import SETTLED, Bot, Cause, Event, LastExit, State
from supervisor.settings.webhooks import Topic

_TOPICS = {
    Cause.CRASHED: Topic.CRASHED,
    Cause.KILLED: Topic.CRASHED,
    Cause.START_TIMEOUT: Topic.CRASHED,
    Cause.SPAWN_FAILED: Topic.CRASHED,
    Cause.HEARTBEAT: Topic.HEARTBEAT,
    Cause.OOM: Topic.OOM,
    Cause.LOST: Topic.LOST,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Something that happened to a bot. `topics` are what it may be told as, the gravest first; `cause` is that of the
    run that ended by it, if one did."""

    topics: tuple[Topic, ...]
    event: Event
    cause: Cause | None


class Health:
    """Which bots are unwell. Keeps nothing of those that are well and settled."""

    def __init__(self, bots: Iterable[Bot], *, recovered_after_s: float) -> None:
        """`bots`: those that an earlier supervisor left running or to be run; what ended them then was told then."""
        self._after_s = recovered_after_s
        self._ends: dict[int, int | None] = {}
        self._unwell: set[int] = set()
        self._recovering: dict[int, tuple[float, Event]] = {}  # in the order of the times
        for bot in bots:
            self._ends[bot.bot_id] = bot.last_exit.at if bot.last_exit else None
            waits = bot.state in (State.BACKOFF, State.SCHEDULED, State.FAILED)
            if waits and bot.last_exit and bot.last_exit.cause in _TOPICS:
                self._unwell.add(bot.bot_id)

    def see(self, event: Event, last_exit: LastExit | None, now: float) -> Change | None:
        """What the event has to say: the end of a run that failed, that the bot gave up, or both."""
        bot_id = event.bot_id
        self._recovering.pop(bot_id, None)
        at = last_exit.at if last_exit else None
        # Of a bot that had settled before, the first event has the old end.
        is_new = last_exit is not None and self._ends.get(bot_id, at) != at
        self._ends[bot_id] = at
        cause = last_exit.cause if is_new and last_exit else None
        topics: tuple[Topic, ...] = (Topic.FAILED,) if event.state is State.FAILED else ()
        if cause in _TOPICS:
            topics += (_TOPICS[cause],)
        if topics:
            self._unwell.add(bot_id)
        elif event.state is State.SCHEDULED and cause is Cause.EXITED and bot_id in self._unwell:
            # Runs by a schedule may be short: that one ended well says as much as a long one that goes on.
            self._unwell.discard(bot_id)
            topics, cause = (Topic.RECOVERED,), None
        if event.state in (State.STOPPED, State.EXITED):
            self._unwell.discard(bot_id)
        if event.state is State.RUNNING and bot_id in self._unwell:
            self._recovering[bot_id] = (now + self._after_s, event)
        if event.state in SETTLED:
            del self._ends[bot_id]
        return Change(topics=topics, event=event, cause=cause) if topics else None

    def due(self) -> float | None:
        """When the next bot will have recovered, if nothing happens to it."""
        return next((due for due, _ in self._recovering.values()), None)

    def recovered(self, now: float) -> list[Change]:
        """The bots that were unwell, and have run for long enough now."""
        changes = []
        for bot_id, (due, event) in list(self._recovering.items()):
            if due > now:
                break
            del self._recovering[bot_id]
            self._unwell.discard(bot_id)
            changes.append(Change(topics=(Topic.RECOVERED,), event=event, cause=None))
        return changes
