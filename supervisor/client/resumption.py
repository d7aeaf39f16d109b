"""How far a feed was read, and for how long one tries to read on."""

from __future__ import annotations

import time
from typing import Generic, TypeVar

from httpx_sse import ServerSentEvent

from supervisor.client import problems
from supervisor.client.calls import Feed

T = TypeVar("T")

_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 2.0


class Resumption(Generic[T]):
    """The place in a feed, over its connections. A feed that breaks is read on from there, nothing missed or twice."""

    def __init__(self, feed: Feed[T], patience_s: float) -> None:
        self._feed = feed
        self._patience_s = patience_s
        self._last_id = "" if feed.since is None else str(feed.since)
        self._was_open = False
        self._lost_at: float | None = None
        self._delay_s = _FIRST_DELAY_S

    @property
    def headers(self) -> dict[str, str]:
        """What to ask with."""
        place = {"Last-Event-ID": self._last_id} if self._last_id else {}
        return {"Accept": "text/event-stream", "Cache-Control": "no-store", **place}

    def opened(self) -> None:
        """The supervisor has answered."""
        self._was_open = True
        self._lost_at = None
        self._delay_s = _FIRST_DELAY_S

    def take(self, message: ServerSentEvent) -> T | None:
        """What a message says; None for a comment, which the decoder hands out as a message without a new id.

        Raises ValueError for what is none of ours.
        """
        if message.event == "message" and message.id == self._last_id:
            return None
        value = self._feed.read(message)
        self._last_id = message.id or self._last_id
        return value

    def delay_s(self, lost: problems.Error) -> float:
        """How long to wait before the next try. Raises `lost` when it is no use to try on."""
        refused = isinstance(lost, problems.Problem) and lost.status < 500
        now = time.monotonic()
        self._lost_at = self._lost_at or now
        if refused or not self._was_open or now - self._lost_at > self._patience_s:
            raise lost
        delay_s, self._delay_s = self._delay_s, min(2 * self._delay_s, _LONGEST_DELAY_S)
        return delay_s
