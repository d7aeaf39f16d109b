"""Bots that end by exceptions which are seldom thought of."""

from __future__ import annotations

import asyncio
import atexit
import sys


def keyboard_interrupt() -> None:
    raise KeyboardInterrupt


async def cancels_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(60)


def group() -> None:
    raise BaseExceptionGroup("several", [ValueError("one"), SystemExit(0)])


def odd_exit() -> None:
    sys.exit(["neither a number", "nor a text"])  # type: ignore[arg-type]


def recursion() -> None:
    recursion()


def no_memory() -> None:
    raise MemoryError


def with_hooks() -> None:
    """Ends well; what it registered runs, and what it printed without a newline is not lost."""
    atexit.register(sys.stdout.write, "from the hook")
    print("from the target")
