"""A bot that imports what many do: a client, a validator and a server of the web."""

from __future__ import annotations

import asyncio
from itertools import count

import fastapi
import httpx
import pydantic

STACK = (fastapi, httpx, pydantic)


async def main() -> None:
    """Prints a number each second."""
    for n in count():
        print(n, flush=True)
        await asyncio.sleep(1)


if __name__ == "__main__":
    asyncio.run(main())
