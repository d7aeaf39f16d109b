"""Bots that want more than they may have."""

from __future__ import annotations

import os
import time

MIB = 1 << 20


def allocates(*, mib: int, keep: bool = False) -> None:
    """Takes memory and writes to it, MiB by MiB, then waits if it is to keep it."""
    taken = []
    for _ in range(mib):
        taken.append(os.urandom(MIB))
    print("has it", flush=True)
    while keep:
        time.sleep(60)


def spins() -> None:
    """Uses a processor, and nothing else."""
    print("spinning", flush=True)
    while True:
        pass
