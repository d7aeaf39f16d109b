"""A bot that cannot do without its parameters."""

from __future__ import annotations

import asyncio
from typing import Any


async def needs(ctx: Any, *, symbol: str, leverage: int = 1, note: str = None) -> None:  # type: ignore[assignment] # noqa: RUF013
    """Prints what it was given."""
    print(ascii(symbol), leverage, note, ctx.name, ctx.labels, flush=True)
    await asyncio.sleep(3600)
