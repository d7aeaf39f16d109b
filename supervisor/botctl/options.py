"""The arguments and options that commands share, and how their values are read."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from supervisor.botctl.exits import Misused

Url = Annotated[str | None, typer.Option(metavar="URL", help="where the supervisor is: http://…, unix:/path")]
Json = Annotated[bool, typer.Option("--json", help="print JSON: one document, or one a line where there is no end")]
BotId = Annotated[int, typer.Argument(metavar="ID", min=1)]
SomeIds = Annotated[list[int], typer.Argument(metavar="IDS...", min=1)]
AnyIds = Annotated[list[int] | None, typer.Argument(metavar="[IDS...]", min=1)]
Kind = Annotated[str | None, typer.Option(help="those of this kind")]
Name = Annotated[str | None, typer.Option(help="the one with this name")]
Labels = Annotated[list[str] | None, typer.Option("--label", metavar="K=V", help="those with this label; repeatable")]
States = Annotated[list[str] | None, typer.Option("--state", help="those in this state; repeatable")]
GraceS = Annotated[float | None, typer.Option(min=0, help="seconds between SIGTERM and SIGKILL")]
Since = Annotated[
    str | None, typer.Option(metavar="TIME", help="from then on: 90s, 15m, 2h, 7d ago, or 2026-01-31T08:00Z")
]


def pairs(given: Sequence[str] | None) -> dict[str, str]:
    """`k=v` as a mapping; labels may also be written `k:v`, as the API has them."""
    found = {}
    for text in given or ():
        key, mark, value = re.split(r"([=:])", text, maxsplit=1) if re.search("[=:]", text) else (text, "", "")
        if not key or not mark:
            raise Misused(f"{text!r} is not key=value")
        found[key] = value
    return found


def params(given: Sequence[str] | None) -> dict[str, Any]:
    """`k=v` with values that are JSON, or else text."""
    found: dict[str, Any] = {}
    for text in given or ():
        key, mark, value = text.partition("=")
        if not key or not mark:
            raise Misused(f"{text!r} is not key=value")
        try:
            found[key] = json.loads(value, parse_constant=_no_number)
        except (ValueError, RecursionError):
            found[key] = value
    return found


def _no_number(name: str) -> float:
    """NaN and Infinity, which Python's JSON has and JSON has not."""
    raise ValueError(name)


def time(given: str | None) -> datetime | None:
    """A time, or how long ago it was."""
    if given is None:
        return None
    if ago := re.fullmatch(r"(\d+)([smhd])", given):
        unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[ago[2]]
        try:
            return datetime.now(UTC) - timedelta(**{unit: int(ago[1])})
        except OverflowError:
            raise Misused(f"{given!r} is too long ago") from None
    try:
        at = datetime.fromisoformat(given)
    except ValueError:
        raise Misused(f"{given!r} is no time: 15m, 2h, 7d, or 2026-01-31T08:00Z") from None
    return at if at.tzinfo else at.astimezone()
