"""Random lives of a whole fleet: what the API tells, what the disk has and what the engine runs agree."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from supervisor.fleet.fleet import Wait
from tests.simulation import stories
from tests.simulation.fleet import FleetStage
from tests.simulation.stories import Step

LENGTH = 200

ONCE_BROKEN: dict[str, Sequence[Step]] = {
    "a bot that is being made when the supervisor ends": [
        ("create", "heart", "b", None, None, Wait.READY),
        ("shutdown", 3.0),
    ],
    "a scheduled bot with a credential is stopped before its first run": [
        ("create", "cronlogin", "b", None, None, Wait.PROCESS),
        ("pass", 0.5),
    ],
    "of two bots with one credential the one that failed comes first when the next supervisor begins": [
        ("create", "login", "a", None, None, Wait.PROCESS),
        ("pass", 0.5),
        ("end", 2, 6, False),
        ("pass", 0.5),
        ("create", "login", "a", None, None, Wait.PROCESS),
        ("pass", 0.5),
        ("die", 1.0, False),
        ("pass", 0.5),
    ],
}


@pytest.mark.parametrize("story", ONCE_BROKEN)
def test_what_was_broken_once(story: str) -> None:
    stage = FleetStage(0)
    try:
        for step in ONCE_BROKEN[story]:
            stage.play(step)
        stage.finish()
    finally:
        stage.close()


@pytest.mark.parametrize("first", range(0, 50, 10))
def test_the_fleet_keeps_the_rules(first: int) -> None:
    for seed in range(first, first + 10):
        stories.run(FleetStage, seed, LENGTH)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first", range(1_000, 11_000, 1_000))
def test_the_fleet_keeps_the_rules_for_longer(first: int) -> None:
    for seed in range(first, first + 1_000):
        stories.run(FleetStage, seed, LENGTH)
