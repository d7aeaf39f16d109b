"""Takes a second to import."""

import asyncio
import time

time.sleep(1)


async def main() -> None:
    await asyncio.sleep(3600)
