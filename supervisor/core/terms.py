"""What the settings say of the bots of one kind at this moment, and what a bot says for itself over it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from supervisor.core.model import Bot, Limits, RestartPolicy, Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The terms of a kind, complete.

    `ready`: a bot is ready at its `start`, when it says so (`notify`), or when it has lived for so many seconds.
    """

    restart: RestartPolicy
    grace_s: float
    limits: Limits
    schedule: Schedule | None
    start_timeout_s: float
    ready: Literal["start", "notify"] | float
    heartbeat_s: float | None

    def applied(self, bot: Bot) -> Bot:
        """The bot with these terms, and its own overrides over them. The same object if nothing changes."""
        own = bot.overrides
        changed = {
            name: value
            for name, value in {
                "restart": dataclasses.replace(self.restart, **own.get("restart", {})),
                "grace_s": own.get("grace_s", self.grace_s),
                "limits": dataclasses.replace(self.limits, **own.get("limits", {})),
                "schedule": own.get("schedule", self.schedule),
            }.items()
            if value != getattr(bot, name)
        }
        return dataclasses.replace(bot, **changed) if changed else bot
