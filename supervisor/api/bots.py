"""The calls on bots. The docstrings are what the OpenAPI document says of them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Annotated, Literal

from fastapi import Header, Path, Query
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from supervisor import logs
from supervisor.api import answers, audit, paging, requests, streams
from supervisor.core import errors, model, views
from supervisor.fleet import rollout
from supervisor.fleet.fleet import Fleet, Wait

BotId = Annotated[requests.Id, Path()]
Settled = Annotated[bool, Query(alias="wait", description="0: answer at once, with 202")]
Ready = Annotated[Literal["ready"] | None, Query(description="answer when it is ready, or has failed")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern="^[!-~]+$",
        description="the same key gives the same bot, made once; with another body it is refused",
    ),
]


class Bots:
    """The calls that reach the fleet."""

    def __init__(self, fleet: Fleet, open_streams: streams.Streams) -> None:
        self.fleet = fleet
        self.streams = open_streams

    # ---- the short form

    async def start_new(self, new: requests.NewBot | None = None, idempotency_key: IdempotencyKey = None) -> Response:
        """Make a bot and start it; answered once its process exists and its run is in the ledger."""
        bot = await self._create(new, idempotency_key, Wait.PROCESS)
        return answers.reply(answers.STARTED, answers.Started(bot_id=bot.bot_id))

    async def stop_by_get(self, bot_id: BotId) -> Response:
        """Stop a bot; answered once its process and all that it started are gone. Changes state, also as GET."""
        return _stopped(await self.fleet.stop(bot_id))

    async def stop_by_post(self, bot_id: BotId, how: requests.Grace | None = None) -> Response:
        """Stop a bot; answered once its process and all that it started are gone."""
        return _stopped(await self.fleet.stop(bot_id, grace_s=how.grace_s if how else None))

    # ---- bots

    async def list_bots(self, request: Request, query: Annotated[requests.Bots, Query()]) -> Response:
        """The bots that are active, or those in the states that are asked for; ordered by id. The Link header with
        rel="next" leads to the next page."""
        page = await self.fleet.listing.list(query.page())
        return answers.reply(
            answers.BOTS, list(map(answers.bot, page.items)), headers=paging.link(request, page.next_after)
        )

    async def create_bot(
        self,
        new: requests.NewBot | None = None,
        wait: Ready = None,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        """Make a bot and start it; answered once its process exists or could not be made. A known Idempotency-Key
        is answered in the same way, with the bot that was made then."""
        bot = await self._create(new, idempotency_key, Wait.READY if wait else Wait.ATTEMPT)
        shown, location = answers.bot(self.fleet.listing.look(bot)), {"Location": f"/bots/{bot.bot_id}"}
        return answers.reply(answers.BOT, shown, status=201, headers=location)

    async def get_bot(self, bot_id: BotId) -> Response:
        """One bot."""
        return _shown(await self.fleet.listing.view(bot_id))

    async def start_bot(self, bot_id: BotId, _: requests.Nothing | None = None, wait: Settled = True) -> Response:
        """Start a bot that has no process; one that is up is left alone."""
        return _shown(self.fleet.listing.look(await self.fleet.start(bot_id, wait=wait)), wait)

    async def stop_bot(self, bot_id: BotId, how: requests.Grace | None = None, wait: Settled = True) -> Response:
        """Stop a bot, and with it all that it started."""
        bot = await self.fleet.stop(bot_id, grace_s=how.grace_s if how else None, wait=wait)
        # As it was when it had stopped, whoever may have started it again since.
        return _shown(views.BotView(bot=bot, reason=bot.reason) if wait else self.fleet.listing.look(bot), wait)

    async def restart_bot(self, bot_id: BotId, how: requests.Grace | None = None, wait: Settled = True) -> Response:
        """End the bot's process, and start another once all of it is gone."""
        bot = await self.fleet.restart(bot_id, grace_s=how.grace_s if how else None, wait=wait)
        return _shown(self.fleet.listing.look(bot), wait)

    async def signal_bot(self, bot_id: BotId, what: requests.Signal) -> Response:
        """Send a signal to the bot's process."""
        await self.fleet.signal(bot_id, what.number)
        return Response(status_code=204)

    async def delete_bot(self, bot_id: BotId) -> Response:
        """Stop a bot, then forget it, with its log and its own data directory. Its runs stay."""
        await self.fleet.delete(bot_id)
        return Response(status_code=204)

    async def tail_logs(
        self,
        request: Request,
        bot_id: BotId,
        tail: Annotated[int, Query(ge=1, le=10_000, description="how many lines")] = 100,
        run: Annotated[requests.Id | None, Query(description="of this run only")] = None,
        last_event_id: Annotated[
            requests.Number | None, Header(alias="Last-Event-ID", description="in a stream: go on behind this")
        ] = None,
    ) -> Response:
        """The last lines that the bot wrote. Bytes that are not UTF-8 are replaced. With `Accept: text/event-stream`,
        these and each that comes, until the bot is deleted or the run that is named has ended: a message for each
        line, whose id is the offset in the log behind it. A message `skipped` says how many bytes are gone."""
        if streams.EventStream.media_type in request.headers.get("accept", ""):
            found = await self.fleet.feeds.log_lines(bot_id, tail=tail, offset=last_event_id, run_id=run)
            return streams.EventStream(self.streams, _messages(found))
        lines = await self.fleet.feeds.log_tail(bot_id, tail=tail, run_id=run)
        return PlainTextResponse(lines.decode("utf-8", "replace"))

    # ---- many bots

    async def create_many(
        self, many: requests.NewBots, wait: Ready = None, idempotency_key: IdempotencyKey = None
    ) -> Response:
        """Make so many bots, which differ in nothing but their ids, and start them side by side: all of them or, with
        a problem, none. Answered once each has a process or could not be given one. A known Idempotency-Key is
        answered in the same way, with the bots that were made then."""
        async with self._new(many) as new:
            idempotency = self.fleet.idempotency(idempotency_key, many.canonical)
            how = Wait.READY if wait else Wait.ATTEMPT
            bots = await self.fleet.create_many(new, many.count, idempotency=idempotency, wait=how)
        audit.concerns(*(bot.bot_id for bot in bots))
        shown = [answers.bot(self.fleet.listing.look(bot)) for bot in bots]
        return answers.reply(answers.BATCH, answers.Batch(bots=shown), status=201)

    async def start_many(
        self, which: Annotated[requests.Selector, Query()], _: requests.Nothing | None = None
    ) -> Response:
        """Start all bots that match, side by side; answered when each is ready or has failed. Those that are up are
        left alone."""
        return _results(await rollout.start(self.fleet, which.query(model.State)))

    async def stop_many(
        self, which: Annotated[requests.Selector, Query()], how: requests.Grace | None = None
    ) -> Response:
        """Stop all active bots that match, side by side; answered when all of each is gone. Those in other states
        only when `state` names these."""
        query, grace_s = which.query(model.ACTIVE), how.grace_s if how else None
        return _results(await rollout.stop(self.fleet, query, grace_s=grace_s))

    async def restart_many(
        self, which: Annotated[requests.Rolling, Query()], how: requests.Grace | None = None
    ) -> Response:
        """Restart all active bots that match, side by side or in batches; answered when each is ready or has failed.
        Those in other states only when `state` names these. With `max_parallel`, a batch begins when each bot of the
        one before is ready, and none after the first that fails."""
        query, grace_s = which.query(model.ACTIVE), how.grace_s if how else None
        return _results(await rollout.restart(self.fleet, query, grace_s=grace_s, max_parallel=which.max_parallel))

    async def _create(self, asked: requests.NewBot | None, idempotency_key: str | None, wait: Wait) -> model.Bot:
        asked = asked or requests.NewBot()
        async with self._new(asked) as new:
            idempotency = self.fleet.idempotency(idempotency_key, asked.canonical)
            try:
                bot = await self.fleet.create(new, idempotency=idempotency, wait=wait)
            except (errors.SpawnFailed, errors.BudgetSpent) as error:
                if error.bot_id is not None:  # It was made, and stays.
                    audit.concerns(error.bot_id)
                raise
        audit.concerns(bot.bot_id)
        return bot

    @contextlib.asynccontextmanager
    async def _new(self, asked: requests.NewBot) -> AsyncIterator[model.NewBot]:
        """What is asked for, checked, with the kind's defaults; for bots that are made in the block."""
        terms = self.fleet.catalogue.defaults(asked.kind).terms.over(asked.overrides)
        given = model.NewBot(
            kind=asked.kind,
            params=asked.params,
            name=asked.name,
            labels=asked.labels,
            overrides=asked.overrides,
            restart=terms.restart,
            grace_s=terms.grace_s,
            limits=terms.limits,
            schedule=terms.schedule,
        )
        async with self.fleet.catalogue.checked(given) as new:
            yield new


async def _messages(found: AsyncGenerator[logs.Line | logs.Skipped | None, None]) -> AsyncGenerator[bytes, None]:
    async with contextlib.aclosing(found):
        async for piece in found:
            match piece:
                case None:
                    yield KEEPALIVE_COMMENT
                case logs.Line(next_offset=offset, data=data):
                    line = data.decode("utf-8", "replace").removesuffix("\r")
                    yield format_sse_event(data_str=line, id=str(offset))
                case logs.Skipped(next_offset=offset, size=size):
                    yield format_sse_event(data_str=str(size), event="skipped", id=str(offset))


def _results(outcomes: Sequence[views.Outcome]) -> Response:
    audit.concerns(*(outcome.bot_id for outcome in outcomes))
    return answers.reply(answers.RESULTS, answers.Results(results=outcomes))


def _stopped(bot: model.Bot) -> Response:
    return answers.reply(answers.STOPPED, answers.Stopped(bot_id=bot.bot_id, state=bot.state))


def _shown(view: views.BotView, settled: bool = True) -> Response:
    return answers.reply(answers.BOT, answers.bot(view), status=200 if settled else 202)
