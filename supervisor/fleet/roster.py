"""The actors: those of the bots with something to do. The others are rows in the ledger, and get one when asked for."""

from __future__ import annotations

from collections.abc import Iterator

from supervisor.core import errors, events
from supervisor.core.model import Bot
from supervisor.fleet.actor import Actor
from supervisor.fleet.shared import Shared


class Roster:
    """The actors of one supervisor, by the ids of their bots."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._actors: dict[int, Actor] = {}
        self._forgetting: set[int] = set()
        self._shut_down: events.ShutDown | None = None

    def __iter__(self) -> Iterator[Actor]:
        return iter(tuple(self._actors.values()))

    @property
    def bot_ids(self) -> tuple[int, ...]:
        """The bots that have an actor."""
        return tuple(self._actors)

    def add(self, bot: Bot) -> Actor:
        """A new actor, which waits for its first event."""
        actor = self._actors[bot.bot_id] = Actor(bot, self._shared, self._retire)
        if self._shut_down is not None:
            # A call that came before the shutdown brings it now.
            actor.post(self._shut_down)
        return actor

    def shut_down(self, grace_s: float) -> None:
        """Let every bot stop, those that get an actor later too."""
        self._shut_down = events.ShutDown(grace_s)
        for actor in self:
            actor.post(self._shut_down)

    def find(self, bot_id: int) -> Actor | None:
        """The actor of a bot, if it has one and is not being forgotten."""
        return None if bot_id in self._forgetting else self._actors.get(bot_id)

    async def get(self, bot_id: int) -> Actor:
        """The actor of a bot, made if it has none. Raises UnknownBot."""
        if (actor := self.find(bot_id)) is not None:
            return actor
        bot = await self.row(bot_id)
        # Another call may have waited for the same row and was first.
        return self._actors.get(bot_id) or self.add(bot)

    async def row(self, bot_id: int) -> Bot:
        """The bot as it stands in the ledger. Raises UnknownBot."""
        bot = await self._shared.ledger.bot(bot_id)
        if bot is None or bot_id in self._forgetting:
            raise errors.UnknownBot(f"there is no bot {bot_id}", bot_id=bot_id)
        return bot

    def leave(self, actor: Actor) -> None:
        """Nothing is asked of the actor after all: it goes, unless it has something to do."""
        if actor.idle:
            self._retire(actor)

    def hide(self, bot_id: int) -> None:
        """Let nobody find a bot that is being forgotten, so that no later command starts it again behind its stop."""
        self._forgetting.add(bot_id)

    def show(self, bot_id: int) -> None:
        """The bot is forgotten, or could not be."""
        self._forgetting.discard(bot_id)

    def close(self) -> None:
        """End all actors. Processes that still live do so."""
        for actor in self:
            actor.close()
        self._actors.clear()

    def _retire(self, actor: Actor) -> None:
        if self._actors.get(actor.bot.bot_id) is actor:
            del self._actors[actor.bot.bot_id]
        actor.close()
