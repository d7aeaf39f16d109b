"""Bots that do what a test tells them to, by signals and by parameters."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
import time


def leaves(*, code: int = 44) -> None:
    """Ends with this exit code when it gets SIGUSR1."""
    signal.signal(signal.SIGUSR1, lambda *_: sys.exit(code))
    print("waiting", flush=True)
    while True:
        time.sleep(60)


def lingers(*, code: int = 0) -> None:
    """Prints that it got SIGTERM and stays until it gets SIGUSR1; then it ends with this exit code."""
    signal.signal(signal.SIGTERM, lambda *_: print("SIGTERM", flush=True))
    leaves(code=code)


def tells() -> None:
    """Prints the name of each signal that it gets, and ends at SIGTERM."""
    told = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGCONT, signal.SIGTSTP}
    signal.pthread_sigmask(signal.SIG_BLOCK, told)
    print("listening", flush=True)
    while True:
        signum = signal.sigwait(told)
        print(signal.Signals(signum).name, flush=True)
        if signum == signal.SIGTERM:
            return


async def ticks() -> None:
    """Prints numbers, a hundred a second."""
    for n in itertools.count():
        print(n, flush=True)
        await asyncio.sleep(0.01)


async def floods(*, line: str = "x" * 99, lines: int = 1_000_000_000) -> None:
    """Prints numbered lines as fast as it can, and then waits."""
    for n in range(lines):
        os.write(1, f"{n} {line}\n".encode())
        if n % 100 == 0:
            await asyncio.sleep(0)
    await asyncio.sleep(3600)
