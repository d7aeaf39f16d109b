"""Bots that do what bots should not."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from typing import Any


async def exits(*, code: int = 0) -> None:
    """Ends at once with this exit code."""
    sys.exit(code)


def exits_hard(*, code: int = 7) -> None:
    """Ends without any cleaning up."""
    os._exit(code)


def exits_with_text() -> None:
    sys.exit("no more money")


async def raises() -> None:
    raise ValueError("the price is negative")


def dies(*, signum: int = 11) -> None:
    """Dies by a signal of its own."""
    os.kill(os.getpid(), signum)
    time.sleep(60)


def deaf() -> None:
    """Ignores SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("deaf", flush=True)
    while True:
        time.sleep(60)


def holds_the_gil() -> None:
    """A C function that never gives the interpreter back."""
    print("holding", flush=True)
    libc = ctypes.PyDLL(None)
    while True:
        libc.usleep(10_000_000)


async def sleeps(*, seconds: float = 3600.0) -> None:
    """Does nothing, for so long, and ends well."""
    await asyncio.sleep(seconds)


def has_a_family() -> None:
    """A child in the group, one in its own session, a daemon, and a daemon with an empty environment."""
    sleep = "import time; time.sleep(600)"
    daemon = f"import os; os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0); {sleep}"
    python = [sys.executable, "-c"]
    quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.Popen([*python, sleep], **quiet)
    subprocess.Popen([*python, sleep], start_new_session=True, **quiet)
    subprocess.Popen([*python, daemon], **quiet).wait()
    subprocess.Popen([*python, daemon], env={}, **quiet).wait()
    for _ in range(2):
        # Whoever stood between us and a daemon has come to us, and ends; the daemon comes with that.
        os.waitpid(-1, 0)
    me = os.getpid()
    with open(f"/proc/{me}/task/{me}/children") as file:
        children = file.read().split()
    print("family", *children, flush=True)
    while True:
        time.sleep(60)


def crashes_after(*, seconds: float = 0.0) -> None:
    """Runs for a while and then crashes."""
    time.sleep(seconds)
    raise RuntimeError("crashed, as it was told to")


def forks_workers() -> None:
    """Uses multiprocessing itself."""
    import multiprocessing

    with multiprocessing.get_context("spawn").Pool(2) as pool:
        print("sum", sum(pool.map(abs, range(-10, 0))), flush=True)
    time.sleep(3600)


not_callable = 42
