"""Control groups of version 2 for bots, below the one that we were started in, if that was delegated to us.

Nothing is looked for before the first bot needs one, and nothing changed before it is started. Processes and
controllers of a group exclude each other: our own go into the leaf `supervisor`, each bot that needs a group has
`bot-<id>` beside it, made for one run. See Documentation/admin-guide/cgroup-v2.rst of Linux.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
from collections.abc import Callable, Collection
from pathlib import Path

import psutil

from supervisor.core.model import Limits

log = logging.getLogger(__name__)

PROC = Path("/proc/self")
_LEAF = "supervisor"
_PERIOD_US = 100_000
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
_ROUNDS = 3
"""What our processes fork while they are moved is moved in the next round; what is moved forks into the same group."""

_CONTROLLERS = {"memory_bytes": "memory", "pids": "pids", "cpu": "cpu"}
"""Which controller each limit of a group needs."""


def own(controller: str = "", proc: Path = PROC) -> Path | None:
    """The directory of the group that this process is in; None where none can be seen from here.

    Of the hierarchy of version 2, or of version 1's if a controller of it is named.
    """
    try:
        groups = (proc / "cgroup").read_text().splitlines()
    except FileNotFoundError:
        return None
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controller not in controllers.split(","):
            continue
        for mount in (proc / "mountinfo").read_text().splitlines():
            # See proc_pid_mountinfo(5).
            left, _, right = mount.partition(" - ")
            root, point = left.split()[3:5]
            kind, *_, options = right.split()
            if kind != ("cgroup" if controller else "cgroup2") or (controller and controller not in options.split(",")):
                continue
            with contextlib.suppress(ValueError):
                directory = Path(_unescaped(point)) / Path(path).relative_to(_unescaped(root))
                if ".." not in directory.parts and directory.is_dir():
                    return directory
    return None


def _unescaped(path: str) -> str:
    """A path of mountinfo, in which blanks and the like are octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


