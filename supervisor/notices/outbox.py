"""Telling: one task for each receiver, so that none waits for another, and the supervisor for none."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import email.utils
import hashlib
import hmac
import logging
import random
import ssl
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import httpx

from supervisor import errors
from supervisor.model import Ending, Event, LastExit
from supervisor.notices import bodies
from supervisor.notices.health import Change, Health
from supervisor.notices.notice import Notice, Notices, Occurrence, topic_for
from supervisor.store import Ledger
from supervisor.webhooks import Topic, Webhook

log = logging.getLogger(__name__)

TIMEOUT_S = 10.0
"""For one try, from looking up the name to the answer's status."""
TRIES = 10
FIRST_RETRY_S = 1.0
FACTOR = 2.6
"""Each wait is so many times as long as that before: ten tries take 57 minutes."""
MAX_RETRY_AFTER_S = 3600.0
LAST_S = 0.5
"""For what is not told yet when the supervisor ends."""
MAX_SEEN = 10_000
BATCH = 200
_LEDGER_RETRY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of one try. `retry_after_s`: how long the receiver wants to be left alone."""

    told: str
    ok: bool = False
    final: bool = False
    """Trying again would not help."""
    retry_after_s: float = 0.0


class Sender:
    """Makes requests, with nothing that outlives one: neither connections nor cookies."""

    def __init__(self) -> None:
        """Raises SettingsRefused."""
        # They tell each URL, and a URL is a secret here.
        for name in ("httpx", "httpcore"):
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            # It takes 20 ms to make.
            self._tls: ssl.SSLContext = httpx.create_ssl_context()
            self._client()
        except (OSError, ValueError, ImportError):
            raise errors.SettingsRefused(
                "webhooks: the proxy or the certificates that the environment names (HTTPS_PROXY, SSL_CERT_FILE) cannot"
                " be used"
            ) from None

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(verify=self._tls, timeout=TIMEOUT_S, follow_redirects=False)

    async def send(self, webhook: Webhook, body: bytes, message_id: str) -> Answer:
        """One try. The body of the answer is not read: it may have no end."""
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "bot-supervisor",
            **signed(webhook, body, message_id),
        }
        try:
            async with (
                asyncio.timeout(TIMEOUT_S),
                self._client() as client,
                client.stream("POST", webhook.url.get_secret_value(), content=body, headers=headers) as response,
            ):
                return _judged(response)
        except TimeoutError:
            return Answer(told=f"no answer within {TIMEOUT_S:g} s")
        except httpx.ConnectError as error:
            return Answer(told=f"cannot connect: {error}")
        except httpx.InvalidURL:
            return Answer(told="its URL cannot be used", final=True)
        except httpx.HTTPError as error:
            # Not its text, in which the URL may stand.
            return Answer(told=f"no answer: {type(error).__name__}")


def signed(webhook: Webhook, body: bytes, message_id: str) -> dict[str, str]:
    """The headers of Standard Webhooks; the signature only where there is a secret."""
    headers = {"webhook-id": message_id, "webhook-timestamp": str(int(time.time()))}
    if webhook.key is not None:
        content = b".".join([message_id.encode(), headers["webhook-timestamp"].encode(), body])
        digest = hmac.digest(webhook.key, content, hashlib.sha256)
        headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return headers


def _judged(response: httpx.Response) -> Answer:
    code = response.status_code
    return Answer(
        # Not the phrase that was sent: it may say anything.
        told=f"{code} {httpx.codes.get_reason_phrase(code)}".rstrip(),
        ok=200 <= code < 300,
        final=300 <= code < 500 and code not in (408, 429),
        retry_after_s=_retry_after_s(response.headers.get("Retry-After", "")),
    )


def _retry_after_s(value: str) -> float:
    """Seconds, or a date; 0 for what is neither."""
    if value.isascii() and value.isdecimal():
        return min(float(value[:9]), MAX_RETRY_AFTER_S)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return min(max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time()), MAX_RETRY_AFTER_S)
    return 0.0


def new_id() -> str:
    """What a message is known by: the same in each try."""
    return f"msg_{uuid.uuid4().hex}"


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
                await _within(due - self._loop.time(), self._news)
        while (notice := self._notices.take(float("inf"))) is not None:
            await self._tell(notice)

    def close(self) -> None:
        """From now on each notice is tried once, at once."""
        self._closing.set()
        self._news.set()

    async def _tell(self, notice: Notice) -> None:
        body, message_id = bodies.encoded(self._webhook, notice), new_id()
        told = False
        try:
            for tries in range(TRIES):
                was_closing = self._closing.is_set()
                answer = await self._sender.send(self._webhook, body, message_id)
                self._say(answer, notice.lost)
                told = answer.ok
                if told or answer.final or was_closing:
                    break
                delay_s = FIRST_RETRY_S * FACTOR**tries * random.uniform(0.8, 1.2)
                await _within(max(delay_s, answer.retry_after_s), self._closing)
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


async def _within(limit_s: float, happened: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            await happened.wait()


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
                await _within(due - now, self._news)
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
    seeing = asyncio.create_task(teller.run(), name="notices")
    sending = [asyncio.create_task(outbox.run(), name="outbox") for outbox in outboxes]
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
        for task in (seeing, *sending):
            task.cancel()
        await asyncio.wait([seeing, *sending])
        for outbox in outboxes:
            outbox.give_up()
