"""Every event goes to a Redis stream too, each once, under its own number.

Nothing waits in memory: the ledger has all events, and the stream's last entry says which of them come next. So an
outage, of Redis or of the supervisor, loses none and repeats none: an entry's id is `<event number>-0`, and Redis takes
no id that is not larger than the last.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import redis.asyncio
from pydantic import SecretStr
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from supervisor.background import Background
from supervisor.core import errors
from supervisor.core.model import Entry
from supervisor.store import Ledger

log = logging.getLogger(__name__)

MAX_ENTRIES = 100_000
"""About: Redis drops the oldest in blocks."""
BATCH = 500
TIMEOUT_S = 5.0
FIRST_RETRY_S = 0.5
MAX_RETRY_S = 15.0
LAST_S = 0.5
"""For what is not sent yet when the supervisor ends. The rest is sent by the next."""


class Foreign(Exception):
    """The stream has entries that are not from this ledger."""


class Stream:
    """Sends the events of a ledger to one stream; see `run`."""

    def __init__(self, url: SecretStr, name: str, ledger: Ledger, latest_event: int) -> None:
        """`latest_event`: where a stream begins that is not there yet. Raises ValueError, with the URL in it."""
        self._client = redis.asyncio.from_url(
            url.get_secret_value(),
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            # What was sent before the connection broke may have arrived: not again before that is known.
            retry=Retry(NoBackoff(), 0),
        )
        self._name = name
        self._ledger = ledger
        self._sent = latest_event
        self._failures = 0
        self._news = asyncio.Event()
        self._closing = asyncio.Event()

    def wake(self) -> None:
        """There may be another event."""
        self._news.set()

    def close(self) -> None:
        """From now on an outage is not waited for."""
        self._closing.set()
        self._news.set()

    async def run(self) -> None:
        """Goes on until it is closed, and has sent all or cannot. An outage is told once."""
        async with self._client:
            await self._run()

    async def _run(self) -> None:
        while True:
            try:
                self._sent = await self._last_number()
                await self._send_all()
            except (RedisError, OSError, Foreign, errors.LedgerUnavailable) as error:
                if not self._failures:
                    extra = {"action": "stream-fails"}
                    log.warning("events wait, they cannot be sent to Redis: %s", error, extra=extra)
                self._failures += 1
            if self._closing.is_set():
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(FIRST_RETRY_S * self._failures, MAX_RETRY_S)):
                    await self._closing.wait()

    async def _last_number(self) -> int:
        """The number of the last event in the stream."""
        try:
            last_id = (await self._client.xinfo_stream(self._name))["last-generated-id"]
        except ResponseError as error:
            if "no such key" not in str(error):
                raise
            return self._sent
        last = int(last_id.split(b"-" if isinstance(last_id, bytes) else "-")[0])
        if last > await self._ledger.latest_event():
            raise Foreign(f"the stream {self._name} has an entry {last}, later than any event here: another's?")
        # A stream that consumers have made has no entry yet.
        return last or self._sent

    async def _send_all(self) -> None:
        """Sends what there is, and what comes, until it is closed."""
        while True:
            self._news.clear()
            events = await self._ledger.events_after(self._sent, limit=BATCH)
            if events:
                # All or none: after one that was refused, for want of memory, no other may go before it.
                async with self._client.pipeline(transaction=True) as batch:
                    for entry in events:
                        batch.xadd(
                            self._name,
                            _fields(entry),
                            id=f"{entry.event.event_id}-0",
                            maxlen=MAX_ENTRIES,
                            approximate=True,
                        )
                    await batch.execute()
                self._sent = events[-1].event.event_id
                if self._failures:
                    log.info("events go to Redis again", extra={"action": "stream-works"})
                self._failures = 0
            elif self._closing.is_set():
                return
            else:
                await self._news.wait()


def _fields(entry: Entry) -> dict[Any, Any]:
    """Those that have no value are left out."""
    event = entry.event
    fields = {
        "event_id": event.event_id,
        "at": event.at,
        "bot_id": event.bot_id,
        "run_id": event.run_id,
        "kind": entry.kind,
        "name": entry.name,
        "state": event.state,
        "goal": event.goal,
        "reason": event.reason,
    }
    return {name: value for name, value in fields.items() if value is not None}


@contextlib.asynccontextmanager
async def publishing(url: SecretStr, name: str, ledger: Ledger) -> AsyncIterator[None]:
    """While the block lasts, events are sent to the stream. To be entered before bots are started.

    Raises SettingsRefused.
    """
    latest_event = await ledger.latest_event()
    try:
        stream = Stream(url, name, ledger, latest_event)
    except ValueError:
        raise errors.SettingsRefused("redis_url: Redis cannot use this URL") from None
    unwatch = ledger.watch(lambda *_: stream.wake())
    background = Background()
    sending = background.start(stream.run(), name="stream")
    try:
        yield
    finally:
        unwatch()
        stream.close()
        await asyncio.wait([sending], timeout=LAST_S)
        await background.close()
