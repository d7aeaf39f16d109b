"""Who did what: one line in the program's log for each call that may change state."""

from __future__ import annotations

import contextvars
import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from supervisor.api import access

log = logging.getLogger(__name__)

_SHOWN_CHARACTERS = 200
_SHOWN_BOTS = 20

_bots: contextvars.ContextVar[list[int]] = contextvars.ContextVar("_bots")


def concerns(*bot_ids: int) -> None:
    """Said by a call whose path does not tell which bots it is about."""
    _bots.get().extend(bot_ids)


class Audit:
    """Writes the line once the call is answered, or has ended without an answer: the client had gone.

    Callers that are not known are left out: whoever can connect could fill the log. So are bodies and queries,
    which may hold secrets.
    """

    def __init__(self, app: ASGIApp, level_of: access.LevelOf) -> None:
        self.app = app
        self.level_of = level_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.level_of(scope) is not access.Access.ADMIN:
            await self.app(scope, receive, send)
            return
        bots: list[int] = []
        status: int | None = None

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        before = _bots.set(bots)
        try:
            await self.app(scope, receive, watched)
        finally:
            _bots.reset(before)
            if "caller" in scope:
                _write(scope, status, bots)


def _write(scope: Scope, status: int | None, bots: list[int]) -> None:
    # As it came, with escapes: nothing in it can pass for another line.
    path = scope["raw_path"].decode("ascii", "backslashreplace")[:_SHOWN_CHARACTERS]
    client = scope["client"][0] if scope["client"] else "unix"
    about = ""
    if bots:
        about = f" bots {','.join(map(str, bots[:_SHOWN_BOTS]))}"
        about += f" and {len(bots) - _SHOWN_BOTS} more" if len(bots) > _SHOWN_BOTS else ""
    answer = status or "unanswered"
    log.info(
        "audit | %s %s %s %s %s%s", scope["caller"], client, scope["method"], path, answer, about,
        extra={
            "action": "audit", "caller": scope["caller"], "client": client, "method": scope["method"], "path": path,
            "status": status, "bots": bots,
        },
    )  # fmt: skip
