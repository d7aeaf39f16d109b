"""A process as a reference: open the descriptor first, then see whether it is the one that was meant."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import functools
import os
import select
import signal
import struct

from botproc import kernel
from supervisor.core.model import Identity

# linux/pidfd.h: _IOWR(0xFF, 11, struct pidfd_info), of which the first version has 64 bytes. Linux 6.13; the exit
# status of a process that somebody else has reaped: Linux 6.15.
_PIDFD_GET_INFO = 0xC040FF0B
_PIDFD_INFO_EXIT = 1 << 3
_PIDFD_INFO = struct.Struct("=QQ11Ii")

KILLED_S = 1.0
"""In seconds: what was sent SIGKILL, or has closed its last descriptor, is gone by then, or the kernel holds it up."""


@functools.cache
def boot_id() -> str:
    """This boot of the machine: a start time in ticks means nothing in another."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def open_process(identity: Identity) -> int | None:
    """A pidfd of just this process, alive or not yet reaped; None when it is gone. Raises OSError (EMFILE)."""
    if identity.boot_id != boot_id():
        return None
    try:
        fd = os.pidfd_open(identity.pid)
    except OverflowError:
        return None
    except OSError as error:
        # Nobody has the number, or a thread has it: that is ENOENT, and was EINVAL. EINVAL: it is no number of any.
        if error.errno in (errno.ESRCH, errno.ENOENT, errno.EINVAL):
            return None
        raise
    try:
        # Read after the descriptor was opened: if the number had gone to another process by then, this differs.
        same = os.fstat(fd).st_ino == identity.inode and kernel.start_ticks(identity.pid) == identity.start_ticks
    except (FileNotFoundError, ProcessLookupError):
        same = False
    except OSError:
        os.close(fd)
        raise
    if not same:
        os.close(fd)
        return None
    return fd


def send(fd: int, signum: int) -> bool:
    """Whether the process was there to get the signal."""
    try:
        signal.pidfd_send_signal(fd, signum)
    except ProcessLookupError:
        return False
    return True


def lives(fd: int) -> bool:
    """Whether the process runs, and does not only wait to be reaped."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return not poll.poll(0)


async def ended(fd: int) -> None:
    """Returns when the process has ended."""
    readable = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(fd, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(fd)


async def kill(fd: int) -> None:
    """SIGKILL. Returns when it has ended, or the kernel has held it up for `KILLED_S`; closes the descriptor."""
    try:
        send(fd, signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended(fd), KILLED_S)
    finally:
        os.close(fd)


def zombie(identity: Identity) -> tuple[int, int] | None:
    """Parent and wait status of a process that has ended and is not reaped; None when it is neither.

    Source: fields 3, 4, 22 and 52 of /proc/PID/stat; see proc_pid_stat(5).
    """
    try:
        with open(f"/proc/{identity.pid}/stat", "rb", buffering=0) as file:
            values = file.read(1024).rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if values[0] != b"Z" or int(values[19]) != identity.start_ticks:
        return None
    return int(values[1]), int(values[49])


def exit_status(fd: int) -> int | None:
    """The wait status of a process that was reaped, where the kernel keeps it; else None."""
    info = bytearray(_PIDFD_INFO.size)
    _PIDFD_INFO.pack_into(info, 0, _PIDFD_INFO_EXIT, *[0] * 13)
    try:
        fcntl.ioctl(fd, _PIDFD_GET_INFO, info)
    except OSError:
        return None
    values = _PIDFD_INFO.unpack(info)
    return int(values[-1]) if values[0] & _PIDFD_INFO_EXIT else None
