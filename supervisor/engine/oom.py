"""Whether the kernel has killed for want of memory: it does so with a SIGKILL like any other, and counts.

The counter is that of our control group where there is one, of the whole machine otherwise. So a SIGKILL is put down
to a count that has grown since the last look: it is a good guess. Of a bot that has a group of its own it is certain.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import time
from pathlib import Path

from supervisor.engine import cgroups

_VERSION_1 = "memory.oom_control"

_GROUPS = 64
"""Maximum number of groups of version 1 that are looked into: each takes two system calls at every start."""

_FRESH_S = 10.0
"""How long after a look that saw the counter grow a process may be told to have been killed by that."""


def counter(proc: Path = cgroups.PROC, machine: Path = Path("/proc/vmstat")) -> Path:
    """The narrowest file that counts what the kernel kills for memory around here, in a line `oom_kill`."""
    with contextlib.suppress(OSError):
        if (own := cgroups.own(proc=proc)) is not None:
            # Version 2 counts what is killed further down too.
            for directory in (own, *own.parents):
                if (file := directory / "memory.events").exists():
                    return file
        if (own := cgroups.own("memory", proc)) is not None and (file := own / _VERSION_1).exists():
            return file
    return machine


class Oom:
    """Watches a counter through a descriptor that stays open."""

    def __init__(self, path: Path) -> None:
        self._fd = _opened(path)
        # Version 1 counts in each group what is killed in that very one.
        self._below = path.parent if path.name == _VERSION_1 else None
        self._counts = self._read()
        self._unclaimed = 0
        self._grew_at = 0.0

    def look(self) -> None:
        """Take note of the count: what is old by the time a process ends has not ended it. One read, or two."""
        now = time.monotonic()
        grown = 0
        for group, count in self._read().items():
            # A group that is new was made since the last look, so all that it counts has happened since.
            grown += max(0, count - self._counts.get(group, 0))
            self._counts[group] = count
        if grown:
            self._unclaimed += grown
            self._grew_at = now
        elif now - self._grew_at > _FRESH_S:
            self._unclaimed = 0

    def killed(self, group: Path | None) -> bool:
        """Whether a process that was just seen to have ended by SIGKILL was killed for memory.

        Args:
            group: the directory of the control group of its own, made for it alone, if it had one.
        """
        self.look()
        # One for each process that was killed: the next one may have been killed by somebody else.
        here = self._unclaimed > 0
        self._unclaimed -= here
        count = _kills_in(group / "memory.events") if group else None
        return here if count is None else count > 0

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)

    def _read(self) -> dict[str, int]:
        """The counts that can be read now, by group; that of the file itself under ""."""
        counts = {"": _kills(self._fd)}
        if self._below is not None:
            for directory, _, _ in itertools.islice(os.walk(self._below), _GROUPS):
                if directory != str(self._below):
                    counts[directory] = _kills_in(Path(directory, _VERSION_1))
        return {group: count for group, count in counts.items() if count is not None}


def _kills_in(path: Path) -> int | None:
    fd = _opened(path)
    try:
        return _kills(fd)
    finally:
        if fd is not None:
            os.close(fd)


def _opened(path: Path) -> int | None:
    """None where it is not there, or no descriptor is left: then nothing is known."""
    try:
        return os.open(path, os.O_RDONLY)
    except OSError:
        return None


def _kills(fd: int | None) -> int | None:
    """The number in the line `oom_kill`, 0 where there is no such line, as before Linux 4.13; None if it cannot be
    read, as when the group was removed."""
    text = b""
    try:
        while fd is not None and (more := os.pread(fd, 1 << 16, len(text))):
            text += more
            if found := re.search(rb"^oom_kill (\d+)$", text, re.M):
                return int(found[1])
    except OSError:
        return None
    return None if fd is None else 0
