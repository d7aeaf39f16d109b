"""Whether the kernel has killed for want of memory: it does so with a SIGKILL like any other, and counts.

The counter is that of our control group where there is one, of the whole machine otherwise. So a SIGKILL is put down
to a count that has grown since the last look: it is a good guess. Of a bot that has a group of its own it is certain.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from supervisor.engine import cgroups

_FRESH_S = 10.0
"""How long after a look that saw the counter grow a process may be told to have been killed by that."""


def counter(proc: Path = cgroups.PROC, machine: Path = Path("/proc/vmstat")) -> Path:
    """The narrowest file that counts what the kernel kills for memory around here, in a line `oom_kill`."""
    if (own := cgroups.own(proc=proc)) is not None:
        # Version 2 counts what is killed further down too.
        for directory in (own, *own.parents):
            if (file := directory / "memory.events").exists():
                return file
    if (own := cgroups.own("memory", proc)) is not None and (file := own / "memory.oom_control").exists():
        return file
    return machine


class Oom:
    """Watches a counter through a descriptor that stays open."""

    def __init__(self, path: Path) -> None:
        self._fd = _opened(path)
        self._count = _kills(self._fd)
        self._unclaimed = 0
        self._grew_at = 0.0

    def look(self) -> None:
        """KindParams note of the count: what is old by the time a process ends has not ended it. One read, or two."""
        count, now = _kills(self._fd), time.monotonic()
        if count > self._count:
            self._unclaimed += count - self._count
            self._grew_at = now
        elif now - self._grew_at > _FRESH_S:
            self._unclaimed = 0
        self._count = count

    def killed(self, group: Path | None) -> bool:
        """Whether a process that was just seen to have ended by SIGKILL was killed for memory.

        Args:
            group: the directory of the control group of its own, made for it alone, if it had one.
        """
        self.look()
        # One for each process that was killed: the next one may have been killed by somebody else.
        here = self._unclaimed > 0
        self._unclaimed -= here
        fd = _opened(group / "memory.events") if group else None
        if fd is None:
            return here
        try:
            return _kills(fd) > 0
        finally:
            os.close(fd)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)


def _opened(path: Path) -> int | None:
    """None where it is not there, or no descriptor is left: then nothing is known."""
    try:
        return os.open(path, os.O_RDONLY)
    except OSError:
        return None


def _kills(fd: int | None) -> int:
    """The number in the line `oom_kill`; 0 where there is none, as before Linux 4.13."""
    text = b""
    try:
        while fd is not None and (more := os.pread(fd, 1 << 16, len(text))):
            text += more
            if found := re.search(rb"^oom_kill (\d+)$", text, re.M):
                return int(found[1])
    except OSError:
        pass  # The group that it counted for was removed.
    return 0
