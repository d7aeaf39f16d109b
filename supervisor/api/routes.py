"""Every call there is, with what it asks of its caller."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import HTMLResponse
from starlette.routing import compile_path
from starlette.types import Scope

from supervisor.api import (
    access,
    answers,
    bots,
    events,
    health,
    kinds,
    pages,
    prometheus,
    runs,
    streams,
)
from supervisor.core import views
from supervisor.fleet.fleet import Fleet

OPEN, READ, ADMIN = access.Access.OPEN, access.Access.READ, access.Access.ADMIN


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the table, with fields in the order in which they are read."""

    access: access.Access
    method: str
    path: str
    endpoint: Callable[..., Any]
    answer: Any
    """What the document says of it: a class, None for no body, str for plain text, HTMLResponse for a page."""
    statuses: Sequence[int] = (200,)
    problems: Sequence[int] = ()
    """The statuses of its own, beside those that every call can have."""
    streams: bool = False
    """It can be followed, as server-sent events."""


Table = Mapping[str, Sequence[Route]]
"""The routes by the sections of the document."""


def table(fleet: Fleet, open_streams: streams.Streams) -> Table:
    """All routes, in the order of the document."""
    b, r, k, h = bots.Bots(fleet, open_streams), runs.Runs(fleet), kinds.Kinds(fleet), health.Health(fleet)
    e, m = events.Events(fleet, open_streams), prometheus.Scrapes(fleet, open_streams)
    at_once = (200, 202)
    return {
        "short form": (
            Route(ADMIN, "POST", "/start", b.start_new, answers.Started, problems=(409, 503)),
            Route(ADMIN, "GET", "/stop/{bot_id}", b.stop_by_get, answers.Stopped, problems=(404, 503, 504)),
            Route(ADMIN, "POST", "/stop/{bot_id}", b.stop_by_post, answers.Stopped, problems=(404, 503, 504)),
            Route(READ, "GET", "/bots", b.list_bots, list[answers.Bot], problems=(503,)),
            Route(READ, "GET", "/bots_history", r.history, list[answers.PastRun], problems=(503,)),
        ),
        "bots": (
            Route(ADMIN, "POST", "/bots", b.create_bot, answers.Bot, (201,), problems=(409, 503)),
            Route(ADMIN, "POST", "/bots/batch", b.create_many, answers.Batch, (201,), problems=(409, 503)),
            Route(READ, "GET", "/bots/{bot_id}", b.get_bot, answers.Bot, problems=(404, 503)),
            Route(ADMIN, "POST", "/bots/start", b.start_many, answers.Results, problems=(503,)),
            Route(ADMIN, "POST", "/bots/stop", b.stop_many, answers.Results, problems=(503,)),
            Route(ADMIN, "POST", "/bots/restart", b.restart_many, answers.Results, problems=(409, 503)),
            Route(ADMIN, "POST", "/bots/{bot_id}/start", b.start_bot, answers.Bot, at_once, (404, 409, 503, 504)),
            Route(ADMIN, "POST", "/bots/{bot_id}/stop", b.stop_bot, answers.Bot, at_once, (404, 503, 504)),
            Route(ADMIN, "POST", "/bots/{bot_id}/restart", b.restart_bot, answers.Bot, at_once, (404, 409, 503, 504)),
            Route(ADMIN, "POST", "/bots/{bot_id}/signal", b.signal_bot, None, (204,), problems=(404, 409, 503)),
            Route(ADMIN, "DELETE", "/bots/{bot_id}", b.delete_bot, None, (204,), problems=(404, 503, 504)),
        ),
        "runs": (
            Route(READ, "GET", "/runs", r.list_runs, answers.Runs, problems=(503,)),
            Route(READ, "GET", "/bots/{bot_id}/runs", r.list_runs_of_bot, answers.Runs, problems=(404, 503)),
            Route(READ, "GET", "/runs/{run_id}", r.get_run, answers.Run, problems=(404, 503)),
            Route(READ, "GET", "/crashes", r.list_crashes, answers.Crashes, problems=(503,)),
        ),
        "live": (
            Route(READ, "GET", "/bots/{bot_id}/logs", b.tail_logs, str, problems=(404, 503), streams=True),
            Route(READ, "GET", "/events", e.follow, None, problems=(404, 503), streams=True),
            Route(READ, "GET", "/kinds", k.list_kinds, answers.Kinds),
            Route(READ, "GET", "/kinds/{name}", k.get_kind, views.KindView, problems=(404,)),
            Route(ADMIN, "POST", "/kinds/reload", k.reload_kinds, views.Reloaded),
            Route(ADMIN, "POST", "/kinds/{name}/reload", k.reload_kind, views.KindView, problems=(404,)),
            Route(READ, "GET", "/metrics", m.scrape, str),
            Route(OPEN, "GET", "/livez", h.livez, answers.Health),
            Route(OPEN, "GET", "/readyz", h.readyz, answers.Health, problems=(503,)),
        ),
        "pages": (
            Route(OPEN, "GET", "/", pages.dashboard, HTMLResponse),
            Route(READ, "GET", "/apidocs", pages.apidocs, HTMLResponse),
            Route(READ, "GET", "/apidocs/", pages.apidocs, HTMLResponse),
            Route(OPEN, "GET", "/assets/{name}", pages.asset, HTMLResponse),
        ),
    }


def level_of(table: Table) -> access.LevelOf:
    """Look up what a call asks for, once for each. What is in no row (an unknown path, /openapi.json) is read."""
    rows: dict[tuple[str, int], list[tuple[re.Pattern[str], access.Access]]] = {}
    for row in itertools.chain.from_iterable(table.values()):
        # Each parameter is one segment: a path has as many slashes as its row.
        rows.setdefault((row.method, row.path.count("/")), []).append((compile_path(row.path)[0], row.access))

    def level(scope: Scope) -> access.Access:
        if "access" not in scope:
            method, path = scope["method"], scope["path"]
            candidates = rows.get(("GET" if method == "HEAD" else method, path.count("/")), ())
            wanted = next((level for pattern, level in candidates if pattern.match(path)), None)
            scope["access"] = wanted or (READ if method in access.SAFE else ADMIN)
        found: access.Access = scope["access"]
        return found

    return level
