"""Commands to many bots, kinds that change, and their instances: the fleet, its ledger, processes in memory."""

from __future__ import annotations

import asyncio
import logging

import pytest

from supervisor import settings
from supervisor.core import errors
from supervisor.core.model import ACTIVE, BotQuery, NewBot, State, WaitingFor
from supervisor.fleet import rollout
from supervisor.fleet.fleet import Wait
from tests.fakes import Behaviour
from tests.fleets import ALL, ONCE, World
from tests.waiting import eventually

pytestmark = pytest.mark.anyio


# ---- commands to many


async def test_each_command_reaches_all_that_match(world: World) -> None:
    a, b = await world.make(2, team="a"), await world.make(1, team="b")
    query = BotQuery(labels={"team": "a"})
    stopped = await rollout.stop(world.fleet, query, grace_s=1)
    assert [(o.bot_id, o.ok, o.state) for o in stopped] == [(bot_id, True, State.STOPPED) for bot_id in a]
    assert (await world.fleet.listing.view(b[0])).bot.state is State.RUNNING
    assert await rollout.stop(world.fleet, query, grace_s=1) == []
    started = await rollout.start(world.fleet, BotQuery(states=ALL))
    assert [(o.bot_id, o.ok, o.state) for o in started] == [(bot_id, True, State.RUNNING) for bot_id in a + b]
    assert len(world.engine.processes) == 5


async def test_what_goes_wrong_with_one_is_its_detail(world: World) -> None:
    await world.make(3)
    await rollout.stop(world.fleet, BotQuery(), grace_s=1)
    world.engine.fail_next(errors.SpawnFailed("no such target", permanent=True))
    outcomes = await rollout.start(world.fleet, BotQuery(states=ALL))
    assert sorted(o.ok for o in outcomes) == [False, True, True]
    [failed] = [o for o in outcomes if not o.ok]
    assert failed.state is State.FAILED
    assert "no such target" in failed.detail


async def test_a_restart_rolls_through_a_thousand(world: World) -> None:
    new = NewBot(kind="any", params={}, restart=ONCE)
    await asyncio.gather(*(world.fleet.create(new, wait=Wait.READY) for _ in range(1001)))
    most = 0

    def count() -> None:
        nonlocal most
        most = max(most, 1001 - sum(process.alive for process in world.engine.processes))

    spawn = world.engine.spawn

    async def counted(*args: object) -> object:
        count()
        return await spawn(*args)  # type: ignore[arg-type]

    world.engine.spawn = counted  # type: ignore[method-assign, assignment]
    outcomes = await rollout.restart(world.fleet, BotQuery(), grace_s=1, max_parallel=50)
    assert [o.bot_id for o in outcomes] == list(range(1, 1002))
    assert all(o.ok and o.state is State.RUNNING for o in outcomes)
    assert 1 <= most <= 50
    assert len(world.engine.processes) == 2002


async def test_a_rolling_restart_ends_with_the_first_batch_that_fails(world: World) -> None:
    bots = await world.make(6)
    world.engine.fail_next(errors.SpawnFailed("its code is broken", permanent=True))
    first, second, *left = await rollout.restart(world.fleet, BotQuery(), grace_s=1, max_parallel=2)
    assert {first.ok, second.ok} == {False, True}
    failed = first if not first.ok else second
    assert [o.bot_id for o in left] == bots[2:]
    for outcome in left:
        assert (outcome.ok, outcome.state) == (False, State.RUNNING)
        assert outcome.detail.startswith(f"not restarted: bot {failed.bot_id} of the batch before is failed: ")
        assert "its code is broken" in outcome.detail
    assert len(world.engine.processes) == 7


