"""The callable behind a kind: imported, looked at, and described."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from botproc import secrets, wire

_SIMPLE = (int, float, str, bool, list, dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The callable of a kind, looked at once. `model` is the Pydantic model that its one parameter, `model_name`, is,
    if it is one; `secrets` are the parameters that are `pydantic.SecretStr`."""

    call: Callable[..., Any]
    is_async: bool
    takes_context: bool
    model: Any = None
    model_name: str = ""
    secrets: frozenset[str] = frozenset()


def load(spec: wire.ZygoteSpec) -> Target:
    """Imports the kind as its settings say. Raises whatever its modules raise."""
    enter(spec)
    sys.path[:0] = spec.path
    os.environ.update(spec.env)
    for module in spec.preload:
        importlib.import_module(module)
    module_name, _, attribute = spec.target.partition(":")
    call: Any = importlib.import_module(module_name)
    for part in attribute.split("."):
        call = getattr(call, part)
    return look_at(call)


def enter(spec: wire.ZygoteSpec) -> None:
    """The surroundings that all bots of a kind share. Raises OSError."""
    os.environ["NOTIFY_SOCKET"] = spec.notify_address
    if spec.cwd:
        os.chdir(spec.cwd)


def look_at(call: Callable[..., Any]) -> Target:
    """What the callable is. A first parameter named `ctx` takes the context. Raises TypeError."""
    if not callable(call):
        raise TypeError(f"the target is not callable, it is a {type(call).__name__}")
    parameters = list(_signature(call).parameters.values())
    first = parameters[0] if parameters else None
    takes_context = (
        first is not None
        and first.kind in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD)
        and first.default is first.empty
        and first.name == "ctx"
    )
    own = parameters[1 if takes_context else 0 :]
    model = own[0].annotation if len(own) == 1 and _is_model(own[0].annotation) else None
    if model is not None and own[0].kind is inspect.Parameter.POSITIONAL_ONLY:
        raise TypeError(f"the parameter {own[0].name!r} cannot be given by name")
    return Target(
        call=call,
        is_async=inspect.iscoroutinefunction(call),
        takes_context=takes_context,
        model=model,
        model_name=own[0].name if model else "",
        secrets=frozenset(one.name for one in own if _is_secret(one.annotation)),
    )


def _signature(call: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(call, eval_str=True)
    except Exception:
        # Names that are imported for type checkers alone, and what else cannot be evaluated.
        return inspect.signature(call)


def _is_model(annotation: object) -> bool:
    """Without importing Pydantic: who has none of its models has no need of it."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel)


def _is_secret(annotation: object) -> bool:
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and (
        annotation is pydantic.SecretStr or pydantic.SecretStr in typing.get_args(annotation)
    )


def describe(target: Target) -> list[dict[str, Any]]:
    """The keyword parameters of a target: name, type, default, required.

    A type is "int", "float", "str", "bool", "list", "dict", "null" or "secret"; {"list": type}; {"dict": type}, of the
    values; {"literal": [value…]}; {"union": [type…]}; or None for any JSON value. A parameter whose default is no JSON
    value cannot be given, and is left out. Raises TypeError where a parameter cannot be given by keyword, and where it
    has secrets within: kept apart and hidden are those that are parameters themselves.
    """
    if target.model is not None:
        return []
    found: list[dict[str, Any]] = []
    for parameter in list(_signature(target.call).parameters.values())[1 if target.takes_context else 0 :]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise TypeError(f"the parameter {parameter.name!r} cannot be given by name")
        type_ = _type(parameter.annotation)
        if _has_secrets(parameter.annotation) and "secret" not in _alternatives(type_):
            raise TypeError(
                f"the parameter {parameter.name!r} has secrets within: each is to be a parameter of its own"
            )
        required = parameter.default is parameter.empty
        if not required and not _is_json(parameter.default):
            continue
        found.append(
            {
                "name": parameter.name,
                "type": type_,
                "required": required,
                "default": None if required else parameter.default,
            }
        )
    return found


def _type(annotation: Any) -> Any:
    for simple in _SIMPLE:
        if annotation is simple or annotation == simple.__name__:
            return simple.__name__
    if annotation is None or annotation is types.NoneType:
        return "null"
    if isinstance(annotation, type) and _is_secret(annotation):
        return "secret"
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(args[0])
    if origin is list:
        return {"list": _type(args[0])}
    if origin is dict and args[0] is str:
        return {"dict": _type(args[1])}
    if origin is typing.Literal and all(isinstance(value, str | int | bool | None) for value in args):
        return {"literal": list(args)}
    if origin in (typing.Union, types.UnionType):
        return {"union": [_type(arg) for arg in args]}
    return None


def _alternatives(type_: Any) -> list[Any]:
    return type_["union"] if isinstance(type_, dict) and "union" in type_ else [type_]


def _has_secrets(annotation: Any) -> bool:
    """Whether it is one, or is made of some."""
    return _is_secret(annotation) or any(map(_has_secrets, typing.get_args(annotation)))


def _is_json(value: object) -> bool:
    """Whether it is the same after a journey through JSON."""
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError):
        return False


def schema(target: Target) -> dict[str, Any] | None:
    """The JSON Schema of the target's model, if it has one. Raises TypeError where a parameter has secrets within."""
    if target.model is None:
        return None
    found: dict[str, Any] = target.model.model_json_schema()
    for place in _secret_places(found):
        match place:
            case ["properties", _] | ["properties", _, "anyOf", _]:
                continue
        raise TypeError(f"a secret is to be a parameter of its own, and not within another: {'.'.join(place)}")
    return found


def _secret_places(schema: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where in a JSON Schema a secret is described."""
    if isinstance(schema, dict):
        if schema.get("format") == "password":
            yield place
        for name, inner in schema.items():
            yield from _secret_places(inner, (*place, name))
    elif isinstance(schema, list):
        for n, inner in enumerate(schema):
            yield from _secret_places(inner, (*place, str(n)))


def check(target: Target, params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is wrong with parameters for the target's model: `loc`, `msg` and `type` of each error, never the input.

    Of what is given as a reference only the bot can see the value.
    """
    try:
        target.model.model_validate(params)
    except sys.modules["pydantic"].ValidationError as error:
        return [
            one for one in _told(error) if not (one["loc"] and secrets.is_reference(params.get(str(one["loc"][0]))))
        ]
    except BaseException as error:
        # Of a validator of the author's own, and be it `sys.exit`.
        return [{"loc": [], "msg": f"{type(error).__name__}: {error}", "type": "validator"}]
    return []


def _told(error: Any) -> list[dict[str, Any]]:
    """What a ValidationError says, without the input: that may be a secret."""
    found = error.errors(include_input=False, include_url=False, include_context=False)
    return [{"loc": list(one["loc"]), "msg": one["msg"], "type": one["type"]} for one in found]


class Unfit(Exception):
    """The model does not take the parameters. Its text names them, and no value."""


def arguments(target: Target, params: Mapping[str, Any]) -> dict[str, Any]:
    """What the target is called with, by name. Raises Unfit."""
    if target.model is not None:
        try:
            return {target.model_name: target.model.model_validate(params)}
        except sys.modules["pydantic"].ValidationError as error:
            said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in _told(error))
            raise Unfit(f"the parameters do not fit: {said}") from None
    secret = {
        name: sys.modules["pydantic"].SecretStr(params[name])
        for name in target.secrets
        if isinstance(params.get(name), str)
    }
    return {**params, **secret}
