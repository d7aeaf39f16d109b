"""From events to notices: what is worth one, with what the ledger knows of it, goes to each webhook's outbox."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence

from supervisor.background import Background
from supervisor.core import errors
from supervisor.core.model import Ending, Event, LastExit
from supervisor.notices.health import Change, Health
from supervisor.notices.notice import Occurrence
from supervisor.notices.outbox import Outbox, within
from supervisor.notices.sender import Sender
from supervisor.settings.webhooks import Topic, Webhook
from supervisor.store import Ledger

log = logging.getLogger(__name__)

MAX_SEEN = 10_000
BATCH = 200
LAST_S = 0.5
"""For what is not told yet when the supervisor ends."""
_LEDGER_RETRY_S = 1.0


class Teller:
    """Finds in the events what is worth a notice, and gives it to the outboxes with what the ledger knows of it."""

    def __init__(self, ledger: Ledger, health: Health, outboxes: Sequence[Outbox]) -> None:
        self._ledger = ledger
        self._health = health
        self._outboxes = outboxes
        self._loop = asyncio.get_running_loop()
        self._seen: deque[Change] = deque()
        self._closing = False
        self._news = asyncio.Event()

    def see(self, event: Event, last_exit: LastExit | None) -> None:
        """What the ledger calls with each event."""
        before = self._health.due()
        change = self._health.see(event, last_exit, self._loop.time())
        if change is not None:
            if len(self._seen) >= MAX_SEEN:
                self._seen.popleft()
                self._lose(1)
            self._seen.append(change)
        due = self._health.due()
        if change is not None or (due is not None and due != before):
            self._news.set()

    def _lose(self, count: int) -> None:
        for outbox in self._outboxes:
            outbox.lose(count)

    async def run(self) -> None:
        """Goes on until it is closed, and all that was seen is passed on."""
        while self._seen or not self._closing:
            self._news.clear()
            now = self._loop.time()
            self._seen.extend(self._health.recovered(now))
            if self._seen:
                await self._pass_on()
            elif (due := self._health.due()) is not None:
                await within(due - now, self._news)
            else:
                await self._news.wait()

    def close(self) -> None:
        """From now on nothing more is seen."""
        self._closing = True
        self._news.set()

    async def _pass_on(self) -> None:
        """Gives some of what was seen to the outboxes. While the ledger cannot be read, it waits."""
        changes = [self._seen.popleft() for _ in range(min(len(self._seen), BATCH))]
        try:
            endings = await self._ledger.latest_endings([(c.event.bot_id, c.cause) for c in changes])
        except errors.LedgerUnavailable as outage:
            self._seen.extendleft(reversed(changes))
            log.warning("notices wait: %s", outage.detail, extra={"action": "notices-wait"})
            await asyncio.sleep(_LEDGER_RETRY_S)
            return
        for change, ending in zip(changes, endings, strict=True):
            occurrence = _occurrence(change, ending)
            for outbox in self._outboxes:
                outbox.add(occurrence)


def _occurrence(change: Change, ending: Ending) -> Occurrence:
    event = change.event
    # A bot that gave up says why; of a run that ended there is more to say than the event does.
    message = event.reason
    if change.topics[0] is Topic.RECOVERED:
        message = ""
    elif change.topics[0] is not Topic.FAILED and ending.raised is not None:
        message = f"{ending.raised.type}: {ending.raised.message}".removesuffix(": ")
    elif change.topics[0] is not Topic.FAILED and ending.detail is not None:
        message = ending.detail
    return Occurrence(
        topics=change.topics,
        at=event.at,
        bot_id=event.bot_id,
        kind=ending.kind,
        name=ending.name,
        labels=ending.labels,
        run_id=ending.run_id or event.run_id,
        cause=change.cause,
        fingerprint=ending.fingerprint,
        message=message.partition("\n")[0],
        reason=event.reason,
    )


@contextlib.asynccontextmanager
async def telling(webhooks: Sequence[Webhook], ledger: Ledger, *, recovered_after_s: float) -> AsyncIterator[None]:
    """While the block lasts, the webhooks are told. To be entered before bots are started."""
    sender = Sender()
    outboxes = [
        Outbox(webhook, sender, f"webhook {number} ({webhook.host})") for number, webhook in enumerate(webhooks, 1)
    ]
    teller = Teller(ledger, Health(await ledger.bots_to_settle(), recovered_after_s=recovered_after_s), outboxes)
    unwatch = ledger.watch(teller.see)
    background = Background()
    seeing = background.start(teller.run(), name="notices")
    sending = [background.start(outbox.run(), name="outbox") for outbox in outboxes]
    try:
        yield
    finally:
        unwatch()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_S):
                teller.close()
                await seeing
                for outbox in outboxes:
                    outbox.close()
                await asyncio.gather(*sending)
        await background.close()
        for outbox in outboxes:
            outbox.give_up()
