"""What a body may be: small, here in time, and JSON that can be kept."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pydantic_core
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from supervisor.api import problems

BODY_LIMIT_BYTES = 256 * 1024
BODY_TIMEOUT_S = 20.0


class Bodies:
    """Reads each body, within its limits, before anything looks at it; the application gets it in one piece."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if int(headers.get("content-length", "0")) > BODY_LIMIT_BYTES:
            await _too_large()(scope, receive, send)
            return
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > BODY_LIMIT_BYTES:
                        await _too_large()(scope, receive, send)
                        return
        except TimeoutError:
            await problems.response(408, "the body did not come in time")(scope, receive, send)
            return
        if body and (refusal := _refusal(bytes(body), headers.get("content-type"))) is not None:
            await refusal(scope, receive, send)
            return

        whole: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replayed() -> Message:
            return whole.pop() if whole else await receive()

        await self.app(scope, replayed, send)


def _too_large() -> Response:
    return problems.response(413, f"a body has at most {BODY_LIMIT_BYTES} bytes")


def _refusal(body: bytes, content_type: str | None) -> Response | None:
    # What a form or a script without preflight can send is no JSON, whatever it looks like.
    media_type = (content_type or "application/json").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        return problems.response(415, "send JSON, with the header Content-Type: application/json")
    try:
        value = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        return problems.invalid([{"loc": ["body"], "msg": f"this is not JSON: {error}"}])
    if (where := _unstorable(value)) is not None:
        return problems.invalid([{"loc": ["body", *where], "msg": "neither NUL nor a number without end can be kept"}])
    return None


def _unstorable(value: Any) -> tuple[str | int, ...] | None:
    """The way to a string with NUL, or to a number as large as 1e999, which Python reads as infinity."""
    inner: list[tuple[str | int, Any]] = []
    match value:
        case str():
            return () if "\0" in value else None
        case float():
            return None if math.isfinite(value) else ()
        case dict():
            inner = list(value.items())
            if any("\0" in key for key in value):
                return ()
        case list():
            inner = list(enumerate(value))
    for key, item in inner:
        if (where := _unstorable(item)) is not None:
            return (key, *where)
    return None
