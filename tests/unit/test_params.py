"""What a kind takes as parameters."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor import errors, params

DESCRIBED: list[dict[str, Any]] = [
    {"name": "n", "type": "int", "required": True, "default": None},
    {"name": "ratio", "type": "float", "required": False, "default": 0.5},
    {"name": "text", "type": "str", "required": False, "default": "hi"},
    {"name": "flag", "type": "bool", "required": False, "default": False},
    {"name": "anything", "type": None, "required": False, "default": None},
]


def test_defaults_are_filled_in() -> None:
    whole = params.check("kind", DESCRIBED, {"n": 3, "anything": {"a": [1, None]}})
    assert whole == {"n": 3, "ratio": 0.5, "text": "hi", "flag": False, "anything": {"a": [1, None]}}


@pytest.mark.parametrize("n", [0, -(2**53), 2**53])
def test_integers_within_the_safe_range(n: int) -> None:
    assert params.check("kind", DESCRIBED, {"n": n})["n"] == n


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "n"),
        ({"n": True}, "n"),
        ({"n": "12"}, "n"),
        ({"n": 12.0}, "n"),
        ({"n": None}, "n"),
        ({"n": 2**53 + 1}, "n"),
        ({"n": -(2**70)}, "n"),
        ({"n": 1, "ratio": "0.5"}, "ratio"),
        ({"n": 1, "ratio": float("inf")}, "ratio"),
        ({"n": 1, "text": 5}, "text"),
        ({"n": 1, "flag": 1}, "flag"),
        ({"n": 1, "other": 1}, "other"),
    ],
)
def test_what_does_not_fit_is_named(given: dict[str, Any], field: str) -> None:
    with pytest.raises(errors.BadParams) as refused:
        params.check("kind", DESCRIBED, given)
    assert field in refused.value.detail
    assert ["body", "params", field] in [error["loc"][:3] for error in refused.value.errors]


def test_the_schema_names_each_parameter() -> None:
    schema = params.schema("kind", DESCRIBED)
    assert list(schema["properties"]) == [one["name"] for one in DESCRIBED]
    assert schema["required"] == ["n"]
    assert schema["additionalProperties"] is False
