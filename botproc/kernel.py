"""The few calls of Linux that the standard library has no name for, and what is read from /proc."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import signal
import stat
import time
from collections.abc import Collection

_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)

# A real-time signal, because bots and their libraries have uses of their own for SIGUSR1 and SIGUSR2. Of those one
# of the last, because thread libraries keep the first for themselves; and not the last, which others chose so before.
# Unhandled it would kill, so a bot that has nothing to write at it ignores it.
DUMP_SIGNAL = signal.SIGRTMAX - 2
"""Asks a bot for the stacks of its threads and tasks."""


def become_subreaper() -> None:
    """Orphaned descendants become children of this process. Inherited by no child. Raises OSError."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def reset_signals(blocked: Collection[int] = ()) -> None:
    """Every disposition as a fresh Python has it, and nothing blocked but these.

    What the parent ignored or blocked is inherited through exec: an ignored SIGCHLD would lose exit codes, a
    blocked SIGTERM would make each stop wait for the whole grace.
    """
    for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        match signum:
            case signal.SIGINT:
                signal.signal(signum, signal.default_int_handler)
            case signal.SIGPIPE | signal.SIGXFSZ:
                signal.signal(signum, signal.SIG_IGN)
            case _:
                signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def open_standard_streams() -> None:
    """Descriptors 0, 1 and 2 are there, for children too, if only as /dev/null.

    Otherwise a socket or a database would get such a number, and be written to by whatever prints.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def open_file(path: str, flags: int) -> int:
    """Open a file for its owner alone, and make it and its directory where they are missing.

    Raises OSError, also where something else than a regular file stands: a pipe would hold up its opener, and a
    symbolic link lead it elsewhere.
    """
    flags |= os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        try:
            fd = os.open(path, flags, 0o600)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            fd = os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise OSError(error.errno, "not a regular file", path) from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        # It becomes the standard output of programs that may look at that.
        os.set_blocking(fd, True)
    except OSError:
        os.close(fd)
        raise
    return fd


_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def age_s(ticks: int) -> float:
    """For how long a process has lived whose start time is this many ticks after boot; right to a tick."""
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / _TICKS_PER_S)


def start_ticks(pid: int) -> int:
    """When the process started, in clock ticks since boot. Raises OSError when there is none.

    Source: field 22 of /proc/PID/stat; see proc_pid_stat(5). The name, field 2, may hold blanks and brackets.
    """
    with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
        return int(file.read(1024).rpartition(b")")[2].split()[19])


def lock(fd: int) -> None:
    """Locks the file for this process alone. Raises BlockingIOError when another holds it.

    Who looks whether a lock is held takes it for a moment: that is not another holder, so this asks more than once.
    """
    for pause_s in (0.001, 0.01, 0.05, None):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if pause_s is None:
                raise
            time.sleep(pause_s)


def session(pid: int) -> int:
    """The session of a process: that of a bot has the number of the bot's own process. 0 when it is gone."""
    try:
        return os.getsid(pid) if pid else 0
    except ProcessLookupError:
        return 0


def environment(pid: int) -> dict[str, str]:
    """The environment that the program of a process was started with; empty when it is gone or another user's."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            entries = file.read().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def open_paths(pid: int) -> set[str]:
    """The paths of the files that a process has open; none when it is gone or another user's."""
    paths = set()
    try:
        for number in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                paths.add(os.readlink(f"/proc/{pid}/fd/{number}"))
    except OSError:
        pass
    return paths


def pidfd_inode(pid: int) -> int:
    """The inode of the process's pidfd: unique for ever from Linux 6.9 on. Raises OSError."""
    fd = os.pidfd_open(pid)
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)
