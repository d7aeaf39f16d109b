"""Bots that end by an exception, and leave a record of it in their lock file, or something else."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn


def raises(*, message: str = "no such town", waits: bool = False) -> None:
    """At once, or when it gets SIGUSR1."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    print("waiting", flush=True)
    if waits:
        signal.sigwait({signal.SIGUSR1})
    values = {"type": "ValueError", "message": message, "fingerprint": "0b1d"}
    _leave(json.dumps(values) + "\n")
    raise ValueError(message)


def leaves(*, text: str, times: int = 1, code: int = 3) -> NoReturn:
    """Whatever it is told to, so many times."""
    _leave(text * times)
    sys.exit(code)


def _leave(text: str) -> None:
    log = Path(os.readlink("/proc/self/fd/1"))
    lock = log.parents[1] / "run" / "locks" / f"{os.environ['BOT_ID']}.lock"
    with lock.open("ab") as file:
        file.write(text.encode())
