"""The parameters of kinds as named models of the OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

REFERENCE = "#/components/schemas/"

_DEFINITION = "#/$defs/"
_BY_NAME = frozenset({"properties", "patternProperties", "dependentSchemas"})
"""Keywords whose values are schemas by names of the author's."""
_DATA = frozenset({"default", "const", "enum", "examples"})
"""Keywords whose values are no schemas, whatever they look like."""


def of(kind: str, schema: Mapping[str, Any], *, taken: Collection[str]) -> dict[str, Any]:
    """The models of a kind by names that are not taken: first that of its parameters, then what it refers to.

    Args:
        schema: JSON Schema, complete in itself: it refers only to its own `$defs`.
    """
    name = wanted = "".join(part[:1].upper() + part[1:] for part in re.split("[._-]", kind)) + "Params"
    number = 2
    # Those of what it refers to begin with its name and a point, which no other has.
    while name in taken:
        name, number = f"{wanted}{number}", number + 1
    own = {key: value for key, value in schema.items() if key != "$defs"}
    models = {name: _moved(own, name)}
    for part, definition in schema.get("$defs", {}).items():
        models[_name_of(name, part)] = _moved(definition, name)
    return models


def _name_of(owner: str, part: str) -> str:
    return f"{owner}.{re.sub('[^A-Za-z0-9._-]', '_', part)}"


def _moved(schema: Any, owner: str) -> Any:
    """The schema with references into the document, where the definitions are."""
    match schema:
        case dict():
            return {
                key: value
                if key in _DATA
                else {name: _moved(inner, owner) for name, inner in value.items()}
                if key in _BY_NAME and isinstance(value, dict)
                else _moved(value, owner)
                for key, value in schema.items()
            }
        case list():
            return [_moved(inner, owner) for inner in schema]
        case str() if schema.startswith(_DEFINITION):
            part, slash, rest = schema.removeprefix(_DEFINITION).partition("/")
            return REFERENCE + _name_of(owner, part) + slash + rest
    return schema
