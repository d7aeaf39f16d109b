"""The OpenAPI document says what the server does, and no more."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import hypothesis
import jsonschema
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.api.conftest import Api

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture
def document(api: Api) -> dict[str, Any]:
    return dict(api.client.get("/openapi.json").json())


def validate(document: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    """Against a schema of the document, which may refer to others there."""
    jsonschema.Draft202012Validator(
        {**schema, "components": document["components"]}, format_checker=jsonschema.FormatChecker()
    ).validate(value)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("post", "/start", {"start_number": 1}),
        ("get", "/stop/{bot_id}", None),
        ("get", "/bots", None),
        ("get", "/bots_history", None),
        ("post", "/bots", {"name": "b", "labels": {"a": "b"}}),
        ("post", "/bots/batch", {"count": 2}),
        ("get", "/bots/{bot_id}", None),
        ("post", "/bots/start?all=true", None),
        ("post", "/bots/stop?all=true", {"grace_s": 1}),
        ("post", "/bots/restart?all=true", None),
        ("post", "/bots/{bot_id}/stop", {"grace_s": 1}),
        ("post", "/bots/{bot_id}/start", None),
        ("get", "/bots/{bot_id}/runs", None),
        ("get", "/runs", None),
        ("get", "/runs/{run_id}", None),
        ("get", "/crashes", None),
        ("get", "/kinds", None),
        ("get", "/kinds/{name}", None),
        ("post", "/kinds/reload", None),
        ("post", "/kinds/{name}/reload", None),
        ("get", "/livez", None),
        ("get", "/readyz", None),
    ],
)
def test_answers_are_as_documented(
    api: Api, document: dict[str, Any], method: str, path: str, body: dict[str, Any] | None
) -> None:
    api.client.post(f"/stop/{api.start(name='a')}")
    api.start()
    concrete = path.format(bot_id=1, run_id=1, name="counter")
    response = api.client.request(method.upper(), concrete, json=body)
    operation = document["paths"][path.partition("?")[0]][method]
    schema = operation["responses"][str(response.status_code)]["content"]["application/json"]["schema"]
    validate(document, schema, response.json())
    shown = response.json()
    # Every field is there, and none beside them.
    definition = document["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], {})
    if definition:
        assert shown.keys() == definition["properties"].keys()


def test_every_call_documents_its_problems(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            statuses = set(operation["responses"])
            assert {"400", "422", "500"} <= statuses, (method, path)
            if path not in ("/livez", "/readyz"):
                assert "401" in statuses
            if method != "get" or path.startswith("/stop"):
                assert "403" in statuses
            for status, response in operation["responses"].items():
                if status >= "400":
                    assert list(response["content"]) == ["application/problem+json"]
            assert operation["summary"]
            assert operation["description"]


def test_problems_are_as_documented(api: Api, document: dict[str, Any]) -> None:
    bot_id = api.start(kind="stubborn")
    problems = [
        api.client.get(f"/stop/{bot_id}"),
        api.client.get("/bots/77"),
        api.client.post("/start", json={"nope": 1}),
        api.client.get("/nope"),
        api.client.put("/bots"),
    ]
    assert [problem.status_code for problem in problems] == [504, 404, 422, 404, 405]
    for problem in problems:
        validate(document, {"$ref": "#/components/schemas/Problem"}, problem.json())


def test_each_kind_has_a_model_of_its_parameters(api: Api, document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["CounterParams"]["properties"]["start_number"]["type"] == "integer"
    params = schemas["NewBot"]["properties"]["params"]
    assert {"$ref": "#/components/schemas/CounterParams"} in params["anyOf"]
    # All kinds are known, so it is one of these.
    assert len(params["anyOf"]) == len(api.fleet.kinds())
    assert schemas["NewBots"]["properties"]["params"] == params
    validate(document, {"$ref": "#/components/schemas/NewBot"}, {"params": {"start_number": 12}})
    with pytest.raises(jsonschema.ValidationError):
        validate(document, {"$ref": "#/components/schemas/NewBot"}, {"params": {"start_numbre": 12}})


def test_the_document_is_made_again_when_kinds_change(
    api: Api, document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    views = api.fleet.kinds()
    schema = {
        "$defs": {
            "Venue": {"enum": ["#/$defs/Leg", "b"]},
            "Leg": {
                "type": "object",
                "properties": {
                    "default": {"$ref": "#/$defs/Venue"},
                    "next": {"anyOf": [{"$ref": "#/$defs/Leg"}, {"type": "null"}]},
                },
                "required": ["default"],
            },
        },
        "type": "object",
        "properties": {"leg": {"$ref": "#/$defs/Leg", "default": {"$ref": "#/$defs/Leg"}}},
        "additionalProperties": False,
    }
    more = [
        dataclasses.replace(views[0], name="two-legs.v2", params_schema=schema),
        dataclasses.replace(views[0], name="two.legs-v2", params_schema=schema),
        dataclasses.replace(views[0], name="cold", params_schema=None),
    ]
    schemas_of = {view.name: view.params_schema for view in (*views, *more)}
    monkeypatch.setattr(api.app, "_params_schemas", lambda: schemas_of)
    changed = api.client.get("/openapi.json").json()
    monkeypatch.undo()
    schemas = changed["components"]["schemas"]
    params = schemas["NewBot"]["properties"]["params"]
    assert {"TwoLegsV2Params", "TwoLegsV2Params.Leg", "TwoLegsV2Params2", "TwoLegsV2Params2.Venue"} <= schemas.keys()
    assert "ColdParams" not in schemas
    assert {"type": "object", "additionalProperties": True} in params["anyOf"]
    model = {"$ref": "#/components/schemas/TwoLegsV2Params2"}
    validate(changed, model, {"leg": {"default": "b", "next": {"default": "#/$defs/Leg"}}})
    for wrong in ({"leg": {"default": "c"}}, {"leg": {"default": "b", "next": {}}}, {"legs": 1}):
        with pytest.raises(jsonschema.ValidationError):
            validate(changed, model, wrong)
    assert schemas["TwoLegsV2Params"]["properties"]["leg"]["default"] == {"$ref": "#/$defs/Leg"}
    assert api.client.get("/openapi.json").json() == document


def test_pages_are_not_in_it(document: dict[str, Any]) -> None:
    assert not [path for path in document["paths"] if path == "/" or path.startswith(("/apidocs", "/openapi"))]


def test_tokens_are_in_it_when_there_are_any(document: dict[str, Any], serve: Callable[..., Api]) -> None:
    assert "security" not in document
    guarded = serve(admin_token="a" * 20)
    document = guarded.client.get("/openapi.json", headers={"Authorization": f"Bearer {'a' * 20}"}).json()
    assert document["security"] == [{"token": []}]
    assert document["paths"]["/livez"]["get"]["security"] == []
    assert "security" not in document["paths"]["/bots"]["get"]


@functools.cache
def _operations(url: str) -> Any:
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


@pytest.mark.timeout(300)
def test_a_generated_client_finds_nothing(api: Api) -> None:
    """Valid and invalid calls of every operation: no 500, and no answer that the document does not allow."""
    schema = _operations(api.url)
    called = 0
    for result in schema.get_all_operations():
        operation = result.ok()

        @hypothesis.settings(
            max_examples=25,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(
            case=operation.as_strategy() | operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)
        )
        def check(case: schemathesis.Case[Any]) -> None:
            nonlocal called
            called += 1
            case.call_and_validate(checks=CHECKS)

        check()
    assert called > 300
