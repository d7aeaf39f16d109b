"""What a process has started, for one that nobody of ours is above, to be handed what it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from supervisor.engine import pidfd


class Descendants:
    """Those that were there when it was looked for them: what is forked later, and orphaned at once, is not seen."""

    def __init__(self) -> None:
        self._fds: dict[int, int] = {}

    def look(self, pid: int, fd: int) -> None:
        """Takes hold of all that the process has started, and of what that has in turn. `fd` is its pidfd."""
        for child in _children(pid):
            with contextlib.suppress(OSError):
                if child not in self._fds or not pidfd.lives(self._fds[child]):
                    child_fd = os.pidfd_open(child)
                    # Its number and its parent's were still theirs after it was opened, or it may be a stranger.
                    if child not in _children(pid) or not pidfd.lives(fd):
                        os.close(child_fd)
                        continue
                    if child in self._fds:
                        os.close(self._fds[child])
                    self._fds[child] = child_fd
                self.look(child, self._fds[child])

    async def end(self) -> int:
        """Kills those that still live, and returns when they are gone: how many they were."""
        try:
            for pid, fd in list(self._fds.items()):
                self.look(pid, fd)
            left = [fd for fd in self._fds.values() if pidfd.lives(fd)]
            for fd in left:
                # One that has become another user's may be out of our reach; then we wait for it.
                with contextlib.suppress(PermissionError):
                    pidfd.send(fd, signal.SIGKILL)
            await asyncio.gather(*map(pidfd.ended, left))
            return len(left)
        finally:
            for fd in self._fds.values():
                os.close(fd)
            self._fds.clear()


def _children(pid: int) -> Iterator[int]:
    """Of all threads of the process; none when it is gone, or the kernel keeps no list (CONFIG_PROC_CHILDREN)."""
    with contextlib.suppress(OSError):
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            yield from map(int, children.read_text().split())
