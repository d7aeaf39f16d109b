"""Bots that crash together."""

from __future__ import annotations

import os
import time


def depends(*, path: str) -> None:
    """Crashes when a file is missing, as bots do when what they all depend on is down."""
    while os.path.exists(path):
        time.sleep(0.05)
    raise ConnectionRefusedError(path)
