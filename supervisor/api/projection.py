"""Answers made of the model's values, so that a field of a bot or of a run is spelled once.

The annotations of a value are text. `fields` reads them again with the words that callers know: in the model a
`Timestamp` is an integer of microseconds, in an answer it is text of RFC 3339. `has` makes a dataclass of the fields,
for the OpenAPI document and for pydantic to serialize; `Values` reads what goes into it, by one `attrgetter`, since a
list may have a thousand bots.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Collection, Mapping
from operator import attrgetter
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import GetCoreSchemaHandler, WithJsonSchema
from pydantic_core import CoreSchema, core_schema

from supervisor.core import model, timestamps, views
from supervisor.store import secrets

T = TypeVar("T")

Time = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]


class _PlainText:
    """Has pydantic write a word of an enumeration as the string that it is.

    Pydantic itself asks each for its `value`, which took an eighth of the time of a long list.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return {**handler(source), "serialization": core_schema.simple_ser_schema("str")}


_WORDS: Mapping[str, Any] = {
    **vars(model),
    **vars(views),
    **{cls.__name__: Annotated[cls, _PlainText()] for cls in (model.State, model.Goal, model.Cause, model.WaitingFor)},
    "Timestamp": Time,
}
"""What the words in the model's annotations mean to callers."""

Conversions = Mapping[Any, Callable[[Any], Any]]
"""What becomes of a value, by the type that callers see."""

_CONVERSIONS: Conversions = {Time: timestamps.rfc3339, model.Params: secrets.shown}


class Field(NamedTuple):
    """A field of an answer: the type that callers see, and the path to its value, such as "live.pid"."""

    hint: Any
    path: str


def fields(
    value: type[Any], *, at: str = "", without: Collection[str] = (), nullable: bool = False, **words: Any
) -> dict[str, Field]:
    """The fields of a value of the model, which is found `at` a path; the answer's `words` replace the model's."""
    hints = typing.get_type_hints(value, {**_WORDS, **words}, include_extras=True)
    return {
        name: Field(hint | None if nullable else hint, f"{at}.{name}" if at else name)
        for name, hint in hints.items()
        if name not in without
    }


def has(given: Mapping[str, Field]) -> Callable[[type[T]], type[T]]:
    """Decorate a class with these fields, followed by its own."""

    def fill(cls: type[T]) -> type[T]:
        hints = {name: field.hint for name, field in given.items()} | typing.get_type_hints(cls)
        namespace = {"__doc__": cls.__doc__, "__module__": cls.__module__}
        return dataclasses.make_dataclass(cls.__name__, hints.items(), namespace=namespace, slots=True)

    return fill


class Values:
    """Reads the values of these fields, in their order."""

    def __init__(
        self, given: Mapping[str, Field], conversions: Mapping[Any, Callable[[Any], Any]] | None = None
    ) -> None:
        self._read = attrgetter(*(field.path for field in given.values()))
        self._conversions = [
            (position, convert)
            for position, field in enumerate(given.values())
            for hint, convert in {**_CONVERSIONS, **(conversions or {})}.items()
            if hint in (field.hint, *typing.get_args(field.hint))
        ]

    def __call__(self, value: Any) -> list[Any]:
        values = list(self._read(value))
        for position, convert in self._conversions:
            if (given := values[position]) is not None:
                values[position] = convert(given)
        return values
