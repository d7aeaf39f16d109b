"""Pages for people, complete with no internet: what they load comes from this server."""

from __future__ import annotations

import pathlib
from typing import Annotated

from fastapi import Path
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

from supervisor.api import headers, requests
from supervisor.core import errors

_STATIC = pathlib.Path(__file__).parent / "static"

_assets = StaticFiles(directory=_STATIC, packages=[("fastapi_offline", "static")])
"""Our own files, and Swagger UI's from the package that ships them."""


async def dashboard() -> Response:
    """The fleet, live. The page and its assets hold no data: it asks for a token when a call needs one."""
    return _page("dashboard.html")


async def apidocs() -> Response:
    """Swagger UI."""
    return _page("apidocs.html")


async def asset(request: Request, name: Annotated[requests.Name, Path()]) -> Response:
    """A file that a page loads."""
    try:
        answer = await _assets.get_response(name, request.scope)
    except RuntimeError as error:
        # Starlette reads files in threads that it makes when it needs them.
        raise errors.Unavailable(f"cannot read {name}: {error}") from None
    answer.headers["Cache-Control"] = "no-cache"
    return answer


def _page(name: str) -> Response:
    return HTMLResponse((_STATIC / name).read_bytes(), headers={"Content-Security-Policy": headers.PAGE_POLICY})
