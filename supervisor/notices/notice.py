"""Notices: what happened to one bot, and those that are the same joined to one. Pure: the time is passed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from supervisor.settings.webhooks import Topic, Webhook

SHOWN = 20
"""The bots that a notice names; the others it counts."""
MAX_GROUPS = 1000
MAX_TOLD = 10_000
"""What was told of which bot is remembered for so many; a bot beyond is told of again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Occurrence:
    """What happened to one bot. `topics` are what it may be told as, the gravest first; `at` is in microseconds since
    the epoch; `message` is one line."""

    topics: tuple[Topic, ...]
    at: int
    bot_id: int
    kind: str
    name: str | None
    labels: Mapping[str, str]
    run_id: int | None
    cause: str | None
    fingerprint: str | None
    message: str
    reason: str


def topic_for(webhook: Webhook, occurrence: Occurrence) -> Topic | None:
    """What the occurrence is told as there; None where nobody wants to hear of it."""
    if webhook.kinds is not None and occurrence.kind not in webhook.kinds:
        return None
    if not webhook.labels.items() <= occurrence.labels.items():
        return None
    return next((topic for topic in occurrence.topics if topic in webhook.on), None)


@dataclass(slots=True, kw_only=True)
class Notice:
    """The same occurrence, `count` times, of the bots `bot_ids`, of which the first few are described in `shown`.

    `due` is when it is to be told; `lost` is how many occurrences before it could not be told.
    """

    topic: Topic
    first: Occurrence
    due: float
    last_at: int = 0
    count: int = 0
    lost: int = 0
    bot_ids: set[int] = field(default_factory=set)
    shown: dict[int, Occurrence] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str | None, ...]:
        return _key(self.topic, self.first)

    def add(self, occurrence: Occurrence) -> None:
        self.count += 1
        self.last_at = max(self.last_at, occurrence.at)
        self.bot_ids.add(occurrence.bot_id)
        if occurrence.bot_id in self.shown or len(self.shown) < SHOWN:
            self.shown[occurrence.bot_id] = occurrence


def _key(topic: Topic, occurrence: Occurrence) -> tuple[str | None, ...]:
    return (topic, occurrence.kind, occurrence.cause, occurrence.fingerprint)


class Notices:
    """What one receiver is to be told. It holds what a slow receiver has not heard yet, in bounded memory: more of the
    same only raises a count."""

    def __init__(self, *, group_s: float, again_s: float) -> None:
        self.lost = 0
        """How many occurrences could not be told, since the last notice that told it."""
        self._group_s = group_s
        self._again_s = again_s
        self._waiting: dict[tuple[str | None, ...], Notice] = {}
        self._told: dict[tuple[tuple[str | None, ...], int], float] = {}  # until when, in that order

    def add(self, topic: Topic, occurrence: Occurrence, now: float) -> None:
        """To be told in `group_s`; or, if the same of this bot was told just now, `again_s` after that."""
        key = _key(topic, occurrence)
        due = self._told.get((key, occurrence.bot_id), 0.0)
        if due <= now:
            due = now + self._group_s
        notice = self._waiting.get(key)
        if notice is None:
            if len(self._waiting) >= MAX_GROUPS:
                self.lost += self._waiting.pop(next(iter(self._waiting))).count
            notice = self._waiting[key] = Notice(topic=topic, first=occurrence, due=due)
        notice.due = min(notice.due, due)
        notice.add(occurrence)

    def due(self) -> float | None:
        """When the next is to be told."""
        return min((notice.due for notice in self._waiting.values()), default=None)

    def take(self, now: float) -> Notice | None:
        """The next that is due, to be told now; with it, what was lost before it."""
        notice = min(self._waiting.values(), key=lambda notice: notice.due, default=None)
        if notice is None or notice.due > now:
            return None
        del self._waiting[notice.key]
        self._remember(notice, now)
        notice.lost, self.lost = self.lost, 0
        return notice

    def _remember(self, notice: Notice, now: float) -> None:
        for bot_id in notice.bot_ids:
            self._told.pop((notice.key, bot_id), None)
            self._told[notice.key, bot_id] = now + self._again_s
        while self._told and (len(self._told) > MAX_TOLD or next(iter(self._told.values())) <= now):
            del self._told[next(iter(self._told))]

    @property
    def waiting(self) -> int:
        """How many occurrences wait to be told."""
        return sum(notice.count for notice in self._waiting.values())
