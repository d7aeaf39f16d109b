"""The bots that the settings want of a kind: `<kind>-1` to `<kind>-<instances>`."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from supervisor import settings
from supervisor.background import Background
from supervisor.core import errors
from supervisor.core.model import BotQuery, NewBot, State
from supervisor.fleet.catalogue import Catalogue
from supervisor.fleet.listing import Listing

log = logging.getLogger(__name__)

AT_ONCE = 20
"""Maximum number of instances of a kind that are made at the same time."""


class Instances:
    """Makes the instances that are missing."""

    def __init__(self, catalogue: Catalogue, listing: Listing, make: Callable[[NewBot], Awaitable[object]]) -> None:
        """`make` makes a bot, and raises Problem."""
        self._catalogue = catalogue
        self._listing = listing
        self._make = make
        self._background = Background()
        self._turn = asyncio.Lock()

    def populate(self) -> None:
        """See to the instances of all kinds in the background, one reading of the settings after another."""
        self._background.start(self._populate(), name="instances")

    async def surplus(self, before: Mapping[str, int]) -> Sequence[str]:
        """The names of the instances that are more than the settings want, by kind and number.

        Args:
            before: how many the settings wanted of each kind until now. Of a kind of which none are wanted, and none
                were, a bot is no instance, whatever its name looks like.
        """
        now = self._catalogue.instances
        wanted = {kind: now.get(kind, 0) for kind in sorted(before.keys() | now.keys())}
        wanted = {kind: most for kind, most in wanted.items() if most or before.get(kind)}
        try:
            kinds = await self._kinds_by_name() if wanted else {}
        except errors.LedgerUnavailable as unavailable:
            log.warning("cannot say which instances are too many: %s", unavailable.detail)
            return ()
        surplus: list[str] = []
        for kind, most in wanted.items():
            numbers = (_number(name, kind) for name, its_kind in kinds.items() if its_kind == kind)
            many = [f"{kind}-{number}" for number in sorted(filter(None, numbers)) if number > most]
            if many:
                told = ", ".join(many)
                log.warning("of %s only %d are wanted; too many, until they are deleted: %s", kind, most, told)
            surplus += many
        return surplus

    def close(self) -> None:
        """Make no more."""
        self._background.cancel()

    async def _populate(self) -> None:
        async with self._turn:
            specs = {name: self._catalogue.spec(name) for name in self._catalogue.names}
            specs = {name: spec for name, spec in specs.items() if spec.instances}
            if not specs:
                return
            try:
                taken = await self._kinds_by_name()
            except errors.LedgerUnavailable as unavailable:
                log.warning("no instances are made before the next reload: %s", unavailable.detail)
                return
            await asyncio.gather(*(self._make_missing(name, spec, taken) for name, spec in specs.items()))

    async def _kinds_by_name(self) -> Mapping[str, str]:
        """The kinds of all bots that have a name."""
        bots = await self._listing.bots(BotQuery(states=frozenset(State)))
        return {bot.name: bot.kind for bot in bots if bot.name is not None}

    async def _make_missing(self, kind: str, spec: settings.Kind, taken: Mapping[str, str]) -> None:
        """Make those that are not there. Those that are stay, whatever their state."""
        names = [f"{kind}-{n}" for n in range(1, spec.instances + 1)]
        for name in names:
            if taken.get(name, kind) != kind:
                log.warning("no bot %s is made: the name is taken by a bot of kind %s", name, taken[name])
        missing = [name for name in names if name not in taken]
        if not missing:
            return
        turns = asyncio.Semaphore(AT_ONCE)

        terms = spec.terms
        unnamed = NewBot(
            kind=kind,
            params={},
            restart=terms.restart,
            grace_s=terms.grace_s,
            limits=terms.limits,
            schedule=terms.schedule,
        )

        async def make(new: NewBot, name: str) -> None:
            async with turns:
                try:
                    await self._make(dataclasses.replace(new, name=name))
                except errors.ShuttingDown:
                    return
                except errors.Problem as problem:
                    log.warning("no bot %s is made: %s", name, problem.detail)

        try:
            async with self._catalogue.checked(unnamed) as new:
                await asyncio.gather(*(make(new, name) for name in missing))
        except errors.Problem as problem:
            log.warning("no instances of %s are made: %s", kind, problem.detail)


def _number(name: str, kind: str) -> int | None:
    """Which instance of a kind has this name; None: that is no instance's."""
    digits = name.removeprefix(f"{kind}-")
    return int(digits) if name != digits and digits.isascii() and digits.isdigit() and digits[0] != "0" else None
