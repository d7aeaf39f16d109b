"""A bot that says how it was set up."""

from __future__ import annotations

import asyncio
import fcntl
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path


def found() -> dict[str, object]:
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    fds = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            fds[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue
    parent = multiprocessing.parent_process()
    umask = os.umask(0)
    os.umask(umask)
    return {
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "sid": os.getsid(0),
        "pgid": os.getpgid(0),
        "cmdline": Path("/proc/self/cmdline").read_text().rstrip("\0"),
        "comm": Path("/proc/self/comm").read_text().strip(),
        "argv": sys.argv,
        "fds": fds,
        "inheritable": [int(fd) for fd in fds if os.get_inheritable(int(fd))],
        "ignored": status["SigIgn"],
        "blocked": status["SigBlk"],
        "umask": umask,
        "stdin": os.read(0, 10).decode(),
        "sys.stdin": sys.stdin.read(),
        "append": bool(fcntl.fcntl(1, fcntl.F_GETFL) & os.O_APPEND),
        "line_buffering": sys.stdout.line_buffering and sys.stderr.line_buffering,
        "encoding": [sys.stdout.encoding, sys.stdout.errors],
        "start_method": multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_start_method(),
        "parent_alive": parent is not None and parent.is_alive(),
        "env": {k: v for k, v in os.environ.items() if k.startswith(("BOT_", "NOTIFY", "OF_THE_KIND"))},
        "threads": len(os.listdir("/proc/self/task")),
    }


def plain(*, stay: bool = False) -> None:
    print(json.dumps(found()))
    while stay:
        time.sleep(60)


async def asynchronous() -> None:
    print(json.dumps(found()))
    await asyncio.sleep(0)


def speaks(ctx: object) -> None:
    """Its context.

    And no more than that.
    """
    print(ctx)
    print("caf\u00e9 \udc80", file=sys.stderr)