async def test_who_waits_for_a_turn_is_told_its_place_now(world: World) -> None:
    world.behaviours["any"] = Behaviour(ready=False)
    world.now = {"any": settings.Kind(target="a:b", starts_at_once=1)}
    await world.fleet.reload_kinds()
    new = NewBot(kind="any", params={}, restart=ONCE)
    makers = [asyncio.create_task(world.fleet.create(new, wait=Wait.ATTEMPT)) for _ in range(5)]
    await makers[0]

    async def waiting() -> list[str]:
        views = (await world.fleet.listing.list(BotQuery())).items
        return [view.reason for view in views if view.waiting_for is WaitingFor.TURN]

    async def next_one() -> None:
        bot_id = len(world.engine.processes)
        world.fleet.notified(bot_id, world.engine.of(bot_id).order.run_id, {"READY": "1"})
        await makers[bot_id]

    while len(await waiting()) < 4:  # noqa: ASYNC110
        await asyncio.sleep(0)
    waits = "waits for its turn to start"
    behind = [f"{waits}, behind {others}" for others in ("1 other", "2 others", "3 others")]
    assert await waiting() == [waits, *behind]
    await next_one()
    assert await waiting() == [waits, *behind[:2]]
    await world.fleet.stop(4)
    assert await waiting() == [waits, *behind[:1]]
    await next_one()
    assert await waiting() == [waits]


# ---- kinds that change


async def test_a_reload_tells_what_has_changed(world: World) -> None:
    [bot_id] = await world.make(1)
    before = (await world.fleet.listing.view(bot_id)).live
    world.now = {"any": settings.Kind(target="a:b", grace_s=3), "new": settings.Kind(target="c:d")}
    reloaded = await world.fleet.reload_kinds()
    assert (reloaded.added, reloaded.changed, reloaded.removed) == (["new"], ["any"], [])
    assert world.fleet.catalogue.defaults("any").grace_s == 3
    await world.make(1)
    world.now = {"new": settings.Kind(target="c:d")}
    reloaded = await world.fleet.reload_kinds()
    assert (reloaded.added, reloaded.changed, reloaded.removed) == ([], [], ["any"])
    after = (await world.fleet.listing.view(bot_id)).live
    assert before is not None
    assert after is not None
    assert after.pid == before.pid


async def test_a_kind_that_was_used_is_the_same(world: World) -> None:
    used = world.fleet.catalogue.kinds()
    world.now = {"any": settings.Kind(target="a:b")}
    assert (await world.fleet.reload_kinds()).changed == []
    assert world.fleet.catalogue.kinds() == used
    world.now = {"any": settings.Kind(target="a:b", restart=settings.Restart(max_restarts=9))}
    assert (await world.fleet.reload_kinds()).changed == ["any"]
    assert world.fleet.catalogue.kind("any").restart.max_restarts == 9


async def test_settings_that_are_refused_change_nothing(world: World) -> None:
    world.refused = errors.SettingsRefused("kinds.toml: kinds.any.tagret: no such field")
    with pytest.raises(errors.NotReloaded, match="tagret"):
        await world.fleet.reload_kinds()
    assert [kind.name for kind in world.fleet.catalogue.kinds()] == ["any"]
    assert (await world.make(1)) == [1]


async def test_a_kind_that_cannot_be_imported_again(world: World) -> None:
    await world.make(1)
    world.behaviours["any"] = Behaviour(import_error="NameError: mian")
    with pytest.raises(errors.NotReloaded, match="NameError: mian"):
        await world.fleet.catalogue.reload_kind("any")
    with pytest.raises(errors.UnknownKind):
        await world.fleet.catalogue.reload_kind("nope")


