"""What a bot's process may use, set by itself before any of its own code runs, and inherited by all that it starts."""

from __future__ import annotations

import contextlib
import os
import re
import resource
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

_UNLIMITED = resource.RLIM_INFINITY

_LAST_WORDS_S = 5
"""CPU time between SIGXCPU, which a bot can take to put its things in order, and SIGKILL."""


def apply(limits: Mapping[str, Any], cgroup: str) -> None:
    """Sets the limits by name, None or absent: not set. `cgroup` is the directory of the bot's control group, or empty.

    Raises OSError, which names the limit that cannot be set.
    """
    given = {name: value for name, value in limits.items() if value is not None}
    if cgroup:
        try:
            Path(cgroup, "cgroup.procs").write_text("0")
        except OSError as error:
            raise OSError(f"its control group {cgroup} cannot be joined: {error.strerror}") from None
    if given.get("core"):
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    else:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if "nice" in given:
        _set_nice(given["nice"])
    if "cpu_affinity" in given:
        _set_affinity(given["cpu_affinity"])
    if "oom_score_adj" in given:
        _set_oom_score_adj(given["oom_score_adj"])
    if "open_files" in given:
        _set("open_files", resource.RLIMIT_NOFILE, given["open_files"])
    if "cpu_s" in given:
        _set("cpu_s", resource.RLIMIT_CPU, given["cpu_s"], given["cpu_s"] + _LAST_WORDS_S)
    # Last, as from here on there may be no memory for what else is to do.
    if "address_space_bytes" in given:
        _set("address_space_bytes", resource.RLIMIT_AS, given["address_space_bytes"], has="VmSize")
    if "memory_bytes" in given and not (cgroup and os.path.exists(f"{cgroup}/memory.max")):
        _set("memory_bytes", resource.RLIMIT_DATA, given["memory_bytes"], has="VmData")


def _set(name: str, which: int, soft: int, hard: int | None = None, *, has: str = "") -> None:
    """Sets a limit of the kernel's. `has`: the line of /proc/self/status that says what the process has already."""
    hard = soft if hard is None else hard
    if has and (already := _status_bytes(has)) > soft:
        # The kernel would take it, and refuse the next page: the bot would fail anywhere, and not say why.
        raise _cannot(name, soft, f"the process has {already} bytes ({has}) before the bot does anything")
    try:
        resource.setrlimit(which, (soft, hard))
    except (OSError, ValueError) as error:
        _, most = resource.getrlimit(which)
        above = most != _UNLIMITED and hard > most
        why = f"the hard limit is {most}, and this user may not raise it" if above else str(error)
        raise _cannot(name, soft, why) from None


def _set_nice(nice: int) -> None:
    try:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    except OSError as error:
        raise _cannot("nice", nice, error.strerror) from None
    # Each bot leads a session. Where the kernel shares processors out by session (autogroup), the niceness of a
    # process counts within its session only, so the session gets it too. A user's own may do so ten times a second.
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(nice))


def _set_affinity(wanted: Collection[int]) -> None:
    try:
        os.sched_setaffinity(0, wanted)
    except OSError as error:
        raise _cannot("cpu_affinity", wanted, error.strerror) from None
    # The kernel takes those that are there, and is silent about the others.
    if missing := set(wanted) - os.sched_getaffinity(0):
        raise _cannot("cpu_affinity", wanted, f"there is no processor {min(missing)} for it")


def _set_oom_score_adj(score: int) -> None:
    try:
        Path("/proc/self/oom_score_adj").write_text(str(score))
    except OSError as error:
        raise _cannot("oom_score_adj", score, error.strerror) from None


def _status_bytes(field: str) -> int:
    found = re.search(rf"^{field}:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.M)
    return int(found[1]) * 1024 if found else 0


def _cannot(name: str, value: object, why: str | None) -> OSError:
    return OSError(f"the limit {name} = {value} cannot be set: {why}")
