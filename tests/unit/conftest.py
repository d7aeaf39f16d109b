"""What tests of single rooms share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from supervisor.store import Ledger
from tests.fleets import World
from tests.simulation.memory_ledger import Disk, MemoryLedger


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ledger]:
    """One in a file, or what `EACH_LEDGER` asks for."""
    if getattr(request, "param", "file") == "memory":
        ledger: Ledger = MemoryLedger(Disk())
    else:
        ledger = await Ledger.open(tmp_path / "ledger.db")
    yield ledger
    await ledger.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A fleet that is not booted yet; its ledger is that of its directory."""
    ledger = await Ledger.open(tmp_path / "ledger.sqlite3")
    world = World(tmp_path, ledger)
    try:
        yield world
    finally:
        await world.fleet.shutdown(0.1)
        world.fleet.close()
        await ledger.close()
