"""Processes that an earlier supervisor left running."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from botproc import kernel
from supervisor.core.model import NewBot, State, now_us
from supervisor.fleet.fleet import Wait
from supervisor.store import Ledger
from tests.fleets import ONCE, World

HOUR_S = 3600


@pytest.mark.anyio
@pytest.mark.parametrize("clock_s", [-HOUR_S, 0, HOUR_S])
async def test_uptime_does_not_depend_on_the_wall_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock_s: int
) -> None:
    """Somebody has set it since the process began."""
    ledger = await Ledger.open(tmp_path / "ledger.sqlite3")
    first = World(tmp_path, ledger)
    bot = await first.fleet.create(NewBot(kind="any", params={}, restart=ONCE), wait=Wait.READY)
    process = first.engine.of(bot.bot_id)
    process.age(100)
    began = now_us()
    await first.fleet.ledger.close()
    first.fleet.close()

    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + clock_s * 10**9)
    assert (now_us() - began) // 60_000_000 == clock_s // 60
    ledger = await Ledger.open(tmp_path / "ledger.sqlite3")
    second = World(tmp_path, ledger)
    second.engine.processes.append(process)
    await second.fleet.boot()
    view = await second.fleet.listing.view(bot.bot_id)
    assert view.bot.state is State.RUNNING
    assert view.live is not None
    assert view.live.pid == process.identity.pid
    assert 100 <= view.live.uptime_s < 100 + HOUR_S / 2
    await second.fleet.shutdown(0.1)
    second.fleet.close()
    await ledger.close()


def test_the_age_of_a_process_is_counted_from_its_start_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = kernel.start_ticks(os.getpid())
    before = kernel.age_s(ticks)
    now, now_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: now() - HOUR_S)
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() - HOUR_S * 10**9)
    assert 0 <= before <= kernel.age_s(ticks) < before + HOUR_S / 2
