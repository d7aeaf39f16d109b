"""The first code in a bot's process, between fork and target.

When the target is called, the process has its own session, default signals, its log as stdout and stderr, its
lock, and nothing open of the zygote's or of other bots; what the kind's modules opened stays open.
"""

from __future__ import annotations

import asyncio
import fcntl
import inspect
import io
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import Any

import setproctitle

from botproc import contract, kernel, limits, notify, wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The callable of a kind, looked at once in the zygote."""

    call: Callable[..., Any]
    is_async: bool
    takes_context: bool


def run(birth: wire.Birth, target: Target, spawn: wire.Spawn) -> None:
    """Sets the process up and calls the target. Called in the child, by multiprocessing.

    SIGTERM is blocked until there is something that can take it, so that a stop in the first millisecond is not
    lost on asyncio.
    """
    set_up(birth, spawn)
    context = contract.Context(
        bot_id=spawn.bot_id, run_id=spawn.run_id, kind=birth.kind, name=spawn.name, labels=spawn.labels
    )
    args = (context,) if target.takes_context else ()
    if target.is_async:
        asyncio.run(_cancelled_by_sigterm(target, args, spawn.params))
    else:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        notify.notify(READY="1")
        target.call(*args, **spawn.params)


REHEARSALS = 10


def rehearse() -> None:
    """Does in the zygote what each bot does first.

    Code that has run is specialised, its symbols are bound, its caches are full: no bot has to write, and thereby
    copy, these pages again. That is a tenth of a bot's own memory and a tenth of its page faults.
    """

    async def nothing() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, lambda: None)
        loop.remove_signal_handler(signal.SIGUSR1)
        await asyncio.sleep(0)

    for _ in range(REHEARSALS):
        asyncio.run(nothing())
        print(0, file=_line_buffered(io.FileIO(os.devnull, "w")))
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK).close()
        os.environ.update(BOT_ID="", BOT_RUN_ID="", BOT_KIND="")


def log_to(path: str) -> None:
    """The log becomes fd 1 and 2, written line by line. Raises OSError."""
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if log > 2:
        os.close(log)
    for name, fd in (("stdout", 1), ("stderr", 2)):
        stream = _line_buffered(io.FileIO(fd, "w", closefd=False))
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _line_buffered(raw: io.FileIO) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", line_buffering=True)


def set_up(birth: wire.Birth, spawn: wire.Spawn) -> int:
    """Makes of this process that of a bot, whatever runs in it then; the descriptor of its lock.

    Ends the process with one of our exit codes where that cannot be done.
    """
    try:
        log_to(spawn.log_path)
        _become(birth.kind, spawn)
    except OSError as error:
        print(f"bot-{spawn.bot_id} cannot be set up: {error}", file=sys.stderr, flush=True)
        sys.exit(wire.EXIT_UNUSABLE)
    return _lock(spawn)


def _become(kind: str, spawn: wire.Spawn) -> None:
    os.setsid()
    kernel.become_subreaper()
    setproctitle.setproctitle(f"bot-{spawn.bot_id} {kind}" + (f" {spawn.name}" if spawn.name else ""))
    os.environ.update(BOT_ID=str(spawn.bot_id), BOT_RUN_ID=str(spawn.run_id), BOT_KIND=kind)
    # multiprocessing within a bot: a start method of its own choice.
    multiprocessing.set_start_method(None, force=True)
    limits.apply(spawn.limits, spawn.cgroup)


def forget_resource_tracker() -> None:
    """The supervisor's is not ours: what uses shared memory or semaphores from here on starts one of its own."""
    tracker = resource_tracker._resource_tracker
    tracker._fd = tracker._pid = None  # type: ignore[attr-defined]


def _lock(spawn: wire.Spawn) -> int:
    """One copy: held by this process, and by what it forks, until all of it is gone."""
    lock = os.open(spawn.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"bot-{spawn.bot_id}: another copy of it runs: {spawn.lock_path} is held", file=sys.stderr)
        sys.exit(wire.EXIT_LOCKED)
    os.truncate(lock, 0)
    # With the start time: what we fork holds the lock too, and by then our pid can be another's.
    os.pwrite(lock, f"{spawn.run_id} {os.getpid()} {kernel.start_ticks(os.getpid())}\n".encode(), 0)
    return lock


async def _cancelled_by_sigterm(target: Target, args: tuple[contract.Context, ...], params: dict[str, Any]) -> None:
    """The target, as the main task. It ends the process with code 0 when SIGTERM cancelled it."""
    main = asyncio.current_task()
    assert main is not None
    asked = False

    def stop() -> None:
        nonlocal asked
        asked = True
        main.cancel("SIGTERM")

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    notify.notify(READY="1")
    try:
        await target.call(*args, **params)
    except asyncio.CancelledError:
        if not asked:
            raise


def inspect_target(call: Callable[..., Any]) -> Target:
    """What the callable is. A first parameter named `ctx` takes the context. Raises TypeError."""
    if not callable(call):
        raise TypeError(f"the target is not callable, it is a {type(call).__name__}")
    positional = [
        p for p in inspect.signature(call).parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    takes_context = (
        bool(positional) and positional[0].default is inspect.Parameter.empty and positional[0].name == "ctx"
    )
    return Target(
        call=call,
        is_async=inspect.iscoroutinefunction(call),
        takes_context=takes_context,
    )
