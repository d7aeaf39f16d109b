"""What a call that cannot be done is answered with: RFC 9457, for every status from 400 up."""

from __future__ import annotations

import http
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pydantic_core
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from supervisor.core import errors

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

_SHOWN_ERRORS = 20
_SHOWN_CHARACTERS = 200


def response(
    status: int,
    detail: str,
    *,
    kind: str | None = None,
    title: str | None = None,
    headers: Mapping[str, str] | None = None,
    **members: Any,
) -> Response:
    """One problem. Without a `kind` of its own it is only its status (RFC 9457: about:blank)."""
    body = {
        "type": f"/problems/{kind}" if kind else "about:blank",
        "title": title or http.HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        **members,
    }
    return Response(pydantic_core.to_json(body), status, headers, MEDIA_TYPE)


def of(problem: errors.Problem, status: int | None = None) -> Response:
    """The answer to a problem of ours; `status` where the call makes another of it."""
    members: dict[str, Any] = {}
    if problem.bot_id is not None:
        members["bot_id"] = problem.bot_id
    if isinstance(problem, errors.StillAlive):
        members["state"] = "killing"
    if problem.errors:
        members["errors"] = _shown(problem.errors)
    headers = None if problem.retry_after_s is None else {"Retry-After": str(problem.retry_after_s)}
    return response(
        status or problem.status,
        _short(problem.detail, 500),
        kind=problem.kind,
        title=problem.title(),
        headers=headers,
        **members,
    )


def invalid(found: Sequence[Mapping[str, Any]]) -> Response:
    """422 for input that is not what the document asks for. `found`: each with `loc` and `msg`."""
    shown = _shown(found)
    detail = "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in shown[:3])
    return response(422, detail, kind="invalid-input", title="The input is not valid", errors=shown)


def _shown(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Where and what, never the input itself: it can be large, or secret."""
    return [
        {
            "loc": [part if isinstance(part, int) else _short(part) for part in error.get("loc", ())],
            "msg": _short(str(error.get("msg", "")).removeprefix("Value error, ")),
        }
        for error in found[:_SHOWN_ERRORS]
    ]


def _short(text: object, characters: int = _SHOWN_CHARACTERS) -> str:
    return str(text)[:characters]


async def on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.Problem)
    return of(error)


async def on_http_error(request: Request, error: Exception) -> Response:
    """What the framework itself refuses: an unknown path, a method that the path does not have."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return response(404, "there is nothing at this path")
    if error.status_code == 405:
        allowed = [
            method
            for method in ("GET", "HEAD", "POST", "DELETE")
            if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in request.app.routes)
        ]
        return response(405, f"this path takes {', '.join(allowed)}", headers={"Allow": ", ".join(allowed)})
    return response(error.status_code, str(error.detail), headers=error.headers)


class Catch:
    """The last resort: a bug of ours is logged with its traceback and answered with 500 without one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception:
            log.exception("cannot answer %s %s", scope.get("method"), ascii(scope.get("path"))[:_SHOWN_CHARACTERS])
            if started:
                raise
            await response(500, "a bug of the supervisor's: its log has the details")(scope, receive, send)
