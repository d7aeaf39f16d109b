"""Random lives of one bot: whatever happens to it, its machine keeps the rules."""

from __future__ import annotations

import pytest

from tests.simulation import stories
from tests.simulation.one_bot import OneBot

LENGTH = 200


@pytest.mark.parametrize("first", range(0, 455, 65))
def test_the_machine_keeps_the_rules(first: int) -> None:
    for seed in range(first, first + 65):
        stories.run(OneBot, seed, LENGTH)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first", range(10_000, 310_000, 10_000))
def test_the_machine_keeps_the_rules_for_longer(first: int) -> None:
    for seed in range(first, first + 10_000):
        stories.run(OneBot, seed, LENGTH)
