"""How far the logs are on the console: told by a supervisor that makes way to the one that comes."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path


class Printed:
    """Kept in a file, for one reader."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def take(self) -> Mapping[int, int]:
        """The offset in the log of each bot, and no file any more; nothing where there is none."""
        try:
            kept = json.loads(self._path.read_bytes())
            self._path.unlink()
            return {int(bot_id): int(offset) for bot_id, offset in kept.items()}
        except (OSError, ValueError, AttributeError):
            # Then each log goes on where it is found.
            return {}

    def keep(self, offsets: Mapping[int, int]) -> None:
        """For the next. On a full disk the lines that are printed meanwhile stay in the logs alone."""
        with contextlib.suppress(OSError):
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w") as file:
                json.dump(offsets, file)
