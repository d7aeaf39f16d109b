"""What this process has, to be compared before and after: what goes may be another's, what is added is left behind."""

from __future__ import annotations

import contextlib
import os
import threading


def threads() -> set[threading.Thread]:
    return set(threading.enumerate())


def descriptors() -> set[str]:
    """Each with what it refers to: a number that went to something else is not the same descriptor."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        # Not the one of the listing itself.
        with contextlib.suppress(FileNotFoundError):
            found.add(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
    return found
