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
from supervisor.api import answers, problems
from supervisor.api.access import SAFE, Access
from supervisor.api.routes import Route, Table


class Application(FastAPI):
    """FastAPI with our table, and with problems in its document."""

    def __init__(
        self, table: Table, *, with_tokens: bool, params_schemas: Callable[[], Mapping[str, Mapping[str, Any]]]
    ) -> None:
        """`params_schemas` tells the JSON Schemas of the parameters, by the names of the kinds."""
        super().__init__(
            title="bot-supervisor",
            version=__version__,
            description="Runs fleets of Python bots, one process each, and keeps account of every run.",
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
            # A body without a type is taken for JSON, as `limits` does.
            strict_content_type=False,
        )
        self._calls: dict[str, Any] | None = None
        self._with_tokens = with_tokens
        self._params_schemas = params_schemas
        for section, rows in table.items():
            for route in rows:
                self._add(route, section)

    def _add(self, route: Route, section: str) -> None:
        first, *others = route.statuses
        has_model = route.answer not in (None, str, HTMLResponse)
        response_class: type[Response] = {None: Response, str: PlainTextResponse}.get(route.answer, JSONResponse)
        responses: dict[int | str, dict[str, Any]] = {status: {"model": route.answer} for status in others}
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

    def openapi(self) -> dict[str, Any]:
        """The document: what the calls are, made once, and what the kinds take now."""
        if self._calls is None:
            self._calls = self._document()
        return _with_kinds(self._calls, self._params_schemas())

    def _document(self) -> dict[str, Any]:
        document = super().openapi()
        components = document["components"]
        problem = answers.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        components["schemas"] |= problem.pop("$defs") | {"Problem": problem}
        if self._with_tokens:
            components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"token": []}]
        return document


def _with_kinds(document: dict[str, Any], schemas: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The document with a named model for the parameters of each kind."""
    models: dict[str, Any] = {}
    for kind, schema in schemas.items():
        name = "".join(part[:1].upper() + part[1:] for part in re.split(r"[^A-Za-z0-9]+", kind)) + "Params"
        while name in models or name in document["components"]["schemas"]:
            name += "_"
        models[name] = _moved(schema, f"#/components/schemas/{name}/$defs/")
    new_bot = document["components"]["schemas"]["NewBot"]
    anything = new_bot["properties"]["params"]
    known = [{"$ref": f"#/components/schemas/{name}"} for name in models]
    params = {"anyOf": [*known, {"type": "object", "additionalProperties": True}]} | {
        key: anything[key] for key in ("title", "description", "default") if key in anything
    }
    new_bot = new_bot | {"properties": new_bot["properties"] | {"params": params}}
    components = document["components"]
    return document | {"components": components | {"schemas": components["schemas"] | models | {"NewBot": new_bot}}}


def _moved(schema: Any, definitions: str) -> Any:
    """A JSON Schema whose own definitions are found from the root of the document."""
    match schema:
        case {"$ref": str(ref), **others}:
            return {
                "$ref": ref.replace("#/$defs/", definitions),
                **{k: _moved(v, definitions) for k, v in others.items()},
            }
        case dict():
            return {key: _moved(value, definitions) for key, value in schema.items()}
        case list():
            return [_moved(item, definitions) for item in schema]
        case _:
            return schema


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
