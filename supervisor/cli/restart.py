"""Replaces a running supervisor by a new one, while its bots run on.

`bot-supervisor restart` finds the supervisor by the lock of its data directory and sends it SIGUSR2. It answers what
it was asked, leaves bots and zygotes as they are, closes the ledger, and executes what is installed now, with the
same arguments and environment: as the same process, on the same socket, so that who connects meanwhile waits a
moment and is not refused.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from supervisor import data_directory
from supervisor.api import listener
from supervisor.core import errors

LIMIT_S = 60.0
"""How long the new supervisor may take until it serves."""

_LOOK_S = 0.01


def restart(argv: Sequence[str]) -> int:
    """The command: returns when the new supervisor serves, and says how long that took. Raises NotReplaced."""
    parser = argparse.ArgumentParser(
        prog="bot-supervisor restart",
        description="Replaces the running supervisor by what is installed now. No bot is touched.",
        allow_abbrev=False,
    )
    data_directory.add_flag(parser)
    data_dir: Path = parser.parse_args(argv).data_dir
    pid, took_s = _restarted(data_dir)
    print(f"the supervisor in {data_dir}, pid {pid}, was replaced: the API was away for {took_s:.2f} s at most")
    return 0


def _restarted(data_dir: Path) -> tuple[int, float]:
    try:
        before = pid, since = data_directory.said(data_dir)
        fd = os.pidfd_open(pid) if pid and data_directory.holder(data_dir) == pid else None
    except (FileNotFoundError, ProcessLookupError):
        fd = None
    except OSError as error:
        raise errors.NotReplaced(f"cannot read {data_dir / data_directory.LOCK}: {error.strerror}") from None
    if fd is None:
        raise errors.NotReplaced(f"no supervisor works in {data_dir}")
    try:
        if not since:
            # It might not know the signal yet, or be of a version that never will, and die of it.
            raise errors.NotReplaced(f"the supervisor in {data_dir}, pid {pid}, does not serve yet")
        try:
            # Looked at after the pidfd was opened: that is the process that will get the signal.
            if not (
                _has_lock(pid, data_dir)
                and data_directory.holder(data_dir) == pid
                and data_directory.said(data_dir) == before
            ):
                raise errors.NotReplaced(f"the supervisor in {data_dir} has just changed: try again")
            begin = time.monotonic()
            signal.pidfd_send_signal(fd, signal.SIGUSR2)
        except PermissionError:
            raise errors.NotReplaced(f"the supervisor in {data_dir}, pid {pid}, is another user's") from None
        except OSError:
            raise errors.NotReplaced(f"the supervisor in {data_dir}, pid {pid}, has just ended") from None
        ended = select.poll()
        ended.register(fd, select.POLLIN)
        while time.monotonic() - begin < LIMIT_S:
            if ended.poll(_LOOK_S * 1000):
                raise errors.NotReplaced(
                    f"the supervisor, pid {pid}, did not come back: its output says why. Bots run on; start it again"
                )
            now = data_directory.said(data_dir)
            if now[1] and now != before:
                return pid, time.monotonic() - begin
        raise errors.NotReplaced(f"the supervisor, pid {pid}, does not serve again after {LIMIT_S:g} s")
    finally:
        os.close(fd)


def _has_lock(pid: int, data_dir: Path) -> bool:
    """Whether the process has the lock file open. Raises OSError."""
    lock = (data_dir / data_directory.LOCK).stat()
    fds = Path(f"/proc/{pid}/fd")
    return any(os.path.samestat(lock, fd.stat()) for fd in fds.iterdir() if fd.exists())


def replace(sock: socket.socket, environment: Mapping[str, str]) -> NoReturn:
    """Becomes the new supervisor, which goes on with the listening socket. Raises NotReplaced.

    Args:
        sock: the listening one.
        environment: that of our own start, tokens included.
    """
    os.dup2(sock.fileno(), listener.HANDED_OVER)
    os.set_inheritable(listener.HANDED_OVER, True)
    handed = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
    try:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**environment, **handed})
    except OSError as error:
        raise errors.NotReplaced(
            f"cannot execute {sys.executable}: {error.strerror}. Bots run on; start the supervisor again"
        ) from None
