"""Replaces a running supervisor by a new one, while its bots run on.

`bot-supervisor restart` finds the supervisor by the lock of its data directory and sends it SIGUSR2. It answers what
it was asked, leaves bots and zygotes as they are, closes the ledger, and executes what is installed now, with the
same arguments and environment: as the same process, on the same socket (see `supervisor.handover`), so that a client
that connects meanwhile waits a moment and is not refused.
"""

from __future__ import annotations

import os
import select
import signal
import time
from pathlib import Path

from supervisor import data_directory
from supervisor.core import errors

LIMIT_S = 60.0
"""How long the new supervisor may take until it serves."""

_LOOK_S = 0.01


def restart(data_dir: Path) -> int:
    """Return when the new supervisor serves, and say how long that took. Raises NotReplaced."""
    pid, took_s = _restarted(data_dir)
    print(f"the supervisor in {data_dir}, pid {pid}, was replaced: the API was away for {took_s:.2f} s at most")
    return 0


def _restarted(data_dir: Path) -> tuple[int, float]:
    try:
        before = pid, _ = _serving(data_dir)
        fd = os.pidfd_open(pid)
    except (FileNotFoundError, ProcessLookupError):
        raise errors.NotReplaced(f"no supervisor works in {data_dir}") from None
    except OSError as error:
        raise errors.NotReplaced(f"cannot read {data_dir / data_directory.LOCK}: {error.strerror}") from None
    try:
        try:
            # Looked at after the pidfd was opened: that is the process that will get the signal.
            if not _has_lock(pid, data_dir):
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


def _serving(data_dir: Path) -> tuple[int, str]:
    """The pid of the supervisor, and since when it serves: waits while one starts, or is being replaced.

    Raises NotReplaced, OSError.
    """
    begin = time.monotonic()
    while True:
        if data_directory.holder(data_dir) is None:
            raise errors.NotReplaced(f"no supervisor works in {data_dir}")
        pid, since = data_directory.said(data_dir)
        if since:
            return pid, since
        if not (data_dir / data_directory.LOCK).exists():
            raise errors.NotReplaced(
                f"cannot find the supervisor that works in {data_dir}: {data_directory.LOCK} is gone; send it SIGUSR2"
            )
        if time.monotonic() - begin > LIMIT_S:
            raise errors.NotReplaced(f"the supervisor in {data_dir}, pid {pid}, does not serve yet")
        time.sleep(_LOOK_S)


def _has_lock(pid: int, data_dir: Path) -> bool:
    """Whether the process has what is locked open: the directory or, in version 0.1.0, the file. Raises OSError."""
    locked = [path.stat() for path in (data_dir, data_dir / data_directory.LOCK)]
    opened = [fd.stat() for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.exists()]
    return any(os.path.samestat(one, other) for one in locked for other in opened)
