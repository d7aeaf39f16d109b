"""The program with a fleet in memory. SIGUSR1 lets a shutdown finish."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator

from supervisor import program
from supervisor.cli import app
from tests.api.fake_fleet import FakeFleet


@contextlib.asynccontextmanager
async def open_fleet(*_: object) -> AsyncIterator[FakeFleet]:
    fleet = FakeFleet()
    fleet.may_finish.clear()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, fleet.may_finish.set)
    yield fleet


if __name__ == "__main__":
    program.open_fleet = open_fleet  # type: ignore[assignment]
    raise SystemExit(app.main())