async def test_bots_whose_kind_is_gone_are_not_restarted_and_not_stopped_for_it(world: World) -> None:
    running, stopped, failed = await world.make(3)
    await world.fleet.stop(stopped)
    world.engine.of(failed).end(1)
    await eventually(lambda: world.fleet.listing.view(failed), lambda view: view.bot.state is State.FAILED)
    there = settings.Kind(target="c:d")
    world.now = {"new": there}
    await world.fleet.reload_kinds()
    other = (await world.fleet.create(NewBot(kind="new", params={}, restart=ONCE), wait=Wait.READY)).bot_id
    pids = {bot_id: world.engine.of(bot_id).identity.pid for bot_id in (running, other)}
    refused = "the settings no longer have the kind any; put it back and reload the kinds"
    for verb, command in (("restart", world.fleet.restart), ("start", world.fleet.start)):
        for bot_id in (stopped, failed):
            with pytest.raises(errors.KindGone, match=f"cannot {verb} bot {bot_id}: {refused}"):
                await command(bot_id)
    with pytest.raises(errors.KindGone, match=f"cannot restart bot {running}: {refused}"):
        await world.fleet.restart(running)
    for max_parallel in (None, 1):
        with pytest.raises(errors.KindGone, match=f"cannot restart bot {running}: {refused}"):
            await rollout.restart(world.fleet, BotQuery(), grace_s=1, max_parallel=max_parallel)
        with pytest.raises(errors.KindGone, match=f"cannot restart 3 bots: {refused}"):
            await rollout.restart(world.fleet, BotQuery(states=ALL), grace_s=1, max_parallel=max_parallel)
    # A start leaves alone what is up, and stops nothing: each bot has its own outcome.
    outcomes = await rollout.start(world.fleet, BotQuery(states=ALL))
    assert [(outcome.ok, outcome.state) for outcome in outcomes] == [
        (True, State.RUNNING),
        (False, State.STOPPED),
        (False, State.FAILED),
        (True, State.RUNNING),
    ]
    assert refused in outcomes[1].detail
    assert {bot_id: world.engine.of(bot_id).identity.pid for bot_id in pids} == pids
    assert [process.received for process in world.engine.processes if process.alive] == [[], []]
    world.now = {"any": settings.Kind(target="a:b"), "new": there}
    await world.fleet.reload_kinds()
    assert (await world.fleet.start(stopped)).state is State.RUNNING


async def test_a_start_that_is_refused_leaves_no_actor(world: World) -> None:
    """A bot that has settled takes no memory, however often somebody tries to start it."""
    world.now = {"any": settings.Kind(target="a:b", exclusive="{token}")}
    await world.fleet.reload_kinds()
    new = NewBot(kind="any", params={"token": "env:A"}, restart=ONCE)
    first = (await world.fleet.create(new, wait=Wait.READY)).bot_id
    await world.fleet.stop(first)
    await world.fleet.create(new, wait=Wait.READY)
    for _ in range(3):
        with pytest.raises(errors.CredentialHeld):
            await world.fleet.start(first)
    assert world.actors == [first + 1]


# ---- instances


async def test_instances_are_made_at_boot_and_at_reload(world: World) -> None:
    world.now = {"any": settings.Kind(target="a:b", instances=2)}
    await world.fleet.boot()
    await world.fleet.reload_kinds()
    assert await world.names(2) == {"any-1": State.RUNNING, "any-2": State.RUNNING}
    await world.fleet.stop(1)
    world.now = {"any": settings.Kind(target="a:b", instances=3)}
    await world.fleet.reload_kinds()
    assert await world.names(3) == {"any-1": State.STOPPED, "any-2": State.RUNNING, "any-3": State.RUNNING}


