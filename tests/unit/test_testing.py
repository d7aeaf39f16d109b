"""The helper with which authors test their bots."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import pytest

from botproc import testing
from botproc.contract import Context, SyncContext

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def polite(ctx: Context, *, start_number: int = 0) -> int:
    ctx.status(f"at {start_number}")
    ctx.heartbeat()
    (ctx.data_dir / "file").write_text(ctx.labels["team"])
    ctx.ready()
    while await ctx.sleep(3600):
        pass
    return start_number + 1


async def unaware(*, code: int | None = None) -> None:
    if code is not None:
        sys.exit(code)
    await asyncio.sleep(3600)


async def raises() -> None:
    raise ValueError("no")


async def stubborn(ctx: Context) -> None:
    if not ctx.stopping:
        await asyncio.sleep(3600)


def polite_sync(ctx: SyncContext, *, start_number: int = 0) -> int:
    ctx.ready()
    while ctx.sleep(3600):
        pass
    return start_number + 1


def unaware_sync() -> None:
    while True:
        time.sleep(0.001)


def raises_sync() -> None:
    raise ValueError("no")


async def test_what_a_bot_tells_and_returns(tmp_path: Path) -> None:
    async with testing.running(polite, start_number=3, bot_labels={"team": "a"}, bot_data_dir=tmp_path) as bot:
        await bot.ready()
        assert (bot.statuses, bot.heartbeats) == (["at 3"], 1)
        assert (tmp_path / "file").read_text() == "a"
        bot.stop()
        assert await bot.ended() == 4


async def test_stop_is_as_in_a_process() -> None:
    async with testing.running(unaware) as bot:
        bot.stop()
        assert await bot.ended() is None
    async with testing.running(stubborn, bot_grace_s=0.1):
        await asyncio.sleep(0)


async def test_what_a_bot_raises_comes_out() -> None:
    async with testing.running(raises) as bot:
        with pytest.raises(RuntimeError, match="before it was ready"):
            await bot.ready()
        with pytest.raises(ValueError, match="no"):
            await bot.ended()
    async with testing.running(unaware, code=3) as bot:
        with pytest.raises(SystemExit, match="3"):
            await bot.ended()


def test_a_plain_bot() -> None:
    with testing.running_sync(polite_sync, start_number=3) as bot:
        bot.ready()
        bot.stop()
        assert bot.ended() == 4
    with testing.running_sync(unaware_sync):
        pass
    # And when nobody has asked for it, at the end of the block.
    with pytest.raises(ValueError, match="no"), testing.running_sync(raises_sync):
        pass
