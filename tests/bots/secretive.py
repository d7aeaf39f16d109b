"""A bot that is given a secret and keeps it."""

from __future__ import annotations

from typing import Any

from pydantic import SecretStr


async def main(ctx: Any, *, password: SecretStr) -> None:
    """Prints how long its password is."""
    print(len(password.get_secret_value()), "characters", flush=True)
    await ctx.stopping