class Groups:
    """The groups of bots."""

    def __init__(self, proc: Path = PROC) -> None:
        """`proc`: where `cgroup` and `mountinfo` of this process stand."""
        self._proc = proc
        self._looked = self._taken = False
        self._told: set[str] = set()
        self._parent: Path | None = None
        self._controllers: frozenset[str] = frozenset()
        self._why = ""
        self._made: set[int] = set()
        """The bots that have a group, as far as one was made here or found at the first look."""

    def make(self, bot_id: int, limits: Limits, our_pids: Callable[[], Collection[int]]) -> str:
        """A fresh group with these limits, which the bot's process is to join: its directory.

        Empty when the bot needs none, or when none can be had; then a warning says what does not hold. Raises OSError
        when no descriptor is left: that is no reason to start a bot without its limits.

        Args:
            our_pids: the pids of our processes, which may be moved with what descends from them.
        """
        wanted = _wanted(limits)
        if not wanted:
            return ""
        self._look()
        if self._parent is not None and not self._taken:
            self._take(self._parent, our_pids())
            self._taken = True
        if (note := self.note(limits)) and note not in self._told:
            self._told.add(note)
            log.warning("limits of bot-%s: %s", bot_id, note)
        if self._parent is None or self._controllers.isdisjoint(wanted):
            return ""
        self.remove(bot_id)
        directory = self._parent / f"bot-{bot_id}"
        try:
            directory.mkdir()
            self._made.add(bot_id)
            for file, value in self._values(limits).items():
                # Not every kernel can swap, or kill a group as one.
                if file in ("memory.swap.max", "memory.oom.group") and not (directory / file).exists():
                    continue
                (directory / file).write_text(value)
        except OSError as error:
            self.remove(bot_id)
            if error.errno in _NO_DESCRIPTOR:
                raise
            log.warning("bot-%s has no control group: %s", bot_id, error)
            return ""
        return str(directory)

    def directory(self, bot_id: int) -> Path | None:
        """The group of a bot; None when it has none. Costs nothing then."""
        with contextlib.suppress(OSError):
            self._look()
        return self._parent / f"bot-{bot_id}" if self._parent is not None and bot_id in self._made else None

    def remove(self, bot_id: int) -> None:
        """The bot has no process: its group can go. One that has, after all, stays until it is asked for again."""
        directory = self.directory(bot_id)
        if directory is None:
            return
        try:
            directory.rmdir()
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("the control group of bot-%s stays for now: %s", bot_id, error)
            return
        self._made.discard(bot_id)

    def note(self, limits: Limits) -> str:
        """Which of these limits do not hold as they should, and why; empty when all do."""
        wanted = _wanted(limits)
        if not wanted:
            return ""
        with contextlib.suppress(OSError):
            self._look()
        missing = [controller for controller in wanted if controller not in self._controllers]
        if not missing:
            return ""
        what = ["memory_bytes is RLIMIT_DATA of each process"] if "memory" in missing else []
        if others := [name for name in missing if name != "memory"]:
            what.append(f"{' and '.join(others)} {'is' if len(others) == 1 else 'are'} not enforced")
        why = self._why or f"the cgroup v2 at {self._parent} has no controller {' or '.join(missing)}"
        return f"{', '.join(what)}: {why}"

    # ---- the group that is delegated to us

    def _look(self) -> None:
        """Find it, and change nothing. Raises OSError when no descriptor is left; the next look may succeed."""
        if self._looked:
            return
        parent = own(proc=self._proc)
        if parent is None:
            self._why = "no writable cgroup v2 is delegated: none is mounted here"
        else:
            if parent.name == _LEAF:
                # Where an earlier supervisor of this group has put us.
                parent = parent.parent
            if all(os.access(parent / file, os.W_OK) for file in ("", "cgroup.procs", "cgroup.subtree_control")):
                there = (parent / "cgroup.controllers").read_text().split()
                self._made = {int(group.name[4:]) for group in parent.glob("bot-*") if group.name[4:].isdecimal()}
                self._controllers = frozenset(there) & frozenset(_CONTROLLERS.values())
                self._parent = parent
            else:
                self._why = f"no writable cgroup v2 is delegated: {parent} cannot be written to"
        self._looked = True

    def _take(self, parent: Path, ours: Collection[int]) -> None:
        """Makes room for groups with limits below it."""
        if not self._controllers:
            return
        try:
            leaf = parent / _LEAF
            leaf.mkdir(exist_ok=True)
            for _ in range(_ROUNDS):
                for pid in _pids(parent):
                    if _is_of(pid, ours):
                        with contextlib.suppress(ProcessLookupError):
                            (leaf / "cgroup.procs").write_text(str(pid))
            for controller in sorted(self._controllers):
                (parent / "cgroup.subtree_control").write_text(f"+{controller}")
        except OSError as error:
            if error.errno in _NO_DESCRIPTOR:
                raise
            reason = error.strerror
            if error.errno == errno.EBUSY and (others := _pids(parent)):
                reason = f"other processes are in it (pid {others[0]})"
            self._why = f"the cgroup v2 at {parent} cannot be divided: {reason}"
            self._parent, self._controllers = None, frozenset()

    def _values(self, limits: Limits) -> dict[str, str]:
        """What to write into which file of a new group."""
        values: dict[str, str] = {}
        if limits.memory_bytes is not None and "memory" in self._controllers:
            values |= {"memory.max": str(limits.memory_bytes), "memory.swap.max": "0", "memory.oom.group": "1"}
        if limits.pids is not None and "pids" in self._controllers:
            values["pids.max"] = str(limits.pids)
        if limits.cpu is not None and "cpu" in self._controllers:
            # The kernel takes no quota below a millisecond.
            values["cpu.max"] = f"{max(1000, round(limits.cpu * _PERIOD_US))} {_PERIOD_US}"
        return values


def _wanted(limits: Limits) -> list[str]:
    """The controllers that these limits need."""
    return [controller for name, controller in _CONTROLLERS.items() if getattr(limits, name) is not None]


def _pids(directory: Path) -> list[int]:
    return [int(pid) for pid in (directory / "cgroup.procs").read_text().split()]


def _is_of(pid: int, ours: Collection[int]) -> bool:
    """Whether a process is one of ours, or descends from one."""
    try:
        return pid in ours or any(parent.pid in ours for parent in psutil.Process(pid).parents())
    except psutil.Error:
        return False
