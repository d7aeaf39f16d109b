"""Takes three seconds to import."""

import asyncio
import time

time.sleep(3)


async def main() -> None:
    await asyncio.sleep(3600)
