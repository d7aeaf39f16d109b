"""What a kind takes as parameters."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core import errors, params

DESCRIBED: list[dict[str, Any]] = [
    {"name": "n", "type": "int", "required": True, "default": None},
    {"name": "ratio", "type": "float", "required": False, "default": 0.5},
    {"name": "text", "type": "str", "required": False, "default": "hi"},
    {"name": "flag", "type": "bool", "required": False, "default": False},
    {"name": "anything", "type": None, "required": False, "default": None},
    {"name": "items", "type": "list", "required": False, "default": [1]},
    {"name": "table", "type": "dict", "required": False, "default": {}},
]
DEFAULTS = {one["name"]: one["default"] for one in DESCRIBED if not one["required"]}

TEXT = st.text("aZ0_- é\0\n", max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)


def test_defaults_are_filled_in() -> None:
    whole = params.check("kind", DESCRIBED, {"n": 3, "anything": {"a": [1, None]}})
    assert whole == DEFAULTS | {"n": 3, "anything": {"a": [1, None]}}


def test_a_default_is_not_shared() -> None:
    params.check("kind", DESCRIBED, {"n": 3})["items"].append(2)
    assert params.check("kind", DESCRIBED, {"n": 3})["items"] == [1]


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
        ({"n": 1, "text": None}, "text"),
        ({"n": 1, "flag": 1}, "flag"),
        ({"n": 1, "items": {}}, "items"),
        ({"n": 1, "table": []}, "table"),
        ({"n": 1, "other": 1}, "other"),
        ({"n": 1, "p1": 0.5}, "p1"),
    ],
)
def test_what_does_not_fit_is_named(given: dict[str, Any], field: str) -> None:
    with pytest.raises(errors.BadParams) as refused:
        params.check("kind", DESCRIBED, given)
    assert field in refused.value.detail
    assert ["body", "params", field] in [error["loc"][:3] for error in refused.value.errors]


def test_a_typo_is_named_first_with_the_nearest_parameter() -> None:
    described = [
        {"name": "name", "type": "str", "required": True, "default": None},
        {"name": "leverage", "type": "int", "required": False, "default": 1},
    ]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"nmae": "a"}, "nmae: no such parameter; did you mean name?; name: Field required"),
        ({"name": "a", "LEVERAGE": 2}, "LEVERAGE: no such parameter; did you mean leverage?"),
        ({"name": "a", "z": 2}, "z: no such parameter; there are: leverage, name"),
    ]
    for trader, told in cases:
        with pytest.raises(errors.BadParams) as refused:
            params.check("trader", described, trader)
        assert refused.value.detail == f"trader does not take these parameters: {told}"
    with pytest.raises(errors.BadParams, match="a: no such parameter; there are none"):
        params.check("plain", [], {"a": 1})


def test_a_name_that_a_model_ignores_is_told_with_what_is_wrong() -> None:
    missing = {"loc": ["name"], "msg": "Field required", "type": "missing"}
    told = params.refused("trader", [missing], {"nmae": "a"}, {"name": {}})
    assert [error["loc"][-1] for error in told.errors] == ["nmae", "name"]
    forbidden = {"loc": ["nmae"], "msg": "Extra inputs are not permitted", "type": "extra_forbidden"}
    told = params.refused("trader", [missing, forbidden], {"nmae": "a"}, {"name": {}})
    assert [error["loc"][-1] for error in told.errors] == ["nmae", "name"]
    told = params.refused("trader", [{"loc": ["size"], "msg": "too large", "type": "value"}], {"n": 1}, {"name": {}})
    assert [error["loc"][-1] for error in told.errors] == ["size"]
    wrong = {"loc": [], "msg": "ValueError: both or none", "type": "validator"}
    told = params.refused("trader", [wrong], {"name": "a"}, {"name": {}})
    assert told.detail == "trader does not take these parameters: ValueError: both or none"


@given(st.fixed_dictionaries({"n": st.integers()}, optional={one["name"]: JSON for one in DESCRIBED[1:]}))
def test_any_json_is_taken_as_it_is_or_refused(given: dict[str, Any]) -> None:
    try:
        whole = params.check("kind", DESCRIBED, given)
    except errors.BadParams:
        return
    assert whole == DEFAULTS | given


@given(st.dictionaries(TEXT, JSON, min_size=1))
def test_what_is_unknown_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(errors.BadParams):
        params.check("kind", [], given)


@pytest.mark.parametrize(
    "name", ["schema", "copy", "_private", "__base__", "model_config", "model_dump", "self", "p0", "größe"]
)
def test_a_parameter_may_have_any_name(name: str) -> None:
    described = [{"name": name, "type": "int", "required": False, "default": 3}]
    assert params.check("kind", described, {}) == {name: 3}
    assert params.check("kind", described, {name: 4}) == {name: 4}
    assert list(params.schema("kind", described)["properties"]) == [name]
    with pytest.raises(errors.BadParams, match=name):
        params.check("kind", described, {name: "4"})


def test_the_schema_names_each_parameter() -> None:
    schema = params.schema("kind", DESCRIBED)
    assert list(schema["properties"]) == [one["name"] for one in DESCRIBED]
    assert schema["required"] == ["n"]
    assert schema["additionalProperties"] is False
