"""What the settings say of the bots of one kind at this moment, and what a bot says for itself over it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from supervisor.core.model import Bot, Limits, Missed, Overlap, Overrides, Policy, RestartPolicy, Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The terms of a kind, complete.

    `ready`: a bot is ready at its `start`, when it says so (`notify`), or when it has lived for so many seconds.
    `known`: the settings have the kind. The terms of one that is gone are only a stand-in, and change no bot.
    """

    restart: RestartPolicy
    grace_s: float
    limits: Limits
    schedule: Schedule | None
    start_timeout_s: float
    ready: Literal["start", "notify"] | float
    heartbeat_s: float | None
    known: bool = True

    def over(self, own: Overrides) -> Self:
        """These terms, with what a bot says itself over them."""
        if not own:
            return self
        changes: dict[str, Any] = {}
        if "restart" in own:
            changes["restart"] = policy(own["restart"], self.restart)
        if "limits" in own:
            changes["limits"] = limits(own["limits"], self.limits)
        if "grace_s" in own:
            changes["grace_s"] = own["grace_s"]
        if "schedule" in own:
            changes["schedule"] = own["schedule"] and schedule(own["schedule"])
        return dataclasses.replace(self, **changes)

    def applied(self, bot: Bot) -> Bot:
        """The bot under these terms. The same object if nothing changes."""
        if not self.known:
            return bot
        terms = self.over(bot.overrides)
        if (terms.restart, terms.grace_s, terms.limits, terms.schedule) == (
            bot.restart,
            bot.grace_s,
            bot.limits,
            bot.schedule,
        ):
            return bot
        return dataclasses.replace(
            bot, restart=terms.restart, grace_s=terms.grace_s, limits=terms.limits, schedule=terms.schedule
        )

    def differences(self, bot: Bot) -> Overrides:
        """What holds for a bot and differs from these terms: its overrides, if all of that is to stay."""
        own: dict[str, Any] = {
            "restart": _difference(self.restart, bot.restart),
            "limits": _difference(self.limits, bot.limits),
        }
        if bot.grace_s != self.grace_s:
            own["grace_s"] = bot.grace_s
        if bot.schedule != self.schedule:
            own["schedule"] = bot.schedule and dataclasses.asdict(bot.schedule)
        return {name: value for name, value in own.items() if value != {}}


def policy(values: Mapping[str, Any], base: RestartPolicy) -> RestartPolicy:
    """A restart policy with some JSON values over it."""
    named = {"policy": Policy(values["policy"])} if "policy" in values else {}
    return dataclasses.replace(base, **{**values, **named})


def limits(values: Mapping[str, Any], base: Limits) -> Limits:
    """Limits with some JSON values over them."""
    affinity = values.get("cpu_affinity")
    return dataclasses.replace(base, **{**values, **({"cpu_affinity": tuple(affinity)} if affinity else {})})


def schedule(values: Mapping[str, Any]) -> Schedule:
    """A schedule of JSON values."""
    return Schedule(**{**values, "overlap": Overlap(values["overlap"]), "missed": Missed(values["missed"])})


def _difference(base: RestartPolicy | Limits, value: RestartPolicy | Limits) -> dict[str, Any]:
    """The fields of a value that are not as in the base."""
    there = dataclasses.asdict(base)
    return {name: own for name, own in dataclasses.asdict(value).items() if own != there[name]}
