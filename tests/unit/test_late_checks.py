"""Bots that were made while their kind could not be imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from supervisor import settings
from supervisor.core import errors
from supervisor.core.model import Bot, NewBot, Params, RunQuery, State
from supervisor.fleet.fleet import Wait
from supervisor.store import secrets
from tests.fakes import Behaviour
from tests.fleets import ONCE, World
from tests.waiting import eventually

pytestmark = pytest.mark.anyio

BROKEN = Behaviour(import_error="NameError: mian")
GIVEN = {"account": "alice", "token": "t0p", "other": "env:OTHER", "size": 3}
HIDDEN = {"account": secrets.HIDDEN, "token": secrets.HIDDEN, "other": "env:OTHER", "size": 3}
SHOWN = {"account": "alice", "token": secrets.HIDDEN, "other": "env:OTHER", "size": 3, "side": "buy"}


def parameter(name: str, type_: str, **how: Any) -> dict[str, Any]:
    return {"name": name, "type": type_, "required": True, "default": None, **how}


WORKS = Behaviour(
    params=[
        parameter("account", "str"),
        parameter("token", "secret"),
        parameter("other", "str"),
        parameter("size", "int"),
        parameter("side", "str", required=False, default="buy"),
    ]
)


async def make(world: World, **given: Any) -> int:
    """A bot that failed, as its kind is broken."""
    world.behaviours["any"] = BROKEN
    new = NewBot(kind="any", params=GIVEN | given, restart=ONCE, overrides={"restart": {"policy": "never"}})
    async with world.fleet.catalogue.checked(new) as checked:
        bot = await world.fleet.create(checked, wait=Wait.ATTEMPT)
    assert bot.state is State.FAILED
    return bot.bot_id


async def shown(world: World, bot_id: int) -> Params:
    return secrets.shown((await world.fleet.listing.view(bot_id)).bot.params)


async def stored(world: World, bot_id: int) -> Bot:
    bot = await world.fleet.ledger.bot(bot_id)
    assert bot is not None
    return bot


def files(tmp_path: Path) -> list[str]:
    return sorted(path.read_text() for path in (tmp_path / "secrets").iterdir() if path.name != "key")


async def test_the_next_start_checks_what_was_given(world: World) -> None:
    bot_id = await make(world)
    assert await shown(world, bot_id) == HIDDEN
    world.behaviours["any"] = WORKS
    assert (await world.fleet.start(bot_id)).state is State.RUNNING
    assert await shown(world, bot_id) == SHOWN
    bot = await stored(world, bot_id)
    assert (secrets.shown(bot.params), bot.unchecked) == (SHOWN, False)
    order = world.engine.of(bot_id).order
    assert order.params == bot.params
    # What was said of the run that failed was no secret either.
    runs = (await world.fleet.ledger.runs(RunQuery(bot_id=bot_id))).items
    assert [secrets.shown(run.params) for run in runs] == [SHOWN, SHOWN]


async def test_a_start_that_finds_them_wrong_says_so(world: World) -> None:
    bot_id = await make(world, size="three")
    world.behaviours["any"] = WORKS
    failed = await world.fleet.start(bot_id)
    assert failed.state is State.FAILED
    assert "any does not take these parameters: size: " in failed.reason
    assert (await stored(world, bot_id)).unchecked
    assert world.engine.processes == []


async def test_a_reload_of_the_kind_checks_all_of_its_bots(world: World, tmp_path: Path) -> None:
    bots = [await make(world), await make(world, account="bob"), await make(world, size="three")]
    with pytest.raises(errors.NotReloaded):
        await world.fleet.reload_kind("any")
    assert await shown(world, bots[0]) == HIDDEN
    assert files(tmp_path) == ["alice", "bob", "t0p", "three"]
    world.behaviours["any"] = WORKS
    await world.fleet.reload_kind("any")
    assert await shown(world, bots[0]) == SHOWN
    assert await shown(world, bots[1]) == SHOWN | {"account": "bob"}
    assert await shown(world, bots[2]) == HIDDEN | {"size": secrets.HIDDEN}
    assert [(await stored(world, bot_id)).unchecked for bot_id in bots] == [False, False, True]
    # What no bot needs any more is gone; what is not known to be no secret stays one.
    assert files(tmp_path) == ["alice", "t0p", "three"]


async def test_a_reload_of_the_settings_does_too(world: World) -> None:
    bot_id = await make(world)
    world.now = {}
    await world.fleet.reload_kinds()
    assert await shown(world, bot_id) == HIDDEN
    world.now = {"any": settings.Kind(target="a:b")}
    await world.fleet.reload_kinds()
    world.behaviours["any"] = WORKS
    await world.fleet.reload_kinds()
    await eventually(lambda: shown(world, bot_id), lambda params: params == SHOWN)


async def test_an_exclusive_credential_is_that_of_the_checked_parameter(world: World) -> None:
    """The same account, once hidden and once not, is one account."""
    world.now = {"any": settings.Kind(target="a:b", exclusive="{account}")}
    await world.fleet.reload_kinds()
    for _ in range(2):
        # The late check that the reload has begun reads in front of the second one, and finds nothing.
        await world.fleet.ledger.unchecked_bots()
    hidden = await make(world)
    world.behaviours["any"] = WORKS
    async with world.fleet.catalogue.checked(NewBot(kind="any", params=GIVEN, restart=ONCE)) as new:
        first = (await world.fleet.create(new, wait=Wait.READY)).bot_id
    failed = await world.fleet.start(hidden)
    assert failed.state is State.FAILED
    assert f"alice is held by bot {first}" in failed.reason
    await world.fleet.stop(first)
    assert (await world.fleet.start(hidden)).state is State.RUNNING
    with pytest.raises(errors.CredentialHeld, match=f"alice is held by bot {hidden}"):
        await world.fleet.start(first)
