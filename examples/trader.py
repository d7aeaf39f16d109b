"""A trading bot whose parameters are a Pydantic model. The trading is left out."""

from __future__ import annotations

import random
from typing import Literal

from pydantic import BaseModel, Field, SecretStr

from botproc.contract import Context


class Settings(BaseModel):
    """Checked before a process exists: a call with a wrong value gets 422, with the field's name."""

    account: str = Field(min_length=1)
    api_key: SecretStr
    symbol: str = Field(default="BTC-EUR", pattern=r"^[A-Z]+-[A-Z]+$")
    side: Literal["buy", "sell"] = "buy"
    every_s: float = Field(default=1.0, gt=0)


async def main(ctx: Context, settings: Settings) -> None:
    """Pretends to trade."""
    # What a bot has to remember from run to run is in a directory of its own.
    journal = ctx.data_dir / "journal"
    ctx.log.info(
        "logs in as %s with a key of %d characters", settings.account, len(settings.api_key.get_secret_value())
    )
    price = 100.0
    while await ctx.sleep(settings.every_s):
        price *= 1 + random.gauss(0, 0.001)
        ctx.status(f"{settings.symbol} at {price:.2f}")
        with journal.open("a") as file:
            print(f"{settings.side} {settings.symbol} {price:.2f}", file=file)
    ctx.log.info("logs out")
