"""The HTTP application: the routes, and the layers that each call passes on its way to them."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from supervisor.api import (
    access,
    audit,
    body_limit,
    document,
    headers,
    invalid_input,
    problems,
    prometheus,
    routes,
    streams,
)
from supervisor.core import errors
from supervisor.fleet.fleet import Fleet
from supervisor.settings import Settings

LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


def create(fleet: Fleet, settings: Settings) -> FastAPI:
    """The application, from the outermost layer to the routes."""
    table = routes.table(fleet, streams.Streams(settings.max_streams))
    level_of = routes.level_of(table)
    own = f"[{settings.host}]" if ":" in settings.host else settings.host
    app = document.Application(
        table, with_tokens=settings.admin_token is not None, params_schemas=fleet.catalogue.params_schemas
    )
    app.add_exception_handler(errors.Problem, problems.on_problem)
    app.add_exception_handler(RequestValidationError, invalid_input.on_invalid)
    app.add_exception_handler(HTTPException, problems.on_http_error)
    # What is added last is passed first.
    app.add_middleware(body_limit.Bodies)
    app.add_middleware(
        access.Gate,
        checks=(
            access.Hosts([*LOCAL_NAMES, own, *settings.allowed_hosts]),
            access.Tokens(level_of, settings.admin_token, settings.read_token),
            access.Origins(level_of, settings.allowed_hosts),
        ),
    )
    app.add_middleware(problems.Catch)
    app.add_middleware(audit.Audit, level_of=level_of)
    app.add_middleware(headers.Headers)
    app.add_middleware(prometheus.Timing, metrics=fleet.metrics)
    return app
