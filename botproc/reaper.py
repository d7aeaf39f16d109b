"""Reaps the children of this process, and ends what dead bots leave behind.

The process is a child subreaper, and so is each bot. While a bot lives, what its descendants orphan comes back
to the bot. The moment it dies, the kernel hands all of it to us, before the bot can be waited for. So a child
that we did not make can only be the rest of a process of ours that just died: it gets SIGKILL, and so does
what it leaves in turn, until nothing is left. No privilege, cgroup or environment marker is needed.

A bot can give up being a subreaper. Then what its descendants orphan comes to us while it lives, and must not be taken
for the rest of another that dies: it is spared as long as it can be seen to be of a bot that lives (`owner`).
"""

from __future__ import annotations

import contextlib
import os
import resource  # noqa: F401 - os.wait4 loads it when first called, which may be when no descriptor is left
import signal
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from botproc import kernel

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Death(Generic[K]):
    """A child of ours that was reaped. Exactly one of `exit_code` and `signal` is set."""

    key: K
    pid: int
    exit_code: int | None
    signal: int | None
    cpu_seconds: float
    max_rss_bytes: int


@dataclass(slots=True)
class _Estate(Generic[K]):
    """What one or more children that died together have left."""

    keys: set[K]
    pids: set[int] = field(default_factory=set)
    killed: int = 0


class Reaper(Generic[K]):
    """The children of this process, by the key under which they are expected."""

    def __init__(self, owner: Callable[[int], K | None]) -> None:
        """`owner` says which expected child has started a process that we did not make, None where it cannot."""
        self._owner = owner
        self._expected: dict[int, K] = {}
        self._spared: set[int] = set()
        self._estates: dict[int, _Estate[K]] = {}
        self._bereaved: list[_Estate[K]] = []
        self._list = _open_list()

    @property
    def expected(self) -> Mapping[int, K]:
        """The children that are not reaped yet, by pid."""
        return self._expected

    def expect(self, pid: int, key: K) -> None:
        """The child `pid` is one of ours. To be called before the next `sweep`."""
        self._expected[pid] = key

    def spare(self, pids: Iterable[int]) -> None:
        """These children are neither expected nor what a dead one has left."""
        self._spared.update(pids)

    def forget(self, pid: int) -> None:
        """The process `pid` was reaped by somebody else."""
        self._expected.pop(pid, None)

    def reap(self) -> list[Death[K]]:
        """Waits for every child that has ended, without blocking."""
        deaths: list[Death[K]] = []
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            self._spared.discard(pid)
            if (estate := self._estates.pop(pid, None)) is not None:
                estate.pids.discard(pid)
                self._bereaved.append(estate)
            elif (key := self._expected.pop(pid, None)) is not None:
                code = os.waitstatus_to_exitcode(status)
                deaths.append(
                    Death(
                        key=key,
                        pid=pid,
                        exit_code=code if code >= 0 else None,
                        signal=-code if code < 0 else None,
                        cpu_seconds=usage.ru_utime + usage.ru_stime,
                        max_rss_bytes=usage.ru_maxrss * 1024,
                    )
                )
        return deaths

    def sweep(self, died: Iterable[K]) -> list[tuple[K, int]]:
        """Kills what the dead have left. Raises OSError when it cannot be seen now; then nothing is done.

        Returns the keys of which nothing is left any more, each with how many processes were killed after it.
        Where several died at once, what they left is theirs together.
        """
        died = set(died)
        if not died and not self._bereaved:
            return []
        strays = self.children() - self._expected.keys() - self._estates.keys() - self._spared
        if strays:
            living = set(self._expected.values()) - died
            strays = {pid for pid in strays if self._owner(pid) not in living}
        # From here on nothing fails: after an error of the line before the same call does all that is left to do.
        heirs, self._bereaved = self._bereaved, []
        estate: _Estate[K] = _Estate(died)
        if strays:
            for other in heirs:
                estate.keys |= other.keys
                estate.pids |= other.pids
                estate.killed = max(estate.killed, other.killed)
                other.keys, other.pids = set(), set()
            estate.pids |= strays
            estate.killed += len(strays)
            for pid in strays:
                # Ours, and not reaped yet: the number cannot have gone to another process. One that has become
                # another user's may be out of our reach; then we wait for it.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            for pid in estate.pids:
                self._estates[pid] = estate
        done: list[tuple[K, int]] = []
        for one in (estate, *heirs):
            if not one.pids:
                done += [(key, one.killed) for key in one.keys]
                one.keys = set()
        return done

    def children(self) -> set[int]:
        """The pids of the children of this process, zombies included."""
        if self._list is None:
            return children_by_parent()
        data = b""
        while more := os.pread(self._list, 1 << 16, len(data)):
            data += more
        return set(map(int, data.split()))

    def close(self) -> None:
        if self._list is not None:
            os.close(self._list)


def owner(pid: int, owners: Mapping[K, tuple[int, int, str]]) -> K | None:
    """Whose a process is; each owner by its pid, its run_id and the path of its lock.

    It is in the owner's session, or was started with its environment, or has the lock that its fork inherited.
    """
    session, files = kernel.session(pid), kernel.open_paths(pid)
    run_id = kernel.environment(pid).get("BOT_RUN_ID")
    for key, (leader, number, lock_path) in owners.items():
        if session == leader or run_id == str(number) or lock_path in files:
            return key
    return None


def _open_list() -> int | None:
    """The kernel's own list of our children; None on one without CONFIG_PROC_CHILDREN.

    That of the first thread: to it come orphans. It stays open, so that a want of descriptors hides nobody.
    """
    try:
        return os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def children_by_parent() -> set[int]:
    """The children of this process, found by asking every process for its parent."""
    me = os.getpid()
    return {pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _parent(pid) == me}


def _parent(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None
