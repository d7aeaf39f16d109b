"""What a call of a client raises.

Error
├── Unreachable     no supervisor answers there
└── Problem         it answered that the call cannot be done (RFC 9457)
"""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import Mapping, Sequence
from typing import Any

import httpx


class Error(Exception):
    """A call was not done."""


class Unreachable(Error):
    """No supervisor answers there. The message is one line: where, and why."""

    def __init__(self, url: str, why: str | Exception) -> None:
        super().__init__(f"no supervisor answers at {url}: {_told(why)}")


class Problem(Error):
    """The supervisor answered that the call cannot be done.

    `type` ("/problems/name-taken") is for programs, `detail` a sentence for people; `errors` says for input that is
    not valid what is wrong, and where; `bot_id` is there where the problem concerns a bot.
    """

    def __init__(
        self,
        *,
        status: int,
        type: str = "about:blank",
        title: str,
        detail: str,
        bot_id: int | None = None,
        errors: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(detail or title)
        self.status = status
        self.type = type
        self.title = title
        self.detail = detail
        self.bot_id = bot_id
        self.errors = errors


def _told(why: str | Exception) -> str:
    error: BaseException | None = why if isinstance(why, httpx.ConnectError) else None
    while error is not None:
        # httpx and anyio say that all attempts failed, and the first of their causes why.
        number = error.errno if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else None
        if number is not None and number in errno.errorcode:
            return os.strerror(number)
        error = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__ or error.__context__
    return str(why) or type(why).__name__


def of(response: httpx.Response) -> Problem:
    """The problem that an answer tells of; its body has been read. A proxy's answer may be no document of ours."""
    try:
        told = response.json()
    except ValueError:
        told = None
    if not isinstance(told, dict):
        told = {}
    title = str(told.get("title") or response.reason_phrase or "refused")
    return Problem(
        status=response.status_code,
        type=str(told.get("type", "about:blank")),
        title=title,
        detail=str(told.get("detail") or f"{title} ({response.status_code})"),
        bot_id=told.get("bot_id"),
        errors=told.get("errors") or (),
    )
