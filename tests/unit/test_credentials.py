"""Who runs with what."""

from __future__ import annotations

import pytest

from supervisor.core import errors
from supervisor.fleet import credentials


def test_a_credential_is_named_by_the_parameters() -> None:
    assert credentials.name("login:{account}@{port}", {"account": "alice", "port": 3}) == "login:alice@3"


@pytest.mark.parametrize("template", ["{acount}", "{0}", "{}", "{account.real}", "{"])
def test_a_template_that_fits_no_parameter_is_the_kinds_fault(template: str) -> None:
    with pytest.raises(errors.SpawnFailed, match="cannot name the credential") as failed:
        print(credentials.name(template, {"account": 3}))
    assert failed.value.permanent


def test_a_claim_is_one_bots() -> None:
    claims = credentials.Claims()
    claims.take("a", 1)
    claims.take("a", 1)
    claims.take("b", 2)
    with pytest.raises(errors.CredentialHeld, match="a is held by bot 1") as held:
        claims.take("a", 2)
    assert held.value.bot_id == 1
    claims.release("a", 2)
    with pytest.raises(errors.CredentialHeld):
        claims.take("a", 2)
    claims.release("a", 1)
    claims.take("a", 2)


def test_a_bot_that_is_being_made_holds_it_too() -> None:
    claims = credentials.Claims()
    claims.take("a", None)
    with pytest.raises(errors.CredentialHeld, match="being made"):
        claims.take("a", None)
    with pytest.raises(errors.CredentialHeld):
        claims.take("a", 7)
    claims.give("a", 7)
    claims.release("a", None)
    with pytest.raises(errors.CredentialHeld, match="held by bot 7"):
        claims.take("a", None)
