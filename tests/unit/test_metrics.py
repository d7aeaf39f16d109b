"""The numbers for Prometheus, with bots in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import parser

from supervisor.core.model import ACTIVE, Bot, Goal, RestartPolicy, State, Usage
from supervisor.metrics import Levels, Metrics
from supervisor.store import Ledger
from tests.fleets import World

BOT = Bot(
    bot_id=7,
    kind="any",
    params={},
    name='two\nlines, "quotes" and a \\',
    labels={},
    restart=RestartPolicy(),
    grace_s=1.0,
    goal=Goal.UP,
    state=State.RUNNING,
    reason="",
    restarts=0,
    created_at=0,
)


def test_a_name_cannot_break_out_of_its_label() -> None:
    usage = Usage(cpu_seconds=1.5, rss_bytes=4096, threads=1, descendants=0)
    levels = Levels(bots={}, warm={}, zygotes={}, usages=[(BOT, usage)], ledger_queued=0, ledger_outage=False)
    for accept in ("", "application/openmetrics-text; version=1.0.0"):
        text, _ = Metrics().text(levels, accept)
        families = {family.name: family for family in parser.text_string_to_metric_families(text.decode())}
        [sample] = families["bot_supervisor_bot_resident_memory_bytes"].samples
        assert sample.labels == {"bot_id": "7", "name": BOT.name, "kind": "any"}
        assert sample.value == 4096


@pytest.mark.anyio
async def test_without_the_ledger_no_false_count_of_settled_bots_is_shown(tmp_path: Path) -> None:
    ledger = await Ledger.open(tmp_path / "ledger.sqlite3")
    world = World(tmp_path, ledger)
    await world.fleet.boot()
    try:
        one, _ = await world.make(2)
        await world.fleet.stop(one)
        levels = await world.fleet.listing.levels(per_bot=True)
        assert {key: number for key, number in levels.bots.items() if number} == {
            ("any", State.RUNNING): 1,
            ("any", State.STOPPED): 1,
        }
        assert levels.bots.keys() == {("any", state) for state in State}
        await ledger.close()
        levels = await world.fleet.listing.levels(per_bot=True)
        assert levels.bots.keys() == {("any", state) for state in ACTIVE}
        assert levels.bots["any", State.RUNNING] == 1
    finally:
        world.fleet.close()
