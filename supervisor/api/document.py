"""The OpenAPI document: the rows of the table as FastAPI wants to be told of them."""

from __future__ import annotations

import http
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from supervisor import __version__
from supervisor.api import answers, params_models, problems
from supervisor.api.access import SAFE, Access
from supervisor.api.invalid_input import StrictRoute
from supervisor.api.routes import Route, Table
from supervisor.api.streams import EventStream

_MESSAGE = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
    "required": ["id", "data"],
}
"""One server-sent event, as OpenAPI 3.2 has it."""


class Application(FastAPI):
    """FastAPI with our table, and with problems in its document."""

    def __init__(
        self, table: Table, *, params_schemas: Callable[[], Mapping[str, Mapping[str, Any] | None]], with_tokens: bool
    ) -> None:
        """`params_schemas` tells the JSON Schemas of the kinds' parameters, by name; None where it is not known yet."""
        super().__init__(
            title="bot-supervisor",
            version=__version__,
            description="Runs fleets of Python bots, one process each, and keeps account of every run.",
            # A row as the others are, so that it is as strict.
            openapi_url=None,
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
            # A body without a type is taken for JSON, as `limits` does.
            strict_content_type=False,
        )
        self.router.route_class = StrictRoute
        self._documented: Mapping[str, Any] = {}
        self._with_tokens = with_tokens
        self._params_schemas = params_schemas
        for section, rows in table.items():
            for route in rows:
                self._add(route, section)
        self.router.add_api_route("/openapi.json", self._document, methods=["GET", "HEAD"], include_in_schema=False)

    def _add(self, route: Route, section: str) -> None:
        first, *others = route.statuses
        has_model = route.answer not in (None, str, HTMLResponse)
        response_class: type[Response] = {None: Response, str: PlainTextResponse}.get(route.answer, JSONResponse)
        responses: dict[int | str, dict[str, Any]] = {status: {"model": route.answer} for status in others}
        if route.streams:
            responses[first] = {"content": {EventStream.media_type: {"itemSchema": _MESSAGE}}}
        self.router.add_api_route(
            route.path,
            route.endpoint,
            methods=[route.method],
            status_code=first,
            response_model=route.answer if has_model else None,
            response_class=response_class,
            responses=responses | {status: _documented(status) for status in _problems(route)},
            # As far as it goes without saying how.
            summary=re.split("[;.:]", inspect.getdoc(route.endpoint) or "")[0],
            tags=[section],
            include_in_schema=route.answer is not HTMLResponse,
            openapi_extra={"security": []} if route.access is Access.OPEN else None,
        )
        if route.method == "GET" and route.access is not Access.ADMIN:
            self.router.add_api_route(route.path, route.endpoint, methods=["HEAD"], include_in_schema=False)

    async def _document(self) -> Response:
        return JSONResponse(self.openapi())

    def openapi(self) -> dict[str, Any]:
        """The document. Made again when other kinds, or other parameters of a kind, are known."""
        known = self._params_schemas()
        if self.openapi_schema is not None and known == self._documented:
            return self.openapi_schema
        self._documented, self.openapi_schema = known, None
        document = super().openapi()
        components = document["components"]
        problem = answers.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        components["schemas"] |= problem.pop("$defs") | {"Problem": problem}
        self._add_params(components["schemas"], known)
        if self._with_tokens:
            components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"token": []}]
        return document

    def _add_params(self, schemas: dict[str, Any], known: Mapping[str, Mapping[str, Any] | None]) -> None:
        """The parameters of each kind as a model of its own, of which a new bot has one."""
        choice: list[Any] = []
        for kind, schema in known.items():
            if schema is not None:
                models = params_models.of(kind, schema, taken=schemas)
                schemas |= models
                choice.append({"$ref": params_models.REFERENCE + next(iter(models))})
        if len(choice) < len(known):
            choice.append({"type": "object", "additionalProperties": True})
        for body in ("NewBot", "NewBots"):
            field = schemas[body]["properties"]["params"]
            schemas[body]["properties"]["params"] = {
                "anyOf": choice,
                **{key: field[key] for key in ("title", "description", "default") if key in field},
            }


def _problems(route: Route) -> Sequence[int]:
    common = {400, 422, 500}
    if route.access is not Access.OPEN:
        common.add(401)
    if route.access is Access.ADMIN:
        common.add(403)
    if route.method not in SAFE:
        common.update((408, 413, 415))
    return sorted(common.union(route.problems))


def _documented(status: int) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": http.HTTPStatus(status).phrase, "content": {problems.MEDIA_TYPE: {"schema": schema}}}
