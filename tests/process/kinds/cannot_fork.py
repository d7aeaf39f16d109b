"""May have no more processes, until it gets SIGUSR1."""

from __future__ import annotations

import resource
import signal
import time

before = resource.getrlimit(resource.RLIMIT_NPROC)


def may_fork(*_: object) -> None:
    resource.setrlimit(resource.RLIMIT_NPROC, before)
    print("may fork")


resource.setrlimit(resource.RLIMIT_NPROC, (1, before[1]))
signal.signal(signal.SIGUSR1, may_fork)


def main() -> None:
    time.sleep(600)
