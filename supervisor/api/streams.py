"""Answers that do not end: server-sent events."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterator

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from supervisor.core import errors

HEADERS = {"X-Accel-Buffering": "no"}
"""nginx would keep back what comes in small pieces."""


class Streams:
    """The streams that are open, `count` of them, and how many may be."""

    def __init__(self, limit: int) -> None:
        self.count = 0
        self._limit = limit

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Takes a place while the block lasts. Raises Unavailable."""
        if self.count >= self._limit:
            raise errors.Unavailable(f"{self._limit} streams are open, the most that max_streams allows")
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1


class EventStream(StreamingResponse):
    """Server-sent events, until they end or the client is gone."""

    media_type = "text/event-stream"

    def __init__(self, streams: Streams, messages: AsyncGenerator[bytes, None]) -> None:
        """`messages` are as they go over the wire."""
        super().__init__(messages, headers=HEADERS)
        self._streams = streams
        self._messages = messages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.aclosing(self._messages):
            if scope["method"] == "HEAD":
                await Response(headers=HEADERS, media_type=self.media_type)(scope, receive, send)
                return
            with self._streams.one():
                await super().__call__(scope, receive, send)
