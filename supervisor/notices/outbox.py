"""What one webhook is to be told: one task for each, so that none waits for another, and the supervisor for none."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random

from supervisor.notices import bodies
from supervisor.notices.notice import Notice, Notices, Occurrence, topic_for
from supervisor.notices.sender import Answer, Sender, new_id
from supervisor.settings.webhooks import Webhook

log = logging.getLogger(__name__)

FIRST_RETRY_S = 1.0
FACTOR = 2.6
"""Each wait is so many times as long as that before: ten tries take 57 minutes."""
GIVE_UP_S = 3600.0


class Outbox:
    """What one webhook is to be told, and the telling of it."""

    def __init__(self, webhook: Webhook, sender: Sender, label: str) -> None:
        """`label`: what the webhook is called in the log."""
        self._webhook = webhook
        self._sender = sender
        self._label = label
        self._notices = Notices(group_s=webhook.group_s, again_s=webhook.again_s)
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._closing = asyncio.Event()
        self._failing = False

    def add(self, occurrence: Occurrence) -> None:
        """To be told, if the webhook wants it."""
        topic = topic_for(self._webhook, occurrence)
        if topic is not None:
            self._notices.add(topic, occurrence, self._loop.time())
            self._news.set()

    def lose(self, count: int) -> None:
        """So many things happened that nobody can be told of."""
        self._notices.lost += count

    async def run(self) -> None:
        """Tells what is due, for ever; once it is closing, what is left, and returns."""
        while not self._closing.is_set():
            self._news.clear()
            if (notice := self._notices.take(self._loop.time())) is not None:
                await self._tell(notice)
            elif (due := self._notices.due()) is None:
                await self._news.wait()
            else:
                await within(due - self._loop.time(), self._news)
        while (notice := self._notices.take(float("inf"))) is not None:
            await self._tell(notice)

    def close(self) -> None:
        """From now on each notice is tried once, at once."""
        self._closing.set()
        self._news.set()

    async def _tell(self, notice: Notice) -> None:
        body, message_id = bodies.encoded(self._webhook, notice), new_id()
        until = self._loop.time() + GIVE_UP_S
        told = False
        try:
            for tries in itertools.count():
                is_last = self._closing.is_set()
                answer = await self._sender.send(self._webhook, body, message_id)
                self._say(answer, notice.lost)
                told = answer.ok
                if told or answer.final or is_last:
                    break
                delay_s = max(FIRST_RETRY_S * FACTOR**tries * random.uniform(0.8, 1.2), answer.retry_after_s)
                if self._loop.time() + delay_s > until:
                    break
                await within(delay_s, self._closing)
        finally:
            if not told:
                self._notices.lost += notice.lost + notice.count

    def _say(self, answer: Answer, lost: int) -> None:
        """Once when it begins to fail, and once when it works again."""
        if answer.ok == self._failing:
            self._failing = not answer.ok
            if answer.ok:
                extra = {"action": "notices-sent"}
                log.info("%s takes notices again; %d occurrences were lost", self._label, lost, extra=extra)
            else:
                what = "it will not be told this" if answer.final else "tries again, for up to an hour"
                extra = {"action": "notices-not-sent"}
                log.warning("cannot tell %s: %s; %s", self._label, answer.told, what, extra=extra)

    def give_up(self) -> None:
        """Says what was not told."""
        lost = self._notices.lost + self._notices.waiting
        if lost:
            log.warning("%s was not told of %d occurrences", self._label, lost, extra={"action": "notices-lost"})


async def within(limit_s: float, happened: asyncio.Event) -> None:
    """Waits until it has happened, or so long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            await happened.wait()
