"""What a kind says and what a bot says over it, through JSON and back."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import settings
from supervisor.core import model
from supervisor.core.model import Bot, Goal, Limits, Missed, Overlap, Policy, RestartPolicy, Schedule, State
from supervisor.core.terms import Terms
from supervisor.store.tables import Json

restarts = st.builds(
    RestartPolicy,
    policy=st.sampled_from(Policy),
    delay_s=st.floats(0, 10),
    max_restarts=st.integers(0, 9),
    retry_after_s=st.none() | st.floats(0, 10),
)
limits = st.builds(
    Limits,
    memory_bytes=st.none() | st.integers(1, 2**53),
    cpu_affinity=st.none() | st.tuples(st.integers(0, 9)) | st.tuples(st.integers(0, 9), st.integers(0, 9)),
    core=st.booleans(),
)
schedules = st.none() | st.builds(
    Schedule,
    cron=st.sampled_from(["* * * * *", "0 3 * * 1"]),
    timezone=st.sampled_from(["UTC", "Europe/Berlin"]),
    overlap=st.sampled_from(Overlap),
    missed=st.sampled_from(Missed),
)


@st.composite
def terms(draw: st.DrawFn) -> Terms:
    return Terms(
        restart=draw(restarts),
        grace_s=draw(st.floats(0, 10)),
        limits=draw(limits),
        schedule=draw(schedules),
        start_timeout_s=30.0,
        ready="start",
        heartbeat_s=None,
    )


def bot_under(terms: Terms) -> Bot:
    return Bot(
        bot_id=1,
        name=None,
        kind="any",
        params={},
        labels={},
        goal=Goal.UP,
        state=State.RUNNING,
        reason="",
        restarts=0,
        created_at=1,
        restart=terms.restart,
        grace_s=terms.grace_s,
        limits=terms.limits,
        schedule=terms.schedule,
    )


def through_json(value: Any) -> Any:
    """As the ledger keeps it."""
    return json.loads(Json.encode(value))


@given(kind=terms(), bots=terms())
def test_with_its_differences_a_bot_stays_as_it_is(kind: Terms, bots: Terms) -> None:
    bot = bot_under(bots)
    own = kind.differences(bot)
    for overrides in (own, through_json(own)):
        bot = dataclasses.replace(bot, overrides=overrides)
        assert kind.applied(bot) is bot
        assert kind.over(overrides) == bots
        held = kind.over(overrides)
        # What only looks alike is no member of its enumeration, and no tuple.
        assert isinstance(held.restart.policy, Policy)
        assert held.schedule is None or isinstance(held.schedule.overlap, Overlap)
        assert hash(held.limits) == hash(bots.limits)


@given(before=terms(), after=terms())
def test_a_bot_without_overrides_is_as_its_kind_says(before: Terms, after: Terms) -> None:
    bot = bot_under(before)
    assert before.differences(bot) == {}
    assert after.applied(bot) == bot_under(after)


def test_single_fields_are_overridden() -> None:
    kind = settings.Kind(target="a:b", restart={"max_restarts": 9}, limits={"nice": 3, "pids": 10}).terms  # type: ignore[arg-type]
    own = {"restart": {"policy": "always"}, "limits": {"nice": None}}
    held = kind.over(own)
    assert held.restart == RestartPolicy(policy=Policy.ALWAYS, max_restarts=9)
    assert held.limits == Limits(pids=10)
    assert kind.over({"schedule": None}) == kind


@pytest.mark.parametrize("own", [{}, {"grace_s": 3.0}])
def test_a_kind_that_is_gone_changes_no_bot(own: model.Overrides) -> None:
    bot = dataclasses.replace(bot_under(settings.Kind(target="a:b", grace_s=99.0).terms), overrides=own)
    assert settings.TERMS_OF_GONE.applied(bot) is bot
