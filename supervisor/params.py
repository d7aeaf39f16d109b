"""The parameters of a kind: a model made of what its zygote found in the target's signature."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any

import pydantic

from supervisor import errors

SAFE_INTEGER = 2**53
"""JSON numbers beyond are not the same number to every reader."""

Integer = Annotated[int, pydantic.Field(strict=True, ge=-SAFE_INTEGER, le=SAFE_INTEGER)]
Number = Annotated[float, pydantic.Field(strict=True, allow_inf_nan=False)]

_TYPES: dict[str | None, Any] = {
    "int": Integer,
    "float": Number,
    "str": pydantic.StrictStr,
    "bool": pydantic.StrictBool,
    "list": list[pydantic.JsonValue],
    "dict": dict[str, pydantic.JsonValue],
    None: pydantic.JsonValue,
}


@lru_cache(maxsize=256)
def _model(kind: str, described: str) -> type[pydantic.BaseModel]:
    fields: dict[str, Any] = {}
    for n, parameter in enumerate(json.loads(described)):
        type_ = _TYPES.get(parameter["type"], pydantic.JsonValue)
        default = parameter["default"]
        if not parameter["required"] and default is None:
            type_ |= None
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
        problems = [
            {"loc": ["body", "params", *e["loc"]], "msg": e["msg"], "type": e["type"]}
            for e in error.errors(include_input=False, include_url=False, include_context=False)[:20]
        ]
        first = problems[0]
        where = ".".join(map(str, first["loc"][2:]))
        raise errors.BadParams(
            f"{kind} does not take these parameters: {where}: {first['msg']}", errors=problems
        ) from None


def schema(kind: str, parameters: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The parameters as JSON Schema."""
    return _of(kind, parameters).model_json_schema()
