"""Starts a thread when it is imported, as some clients of databases do."""

import asyncio
import threading
import time

threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()


async def main() -> None:
    print("threads", threading.active_count(), flush=True)
    await asyncio.sleep(3600)
