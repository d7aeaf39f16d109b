"""What a bot's author sees.

A bot is `async def main(ctx, *, start_number: int = 0)` or a plain `def`; its keyword parameters are its
parameters. It may leave `ctx` out. When it is to stop, the main task of an asynchronous bot is cancelled
(SIGTERM); a plain one gets SIGTERM as any process does, unless it has a handler of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from botproc import notify


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Who this bot is, and how it tells its supervisor how it does."""

    bot_id: int
    run_id: int
    kind: str
    name: str | None
    labels: Mapping[str, str]

    def status(self, text: str) -> None:
        """Shown as `status` in the listing, e.g. "12 orders open"."""
        notify.notify(STATUS=text)

    def heartbeat(self) -> None:
        """Shown as `heartbeat_age_s` in the listing."""
        notify.notify(WATCHDOG="1")
