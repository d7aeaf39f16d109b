"""The numbers for Prometheus, and how long the calls take."""

from __future__ import annotations

import asyncio
import dataclasses
import time

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from supervisor.api import streams
from supervisor.fleet.fleet import Fleet
from supervisor.metrics import Metrics

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Scrapes:
    """The call that Prometheus makes."""

    def __init__(self, fleet: Fleet, open_streams: streams.Streams) -> None:
        self.fleet = fleet
        self.streams = open_streams

    async def scrape(self, request: Request) -> Response:
        """Metrics in the text format of Prometheus, or in that of OpenMetrics where `Accept` asks for it."""
        levels = await self.fleet.listing.levels(per_bot=self.fleet.metrics.per_bot)
        levels = dataclasses.replace(levels, streams=self.streams.count)
        accept = ",".join(request.headers.getlist("accept"))
        text, content_type = await asyncio.to_thread(self.fleet.metrics.text, levels, accept)
        return Response(text, headers={"Content-Type": content_type})


class Timing:
    """Times each call until its answer begins: how long a stream goes on says how long somebody listened.

    Calls to no route, and those that are refused before one is looked for, are of the route `unknown`; those whose
    client had gone before there was an answer have the status `unanswered`.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        status: int | None = None

        def answered() -> None:
            method = scope["method"] if scope["method"] in METHODS else "other"
            route = getattr(scope.get("route"), "path", "unknown")
            self.metrics.answered(method, route, str(status or "unanswered"), time.perf_counter() - began)

        async def timed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                answered()
            await send(message)

        try:
            await self.app(scope, receive, timed)
        finally:
            if status is None:
                answered()
