"""The parameters of a kind: a model made of what its zygote found in the target's signature."""

from __future__ import annotations

import functools
import json
import operator
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal

import pydantic

from supervisor.core import errors, suggestions

SAFE_INTEGER = 2**53
"""JSON numbers beyond are not the same number to every reader."""

Integer = Annotated[int, pydantic.Field(strict=True, ge=-SAFE_INTEGER, le=SAFE_INTEGER)]
Number = Annotated[float, pydantic.Field(strict=True, allow_inf_nan=False)]

Secret = Annotated[
    str, pydantic.Strict(), pydantic.WithJsonSchema({"type": "string", "format": "password", "writeOnly": True})
]

_TYPES: dict[str, Any] = {
    "int": Integer,
    "float": Number,
    "str": pydantic.StrictStr,
    "bool": pydantic.StrictBool,
    "list": list[pydantic.JsonValue],
    "dict": dict[str, pydantic.JsonValue],
    "null": None,
    "secret": Secret,
}


def _type(described: Any) -> Any:
    """The type that `botproc.target.describe` has put into JSON."""
    match described:
        case str():
            return _TYPES.get(described, pydantic.JsonValue)
        case {"list": item}:
            return list[_type(item)]  # type: ignore[misc]
        case {"dict": value}:
            return dict[str, _type(value)]  # type: ignore[misc]
        case {"literal": values}:
            return Literal[tuple(values)]
        case {"union": types}:
            return functools.reduce(operator.or_, map(_type, types))
        case _:
            return pydantic.JsonValue


@lru_cache(maxsize=256)
def _model(kind: str, described: str) -> type[pydantic.BaseModel]:
    fields: dict[str, Any] = {}
    for n, parameter in enumerate(json.loads(described)):
        type_ = _type(parameter["type"])
        default = parameter["default"]
        if not parameter["required"] and default is None:
            type_ = type_ | None
        # Under its own name one could hide what a model is made of: `schema`, `model_config`, `_private`.
        field = pydantic.Field(... if parameter["required"] else default, alias=parameter["name"])
        fields[f"p{n}"] = (type_, field)
    config = pydantic.ConfigDict(extra="forbid", title=f"parameters of {kind}")
    model: type[pydantic.BaseModel] = pydantic.create_model(kind, __config__=config, **fields)
    return model


def _of(kind: str, parameters: Sequence[Mapping[str, Any]]) -> type[pydantic.BaseModel]:
    return _model(kind, json.dumps(list(map(dict, parameters))))


def check(kind: str, parameters: Sequence[Mapping[str, Any]], given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters, with defaults filled in. Raises BadParams."""
    try:
        return _of(kind, parameters).model_validate(given).model_dump(by_alias=True)
    except pydantic.ValidationError as error:
        found = error.errors(include_input=False, include_url=False, include_context=False)
        raise refused(kind, found, given, [parameter["name"] for parameter in parameters]) from None


def refused(
    kind: str, found: Sequence[Mapping[str, Any]], given: Mapping[str, Any], known: Collection[str]
) -> errors.BadParams:
    """What to raise for parameters that are wrong: each error that was found with `loc`, `msg` and `type`.

    A name that the kind does not have is told first, with the nearest that it has. A model may ignore such a name: then
    it is told where another is missing.
    """
    forbidden = {error["loc"][0] for error in found if _is_unknown(error)}
    misses = any(error["type"] == "missing" for error in found)
    explained = [
        {"loc": [name], "msg": f"no such parameter; {suggestions.instead_of(name, known)}", "type": "extra_forbidden"}
        for name in given
        if name in forbidden or (misses and name not in known)
    ]
    others = [error for error in found if not _is_unknown(error)]
    problems = [
        {"loc": ["body", "params", *error["loc"]], "msg": error["msg"], "type": error["type"]}
        for error in [*explained, *others][:20]
    ]
    told = [".".join(map(str, problem["loc"][2:])) + f": {problem['msg']}" for problem in problems[:3]]
    said = "; ".join(one.removeprefix(": ") for one in told)
    return errors.BadParams(f"{kind} does not take these parameters: {said}", errors=problems)


def _is_unknown(error: Mapping[str, Any]) -> bool:
    return error["type"] == "extra_forbidden" and len(error["loc"]) == 1


def secret_names(parameters: Sequence[Mapping[str, Any]], schema: Mapping[str, Any] | None) -> frozenset[str]:
    """The parameters that are typed as secrets."""
    if schema is not None:
        return frozenset(name for name, field in schema.get("properties", {}).items() if _is_secret(field))
    return frozenset(p["name"] for p in parameters if "secret" in _alternatives(p["type"]))


def _alternatives(described: Any) -> Sequence[Any]:
    return described["union"] if isinstance(described, dict) and "union" in described else [described]


def _is_secret(field: Mapping[str, Any]) -> bool:
    return any(one.get("format") == "password" for one in (field, *field.get("anyOf", ())))


def schema(kind: str, parameters: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The parameters as JSON Schema."""
    return _of(kind, parameters).model_json_schema()
