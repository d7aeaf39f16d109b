"""What Prometheus asks for, and how long calls take."""

from __future__ import annotations

import asyncio
import re
import time

from prometheus_client import exposition
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from supervisor import metrics
from supervisor.fleet import Fleet

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_NO_VERSION = re.compile(r"version=(?!\d+(\.\d+)*\s*([,;]|$))")
"""A version that is none, over which the library stumbles: then it is as if nothing was asked for."""

_OTHER = "other"
"""The label of whatever callers make up: each label that they can choose would be memory that they can take."""


class Metrics:
    """For Prometheus, and what reads its format."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    async def scrape(self, request: Request) -> Response:
        """All metrics, in the format of Prometheus or in that of OpenMetrics."""
        accept = ",".join(request.headers.getlist("accept"))
        encode, media_type = exposition.choose_encoder("" if _NO_VERSION.search(accept) else accept)
        scrape = metrics.Scrape(self.fleet.metrics, await self.fleet.census())
        # With 1,000 bots some tens of milliseconds of Python: in a thread, with which the loop takes turns.
        text = await asyncio.to_thread(encode, scrape)
        return Response(text, media_type=media_type)


class Latency:
    """Measures each call until its answer begins: what follows is up to the client, and a stream has no end."""

    def __init__(self, app: ASGIApp, measured: metrics.Metrics) -> None:
        self.app = app
        self.metrics = measured

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                method = scope["method"] if scope["method"] in _METHODS else _OTHER
                # Where the call was refused before it came to a route, there is none.
                route = getattr(scope.get("route"), "path", _OTHER)
                self.metrics.answered(method, route, message["status"], time.perf_counter() - began)
            await send(message)

        with self.metrics.requests.track_inprogress():
            await self.app(scope, receive, watched)
