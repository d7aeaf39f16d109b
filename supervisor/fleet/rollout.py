"""Commands to many bots: to all that a query finds, side by side or in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from supervisor.core import errors
from supervisor.core.model import (
    Bot,
    BotQuery,
    State,
)
from supervisor.core.table import Step
from supervisor.core.views import Outcome
from supervisor.fleet.fleet import Fleet

AT_ONCE = 100
"""So many bots are told at the same time, of however many were found."""

_UP = frozenset({State.RUNNING, State.EXITED, State.SCHEDULED})
"""What a start leads to: a process that is ready, or was and has ended well since."""

_DOWN = frozenset({State.STOPPED})

Command = Callable[[int], Awaitable[Bot]]


async def start(fleet: Fleet, query: BotQuery) -> Sequence[Outcome]:
    """Starts them; those that are up already are left alone."""
    return await _each(fleet, await _found(fleet, query), fleet.start, _UP)


async def stop(fleet: Fleet, query: BotQuery, *, grace_s: float | None) -> Sequence[Outcome]:
    """Stops them, and waits until everything of them is gone."""
    return await _each(fleet, await _found(fleet, query), partial(fleet.stop, grace_s=grace_s), _DOWN)


async def restart(
    fleet: Fleet, query: BotQuery, *, grace_s: float | None, max_parallel: int | None
) -> Sequence[Outcome]:
    """Restarts them. Raises KindGone if the settings no longer have the kind of one, before anything is stopped.

    With `max_parallel` in batches of so many, by id: the next begins when all of one are up, and the first in which
    one is not ends it.
    """
    bots = await fleet.listing.bots(query)
    fleet.catalogue.refuse_gone(Step.RESTART, bots)
    found, command = [bot.bot_id for bot in bots], partial(fleet.restart, grace_s=grace_s)
    size = max_parallel or max(1, len(found))
    outcomes: list[Outcome] = []
    for begin in range(0, len(found), size):
        batch = await _each(fleet, found[begin : begin + size], command, _UP)
        outcomes += batch
        failed = next((outcome for outcome in batch if not outcome.ok), None)
        if failed is not None:
            what = f"bot {failed.bot_id} of the batch before is {failed.state or 'gone'}: {failed.detail}"
            left = found[begin + size :]
            return outcomes + [await _as_it_is(fleet, bot_id, f"not restarted: {what}") for bot_id in left]
    return outcomes


async def _found(fleet: Fleet, query: BotQuery) -> Sequence[int]:
    return [bot.bot_id for bot in await fleet.listing.bots(query)]


async def _each(fleet: Fleet, bot_ids: Sequence[int], command: Command, good: frozenset[State]) -> Sequence[Outcome]:
    """The command to each of them, side by side; what goes wrong with one concerns no other."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(bot_id: int) -> Outcome:
        async with turns:
            try:
                bot = await command(bot_id)
            except errors.Problem as problem:
                return await _as_it_is(fleet, bot_id, problem.detail)
            return Outcome(bot_id=bot_id, ok=bot.state in good, state=bot.state, detail=bot.reason)

    return await asyncio.gather(*map(one, bot_ids))


async def _as_it_is(fleet: Fleet, bot_id: int, detail: str) -> Outcome:
    """The outcome for a bot with which it was not done, for the reason `detail`."""
    try:
        state = (await fleet.listing.bot(bot_id)).state
    except errors.Problem:
        # It was forgotten meanwhile, or the ledger cannot be read.
        state = None
    return Outcome(bot_id=bot_id, ok=False, state=state, detail=detail)
