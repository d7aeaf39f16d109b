"""The threads in which the event loop has done what may take its time: reading logs, removing directories."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

THREADS = 4


def pool() -> ThreadPoolExecutor:
    """All of them, made now: later there may be no room for another, and what needs one would fail."""
    made = ThreadPoolExecutor(THREADS, thread_name_prefix="worker")
    all_there = threading.Barrier(THREADS)
    try:
        for _ in range(THREADS):
            made.submit(all_there.wait)
    except RuntimeError:
        all_there.abort()
        raise
    return made