async def test_a_reload_names_the_instances_that_are_too_many(world: World, caplog: pytest.LogCaptureFixture) -> None:
    more, fewer = (settings.Kind(target="a:b", instances=number) for number in (11, 8))
    world.now = {"any": more, "by-hand": settings.Kind(target="c:d")}
    await world.fleet.reload_kinds()
    await world.names(11)
    for kind, name in [("by-hand", "by-hand-2"), ("any", "any-01"), ("any", "any-x"), ("by-hand", "any-12")]:
        await world.fleet.create(NewBot(kind=kind, params={}, name=name), wait=Wait.READY)
    await world.fleet.stop(10)
    assert (await world.fleet.reload_kinds()).surplus == []
    too_many = ["any-9", "any-10", "any-11"]
    world.now["any"] = fewer
    for _ in range(2):
        assert (await world.fleet.reload_kinds()).surplus == too_many
    assert "of any only 8 are wanted; too many, until they are deleted: any-9, any-10, any-11" in caplog.text
    [last] = await world.fleet.listing.bots(BotQuery(states=ALL, name="any-9"))
    assert last.state is State.RUNNING
    await world.fleet.delete(last.bot_id)
    assert (await world.fleet.reload_kinds()).surplus == too_many[1:]
    del world.now["any"]
    assert (await world.fleet.reload_kinds()).surplus == [f"any-{n}" for n in (1, 2, 3, 4, 5, 6, 7, 8, 10, 11)]
    assert (await world.fleet.reload_kinds()).surplus == []


async def test_a_reload_is_done_also_where_nobody_can_say_which_are_too_many(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def bots(*_: object, **__: object) -> object:
        raise errors.LedgerUnavailable("the ledger cannot be read")

    monkeypatch.setattr(world.fleet.ledger, "bots", bots)
    world.now = {"any": settings.Kind(target="a:b", instances=2)}
    reloaded = await world.fleet.reload_kinds()
    assert (reloaded.changed, reloaded.surplus) == (["any"], ())
    assert "cannot say which instances are too many: the ledger cannot be read" in caplog.text


async def test_instances_that_cannot_be_made(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    await world.fleet.create(NewBot(kind="any", params={}, name="new-1"), wait=Wait.READY)
    world.behaviours["any"] = Behaviour(params=[{"name": "token", "type": "str", "required": True, "default": None}])
    world.now = {
        "any": settings.Kind(target="a:b", instances=2),
        "new": settings.Kind(target="c:d", instances=2),
    }
    await world.fleet.reload_kinds()
    assert await world.names(2) == {"new-1": State.RUNNING, "new-2": State.RUNNING}
    assert "no bot new-1 is made: the name is taken by a bot of kind any" in caplog.text
    assert "no instances of any are made: any does not take these parameters: token: Field required" in caplog.text
    assert len(await world.fleet.listing.bots(BotQuery(states=ACTIVE))) == 2


# ---- many are made


@pytest.mark.parametrize("count", [1, 5])
async def test_what_cannot_be_started_is_undone_and_its_key_is_free(world: World, count: int) -> None:
    async def make() -> list[int]:
        new = NewBot(kind="any", params={}, restart=ONCE)
        if count == 1:
            return [(await world.fleet.create(new, idempotency_key="k", wait=Wait.ATTEMPT)).bot_id]
        made = await world.fleet.create_many(new, count, idempotency_key="k", wait=Wait.ATTEMPT)
        return [bot.bot_id for bot in made]

    world.engine.fail_next(errors.SpawnFailed("cannot fork: no memory"))
    with pytest.raises(errors.SpawnFailed, match="no memory"):
        await make()
    assert await world.fleet.listing.bots(BotQuery(states=ALL)) == []
    assert not [process for process in world.engine.processes if process.alive]
    made = await make()
    assert made == list(range(count + 1, 2 * count + 1))
    assert await make() == made


async def test_a_known_key_gives_its_bots_as_they_are_now(world: World) -> None:
    async def make(key: str) -> dict[int, int | None]:
        new = NewBot(kind="any", params={}, restart=ONCE)
        made = await world.fleet.create_many(new, 4, idempotency_key=key, wait=Wait.READY)
        lives = {bot.bot_id: world.fleet.listing.look(bot).live for bot in made}
        return {bot_id: live.pid if live else None for bot_id, live in lives.items()}

    made = await make("k")
    first, second, *others = made
    await make("another")
    await world.fleet.stop(first)
    await world.fleet.delete(second)
    assert await make("k") == {first: None, **{bot_id: made[bot_id] for bot_id in others}}
