"""The feed of events."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import Header, Query
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.responses import Response

from supervisor.api import answers, requests, streams
from supervisor.fleet.fleet import Fleet


class Events:
    """The call that follows the fleet."""

    def __init__(self, fleet: Fleet, open_streams: streams.Streams) -> None:
        self.fleet = fleet
        self.streams = open_streams

    async def follow(
        self,
        bot_id: Annotated[requests.Id | None, Query(description="of this bot only")] = None,
        since: Annotated[
            requests.Number | None, Query(description="the number of the last event that is known")
        ] = None,
        last_event_id: Annotated[
            requests.Number | None,
            Header(alias="Last-Event-ID", description="the same, as clients send it by themselves"),
        ] = None,
    ) -> Response:
        """What happens, as it happens: first the latest event of each bot, then each that comes. The id of a message is
        the number of its event, and whoever names the last one that he knows gets all that came after it. The last
        of a bot that is deleted is a message `deleted`, all others are `state`."""
        if bot_id is not None:
            await self.fleet.listing.bot(bot_id)
        return streams.EventStream(
            self.streams, self._messages(since if last_event_id is None else last_event_id, bot_id)
        )

    async def _messages(self, since: int | None, bot_id: int | None) -> AsyncGenerator[bytes, None]:
        async with contextlib.aclosing(self.fleet.feeds.entries(since=since, bot_id=bot_id)) as entries:
            async for entry in entries:
                if entry is None:
                    yield KEEPALIVE_COMMENT
                    continue
                yield format_sse_event(
                    data_str=answers.EVENT.dump_json(answers.event(entry)).decode(),
                    event="deleted" if entry.deleted else "state",
                    id=str(entry.event.event_id),
                )
