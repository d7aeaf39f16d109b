"""What a supervisor hands over, by `execve`, to the one that replaces it: its listening socket and its lock.

Both stay open all the time, so that no client is refused and no other supervisor finds the data directory free. They
are numbered from 3 on and named, as sd_listen_fds(3) has it.

Signals are held back meanwhile, and from the first instruction of a new program on, until it can take them: what comes
is neither lost nor does it end a process that has no handler yet, or none any more. A held signal stays pending, across
`execve` too. But a mask belongs to one thread, and a signal goes to any thread that does not have it in its mask.
Threads inherit the mask of the one that makes them: those that may outlive the loop are made while signals are held.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from supervisor.core import errors

_FIRST = 3
_NAMES = ("http", "lock")
SIGNALS = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR2})
"""Those by which the supervisor is told what to do."""


@dataclass(frozen=True, slots=True)
class Handover:
    """What the next supervisor goes on with: the listening socket, and the descriptor that has the lock."""

    sock: socket.socket
    lock: int

    def close(self) -> None:
        """Let go of both: there is no next supervisor."""
        self.sock.close()
        os.close(self.lock)


def hold_signals() -> frozenset[signal.Signals]:
    """Keep the program's signals pending. Returns which these are."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    return SIGNALS


def release_signals() -> None:
    """Take the program's signals from now on, those that are pending first."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def received() -> dict[str, int]:
    """The descriptors that we were executed with, by name. The environment, which bots inherit, forgets them."""
    told = {name: os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")}
    if told["LISTEN_PID"] != str(os.getpid()):
        return {}
    # Version 0.1.0 hands over its socket alone, and gives it no name.
    names = told["LISTEN_FDNAMES"].split(":") if told["LISTEN_FDNAMES"] else ["http"]
    if told["LISTEN_FDS"] != str(len(names)):
        return {}
    found = {name: _FIRST + number for number, name in enumerate(names)}
    for fd in found.values():
        os.set_inheritable(fd, False)
    return found


def execute(handed: Handover, environment: Mapping[str, str]) -> NoReturn:
    """Become the new supervisor: what is installed now, with the same arguments. Raises NotReplaced.

    `environment` is that of our own start, tokens included.
    """
    # First out of the way of the numbers that they are to have.
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD, _FIRST + len(_NAMES)) for fd in (handed.sock.fileno(), handed.lock)]
    for number, copy in enumerate(copies, _FIRST):
        os.dup2(copy, number)
        os.close(copy)
    told = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(_NAMES)), "LISTEN_FDNAMES": ":".join(_NAMES)}
    try:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**environment, **told})
    except OSError as error:
        raise errors.NotReplaced(
            f"cannot execute {sys.executable}: {error.strerror}. Bots run on; start the supervisor again"
        ) from None
