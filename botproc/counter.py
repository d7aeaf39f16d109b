"""The kind that ships: prints a number each second, counting up."""

from __future__ import annotations

import asyncio
from itertools import count


async def main(*, start_number: int = 0) -> None:
    """Prints a number each second, counting up from `start_number`."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    for n in count():
        print(start_number + n)
        # Towards the second at which the next one is due, so that the error does not add up.
        await asyncio.sleep(begin + n + 1 - loop.time())
