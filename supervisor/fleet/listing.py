"""The bots as callers see them: with what their processes use now, or as their rows say where they have none."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Sequence

from supervisor.core import errors, reasons
from supervisor.core.attempt import Phase
from supervisor.core.model import ACTIVE, SETTLED, Bot, BotQuery, BotView, LiveView, Page, State
from supervisor.engine.protocol import Engine
from supervisor.fleet.actor import Actor
from supervisor.fleet.catalogue import Catalogue
from supervisor.fleet.roster import Roster
from supervisor.metrics import Levels
from supervisor.store import Ledger

METERED_AT_ONCE = 100
"""Processes that are looked at before others have their turn."""


class Listing:
    """Looks at bots and changes nothing."""

    def __init__(self, roster: Roster, ledger: Ledger, engine: Engine, catalogue: Catalogue) -> None:
        self._roster = roster
        self._ledger = ledger
        self._engine = engine
        self._catalogue = catalogue

    async def view(self, bot_id: int) -> BotView:
        """One bot. Raises UnknownBot."""
        if (actor := self._roster.find(bot_id)) is not None:
            return view_of(actor)
        return self.settled(await self._roster.row(bot_id))

    async def list(self, query: BotQuery) -> Page[BotView]:
        """One page of bots, by bot_id."""
        chosen = [a for a in self._roster if a.bot.bot_id > query.after and _matches(a.bot, query)]
        chosen.sort(key=lambda actor: actor.bot.bot_id)
        # As they are now: an actor that retires while the ledger is asked is not among the rows that are asked for.
        views = [view_of(actor) for actor in chosen[: query.limit + 1]]
        if query.states - ACTIVE:
            rows = await self._ledger.bots(query, exclude=self._roster.bot_ids)
            views += map(self.settled, rows)
        views.sort(key=lambda view: view.bot.bot_id)
        more = len(views) > query.limit
        del views[query.limit :]
        return Page(views, views[-1].bot.bot_id if more else None)

    async def every(self, query: BotQuery) -> Sequence[BotView]:
        """All bots that match, by bot_id, however many there are."""
        views: list[BotView] = []
        after: int | None = query.after
        while after is not None:
            page = await self.list(dataclasses.replace(query, after=after, limit=1000))
            views += page.items
            after = page.next_after
        return views

    def settled(self, bot: Bot) -> BotView:
        """A bot without an actor, with the terms that its next start has."""
        return BotView(bot=self._catalogue.terms(bot.kind).applied(bot), reason=bot.reason)

    async def levels(self, *, per_bot: bool) -> Levels:
        """How things stand, for /metrics; with the usage of each process if that is wanted.

        The usage of 1,000 processes is read in about 4 ms, as for the list, but in slices of 0.4 ms. Those that have
        settled are counted in the ledger; while that cannot be read, their states are in no count.
        """
        actors = list(self._roster)
        found = Counter((actor.bot.kind, actor.state) for actor in actors)
        states = frozenset(State)
        try:
            found.update(await self._ledger.count_bots(SETTLED, exclude=[actor.bot.bot_id for actor in actors]))
        except errors.LedgerUnavailable:
            states = ACTIVE
        kinds = sorted({*self._catalogue.names, *(kind for kind, _ in found)})
        usages = []
        for number, actor in enumerate(actors if per_bot else ()):
            if number % METERED_AT_ONCE == 0:
                await asyncio.sleep(0)
            process = actor.live.process
            if process is not None and (usage := process.usage()) is not None:
                usages.append((actor.bot, usage))
        warmths = {kind: self._engine.kind_status(kind) for kind in self._catalogue.names}
        return Levels(
            bots={(kind, state): found[kind, state] for kind in kinds for state in State if state in states},
            warm={kind: warmth.warm for kind, warmth in warmths.items()},
            zygotes={kind: warmth.rss_bytes for kind, warmth in warmths.items() if warmth.rss_bytes is not None},
            usages=usages,
            ledger_queued=self._ledger.queued,
            ledger_outage=self._ledger.outage is not None,
        )


def view_of(actor: Actor) -> BotView:
    """A bot with an actor, with what its process uses now."""
    machine = actor.machine
    live = _live(actor)
    reason = machine.bot.reason
    if live is not None and live.frozen and machine.bot.state is State.RUNNING:
        reason = reasons.FROZEN
    elif machine.attempt is not None and machine.attempt.phase is Phase.QUEUED and actor.launch is not None:
        reason = reasons.turn(actor.launch.place)
    return BotView(
        bot=machine.bot if machine.attempt else actor.terms.applied(machine.bot),
        reason=reason,
        waiting_for=machine.waiting_for,
        next_start_at=machine.waiting.due if machine.waiting else None,
        live=live,
    )


def _live(actor: Actor) -> LiveView | None:
    attempt, process = actor.machine.attempt, actor.live.process
    if process is None or attempt is None or attempt.run_id is None:
        return None
    usage = process.usage()
    return LiveView(
        pid=process.identity.pid,
        run_id=attempt.run_id,
        started_at=attempt.began,
        ready_at=attempt.ready_at,
        uptime_s=actor.live.uptime_s,
        cpu_percent=actor.live.cpu_percent(usage) if usage else None,
        rss_bytes=usage.rss_bytes if usage else None,
        threads=usage.threads if usage else None,
        descendants=usage.descendants if usage else None,
        heartbeat_age_s=actor.live.heartbeat_age_s,
        status=actor.live.status,
        frozen=usage.frozen if usage else False,
    )


def _matches(bot: Bot, query: BotQuery) -> bool:
    return (
        bot.state in query.states
        and (query.bot_ids is None or bot.bot_id in query.bot_ids)
        and query.kind in (None, bot.kind)
        and query.name in (None, bot.name)
        and query.labels.items() <= bot.labels.items()
    )
