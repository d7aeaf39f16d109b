"""A bot that freezes: it calls something that blocks, from a coroutine. Its process lives on, and does nothing."""

from __future__ import annotations

import asyncio
import time


async def main(*, after_s: float = 3.0) -> None:
    """Works for a while, and then hangs."""
    asyncio.get_running_loop().create_task(answer_customers(), name="answer customers")
    await asyncio.sleep(after_s)
    print("calls what blocks")
    time.sleep(3600)


async def answer_customers() -> None:
    """What its users wait for in vain from then on."""
    while True:
        await asyncio.sleep(1)
