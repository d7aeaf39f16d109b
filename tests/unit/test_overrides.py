"""What a kind says reaches the bots that exist, at their next start; what a bot says itself stays."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from supervisor import settings
from supervisor.core import schedules
from supervisor.core.model import (
    Bot,
    Cause,
    Exit,
    Goal,
    Limits,
    Missed,
    NewBot,
    Overrides,
    Policy,
    RestartPolicy,
    State,
    now_us,
)
from supervisor.fleet.fleet import Wait
from tests.fleets import World
from tests.ledgers import create_bot
from tests.waiting import eventually

pytestmark = pytest.mark.anyio

OLD = settings.Kind(target="a:b", grace_s=3.0, restart=settings.Restart(policy=Policy.ALWAYS, max_restarts=7))
NEW = settings.Kind(
    target="a:b",
    grace_s=4.0,
    restart=settings.Restart(policy=Policy.NEVER, max_restarts=8),
    limits=settings.Limits(nice=5, cpu_affinity=(0, 1)),
)
"""What OLD is changed to."""
OWN_TIMES = {"cron": "30 5 * * *", "timezone": "UTC", "overlap": "skip", "missed": "skip"}


def under(kind: settings.Kind, overrides: Overrides | None = None, name: str | None = None) -> NewBot:
    """A bot as the API would make it."""
    terms = kind.terms.over(overrides or {})
    return NewBot(
        kind="any",
        params={},
        name=name,
        restart=terms.restart,
        grace_s=terms.grace_s,
        limits=terms.limits,
        schedule=terms.schedule,
        overrides=overrides or {},
    )


async def make(world: World, kind: settings.Kind, overrides: Overrides | None = None) -> int:
    return (await world.fleet.create(under(kind, overrides), wait=Wait.READY)).bot_id


async def read(world: World, kind: settings.Kind) -> None:
    world.now = {"any": kind}
    await world.fleet.reload_kinds()


async def shown(world: World, bot_id: int) -> Bot:
    return (await world.fleet.listing.view(bot_id)).bot


def execute(directory: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(directory / "ledger.sqlite3", isolation_level=None)) as db:
        db.execute(statement)


async def stored(world: World, bot_id: int) -> Bot:
    bot = await world.fleet.ledger.bot(bot_id)
    assert bot is not None
    return bot


async def test_a_running_bot_has_the_new_terms_from_its_next_start_on(world: World) -> None:
    await read(world, OLD)
    bot_id = await make(world, OLD)
    await read(world, NEW)
    assert (await shown(world, bot_id)).grace_s == 3.0
    after = await world.fleet.restart(bot_id)
    for bot in (after, await shown(world, bot_id), await stored(world, bot_id)):
        assert bot.grace_s == 4.0
        assert bot.restart == RestartPolicy(policy=Policy.NEVER, max_restarts=8)
        assert bot.limits == Limits(nice=5, cpu_affinity=(0, 1))
        assert bot.overrides == {}
    order = world.engine.of(bot_id).order
    assert (order.grace_s, order.limits) == (4.0, Limits(nice=5, cpu_affinity=(0, 1)))


async def test_what_a_bot_says_itself_stays(world: World) -> None:
    await read(world, OLD)
    own = {"restart": {"policy": "on-failure"}, "grace_s": 1.0, "limits": {"nice": 9}}
    bot_id = await make(world, OLD, own)
    await read(world, NEW)
    await world.fleet.restart(bot_id)
    for bot in (await shown(world, bot_id), await stored(world, bot_id)):
        assert bot.restart == RestartPolicy(policy=Policy.ON_FAILURE, max_restarts=8)
        assert (bot.grace_s, bot.limits) == (1.0, Limits(nice=9, cpu_affinity=(0, 1)))
        assert bot.overrides == own


async def test_a_bot_without_a_process_is_shown_with_the_terms_of_its_next_start(world: World) -> None:
    await read(world, OLD)
    bot_id = await make(world, OLD)
    await world.fleet.stop(bot_id)
    await read(world, NEW)
    assert (await shown(world, bot_id)).grace_s == 4.0
    assert (await stored(world, bot_id)).grace_s == 3.0
    assert (await world.fleet.start(bot_id)).grace_s == 4.0


async def test_a_kind_that_is_gone_takes_nothing_from_its_bots(world: World) -> None:
    await read(world, NEW)
    running, stopped = await make(world, NEW), await make(world, NEW)
    await world.fleet.stop(stopped)
    world.now = {}
    await world.fleet.reload_kinds()
    world.engine.of(running).end(1)
    await eventually(lambda: shown(world, running), lambda bot: bot.state is State.FAILED)
    for bot_id in (running, stopped):
        for bot in (await shown(world, bot_id), await stored(world, bot_id)):
            assert (bot.grace_s, bot.limits) == (4.0, Limits(nice=5, cpu_affinity=(0, 1)))


# ---- schedules


async def test_a_bot_follows_its_schedule_of_now_when_its_run_is_over(world: World) -> None:
    hourly, yearly = ({"cron": cron, "missed": "skip", "overlap": "skip"} for cron in ("0 * * * *", "0 0 1 1 *"))
    old, new = (settings.Kind(target="a:b", schedule=settings.Schedule(**times)) for times in (yearly, hourly))  # type: ignore[arg-type]
    await read(world, old)
    bot_id = await make(world, old)
    await world.fleet.start(bot_id)
    await read(world, new)
    world.engine.of(bot_id).end(0)
    await eventually(lambda: shown(world, bot_id), lambda bot: bot.state is State.SCHEDULED)
    due = (await world.fleet.listing.view(bot_id)).next_start_at
    assert due is not None
    assert due <= now_us() + 3600_000_000


async def test_a_bot_that_waits_by_its_schedule_looks_again_when_that_changes(world: World) -> None:
    async def due(bot_id: int) -> int:
        at = (await world.fleet.listing.view(bot_id)).next_start_at
        assert at is not None
        return at

    kinds = [settings.Kind(target="a:b", schedule=settings.Schedule(cron=cron)) for cron in ("0 0 1 1 *", "0 0 * * *")]
    yearly, daily = kinds
    await read(world, yearly)
    follows, has_its_own = await make(world, yearly), await make(world, yearly, {"schedule": OWN_TIMES})
    soon, own = schedules.next_after(daily.schedule.value, now_us()), await due(has_its_own)  # type: ignore[union-attr]
    assert await due(follows) != soon
    await read(world, daily)
    await eventually(lambda: due(follows), lambda at: at == soon)
    assert await due(has_its_own) == own
    # Without a schedule it is started at the time that was planned, and then stays up.
    await read(world, OLD)
    assert await due(follows) == soon
    assert (await world.fleet.start(follows)).schedule is None


async def test_times_before_the_kind_had_a_schedule_were_not_missed(world: World, tmp_path: Path) -> None:
    """The latest run of a bot counts, not when it was made."""
    ledger = world.fleet.ledger
    bot, _ = await create_bot(ledger, under(OLD))
    execute(tmp_path, "UPDATE bot SET created_at = 1")
    run_id = await ledger.open_run(bot.bot_id, kind="any", params={}, started_at=now_us(), restarts=0)
    exit_ = Exit(exit_code=0, signal=None, ended_at=now_us(), cpu_seconds=None, max_rss_bytes=None)
    await ledger.close_run(run_id, exit=exit_, cause=Cause.EXITED, detail="")
    await ledger.record(bot.bot_id, None, State.BACKOFF, Goal.UP, "", now_us())
    daily = settings.Schedule(cron="0 0 1 1 *", missed=Missed.RUN)
    await read(world, settings.Kind(target="a:b", schedule=daily))
    await world.fleet.boot()
    assert (await shown(world, bot.bot_id)).state is State.SCHEDULED


# ---- ledgers of earlier versions


async def test_what_differs_from_the_kind_is_taken_for_the_bots_own(world: World, tmp_path: Path) -> None:
    """In the ledger of 0.1.0 nothing says where a setting came from."""
    ledger = world.fleet.ledger
    await read(world, OLD)
    own = {"restart": {"max_restarts": 1}, "grace_s": 0.5}
    as_kind, different = [(await create_bot(ledger, under(OLD, given)))[0].bot_id for given in ({}, own)]
    settled, _ = await create_bot(ledger, under(OLD, own))
    await ledger.record(settled.bot_id, None, State.STOPPED, Goal.DOWN, "", 1)
    execute(tmp_path, "UPDATE bot SET overrides = NULL")
    await world.fleet.boot()
    await eventually(lambda: shown(world, different), lambda bot: bot.state is State.RUNNING)
    assert [(await stored(world, bot_id)).overrides for bot_id in (as_kind, different, settled.bot_id)] == [
        {},
        own,
        own,
    ]
    assert await ledger.bots_without_overrides() == []
    await read(world, NEW)
    await world.fleet.restart(as_kind)
    await world.fleet.restart(different)
    await world.fleet.start(settled.bot_id)
    assert (await shown(world, as_kind)).restart == NEW.restart_policy
    for bot_id in (different, settled.bot_id):
        bot = await shown(world, bot_id)
        assert (bot.grace_s, bot.restart) == (0.5, RestartPolicy(policy=Policy.NEVER, max_restarts=1))


async def test_a_ledger_that_cannot_be_written_takes_no_bots_settings(world: World, tmp_path: Path) -> None:
    """What is not stored yet holds all the same for the bots that are started at boot."""
    own = {"grace_s": 0.5}
    await read(world, OLD)
    bot, _ = await create_bot(world.fleet.ledger, under(OLD, own))
    execute(tmp_path, "UPDATE bot SET overrides = NULL")
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.sqlite3", isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        await world.fleet.boot()
        assert (await shown(world, bot.bot_id)).overrides == own
        db.execute("ROLLBACK")
    await eventually(lambda: shown(world, bot.bot_id), lambda bot: bot.state is State.RUNNING)
    assert (await stored(world, bot.bot_id)).overrides == own
