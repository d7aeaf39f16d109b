"""Which parameters are secret, and which kinds are refused since some could not be kept apart."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic
import pytest
from pydantic import SecretStr

from botproc import target
from supervisor.core import params


class Login(pydantic.BaseModel):
    user: str
    password: SecretStr


class Good(pydantic.BaseModel):
    token: SecretStr
    spare: SecretStr | None = None
    symbol: str = "BTC"


class Nested(pydantic.BaseModel):
    login: Login


class Listed(pydantic.BaseModel):
    tokens: list[SecretStr] = []


async def by_model(config: Good) -> None: ...


async def by_annotation(
    *, token: Annotated[SecretStr, pydantic.Field(min_length=8)], spare: SecretStr | None = None, symbol: str = "BTC"
) -> None: ...


async def nested(config: Nested) -> None: ...


async def listed(config: Listed) -> None: ...


async def annotated_list(*, tokens: list[SecretStr]) -> None: ...


async def annotated_tuple(*, tokens: tuple[SecretStr, ...] = ()) -> None: ...


@pytest.mark.parametrize("call", [by_model, by_annotation])
def test_secrets_are_those_parameters_that_are_typed_so(call: Any) -> None:
    looked_at = target.look_at(call)
    names = params.secret_names(target.describe(looked_at), target.schema(looked_at))
    assert names == {"token", "spare"}


@pytest.mark.parametrize(
    ("call", "where"),
    [(nested, "$defs.Login.properties.password"), (listed, "properties.tokens.items")],
)
def test_a_model_with_a_secret_that_is_no_parameter_is_refused(call: Any, where: str) -> None:
    with pytest.raises(TypeError) as refused:
        target.schema(target.look_at(call))
    assert str(refused.value).endswith(where)


@pytest.mark.parametrize("call", [annotated_list, annotated_tuple])
def test_a_parameter_with_secrets_within_is_refused(call: Any) -> None:
    with pytest.raises(TypeError, match="the parameter 'tokens' has secrets within"):
        target.describe(target.look_at(call))
