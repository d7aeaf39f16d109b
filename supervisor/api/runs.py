"""The calls on runs, and on the ways in which they failed."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query
from starlette.requests import Request
from starlette.responses import Response

from supervisor.api import answers, paging, requests
from supervisor.core import errors, model
from supervisor.fleet.fleet import Fleet


class Runs:
    """The calls that look into the ledger."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    async def history(self, request: Request, query: Annotated[requests.History, Query()]) -> Response:
        """All runs, oldest first, in the short form. The Link header with rel="next" leads to the next page."""
        page = await self.fleet.ledger.runs(query.query(query.bot_id))
        return answers.reply(
            answers.HISTORY, list(map(answers.past_run, page.items)), headers=paging.link(request, page.next_after)
        )

    async def list_runs(self, query: Annotated[requests.Runs, Query()]) -> Response:
        """All runs, oldest first."""
        return _page(await self.fleet.ledger.runs(query.query(query.bot_id)))

    async def list_runs_of_bot(
        self, bot_id: Annotated[requests.Id, Path()], query: Annotated[requests.RunsOfBot, Query()]
    ) -> Response:
        """The runs of one bot, oldest first; also of one that was deleted."""
        page = await self.fleet.ledger.runs(query.query(bot_id))
        if not page.items:
            await self.fleet.listing.bot(bot_id)
        return _page(page)

    async def get_run(self, run_id: Annotated[requests.Id, Path()]) -> Response:
        """One run."""
        run = await self.fleet.ledger.run(run_id)
        if run is None:
            raise errors.UnknownRun(f"there is no run {run_id}")
        return answers.reply(answers.RUN, answers.run(run))

    async def list_crashes(self, query: Annotated[requests.Crashes, Query()]) -> Response:
        """The failed runs in groups: those of a kind that failed in the same way. The latest first."""
        page = await self.fleet.ledger.crashes(query.query())
        groups = answers.Crashes(
            crashes=list(map(answers.crash, page.items)), next_cursor=paging.cursor(page.next_after)
        )
        return answers.reply(answers.CRASHES, groups)


def _page(page: model.Page[model.Run]) -> Response:
    runs = answers.Runs(runs=list(map(answers.run, page.items)), next_cursor=paging.cursor(page.next_after))
    return answers.reply(answers.RUNS, runs)
