"""One command for many bots."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from supervisor import errors
from supervisor.fleet import Fleet
from supervisor.model import BotQuery, BotView, Outcome, State

AT_ONCE = 100
_PAGE = 1000

Command = Callable[[int], Awaitable[BotView]]


async def select(fleet: Fleet, query: BotQuery) -> list[int]:
    """The ids of all bots that fit, lowest first; `after` and `limit` of the query do not matter."""
    ids: list[int] = []
    after: int | None = 0
    while after is not None:
        page = await fleet.list(_page(query, after))
        ids += [view.bot_id for view in page.items]
        after = page.next_after
    return ids


def _page(query: BotQuery, after: int) -> BotQuery:
    return BotQuery(
        states=query.states, kind=query.kind, name=query.name, labels=query.labels, after=after, limit=_PAGE
    )


async def each(bot_ids: Sequence[int], command: Command, wanted: frozenset[State]) -> list[Outcome]:
    """Gives the command to each, side by side; ok where the bot is then in one of the wanted states."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(bot_id: int) -> Outcome:
        async with places:
            try:
                view = await command(bot_id)
            except errors.Problem as problem:
                return Outcome(bot_id=bot_id, ok=False, state=None, detail=problem.detail)
            return Outcome(bot_id=bot_id, ok=view.state in wanted, state=view.state, detail=view.reason)

    return list(await asyncio.gather(*map(one, bot_ids)))


async def roll(bot_ids: Sequence[int], restart: Command, *, max_parallel: int) -> list[Outcome]:
    """Restarts in batches: each is ready before the next begins, and the first that is not is the last."""
    outcomes: list[Outcome] = []
    while len(outcomes) < len(bot_ids):
        batch = bot_ids[len(outcomes) : len(outcomes) + max_parallel]
        outcomes += await each(batch, restart, frozenset({State.RUNNING}))
        if failed := next((outcome for outcome in outcomes if not outcome.ok), None):
            what = f"bot {failed.bot_id}, restarted before, is {failed.state or 'not ready'}: {failed.detail}"
            outcomes += [
                Outcome(bot_id=bot_id, ok=False, state=None, detail=f"not restarted: {what}")
                for bot_id in bot_ids[len(outcomes) :]
            ]
    return outcomes
