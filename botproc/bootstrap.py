"""The first code in a bot's process, between fork and target.

When the target is called, the process has its own session, default signals, its log as stdout and stderr, its
lock, and nothing open of the zygote's or of other bots; what the kind's modules opened stays open.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from multiprocessing import resource_tracker
from typing import NoReturn, TypeVar

import setproctitle

from botproc import contract, crash, kernel, limits, notify, secrets, watchdog, wire
from botproc.target import Target, Unfit, arguments

T = TypeVar("T")


def run(spec: wire.ZygoteSpec, target: Target, spawn: wire.Spawn) -> None:
    """Sets the process up and calls the target. Called in the child, by multiprocessing."""
    play(spec, target, spawn, set_up(spec, spawn))


def play(spec: wire.ZygoteSpec, target: Target, spawn: wire.Spawn, lock: int) -> None:
    """Calls the target, in a process that is set up.

    SIGTERM is blocked until there is something that can take it, so that a stop in the first millisecond is not
    lost on asyncio.
    """
    try:
        params = secrets.resolve(spawn.params, spec.secrets_dir)
        kwargs = arguments(target, params)
    except (secrets.Unresolved, Unfit) as error:
        give_up(spawn, str(error), lock)
    if spec.heartbeat_s is not None:
        watchdog.dump_on_signal()
    stopping = contract.Stopping()
    context = (contract.Context if target.is_async else contract.SyncContext)(
        bot_id=spawn.bot_id,
        run_id=spawn.run_id,
        kind=spec.kind,
        name=spawn.name,
        labels=spawn.labels,
        data_dir=spawn.data_dir,
        stopping=stopping,
    )
    call = functools.partial(target.call, *((context,) if target.takes_context else ()), **kwargs)
    try:
        if target.is_async:
            asyncio.run(_main(spec, call, stopping, spawn.grace_s))
        elif target.takes_context:
            stopping.then = functools.partial(_leave, stopping)
            with _sigterm_asks(stopping):
                _begin(spec)
                call()
        else:
            _begin(spec)
            call()
    except Exception as error:
        crash.record(error, lock)
        raise


async def until_stopped(call: Callable[[], Awaitable[T]], stopping: contract.Stopping, grace_s: float) -> T | None:
    """What the target returns; None where a stop cancelled it. It runs in the task of the caller."""
    main = asyncio.current_task()
    assert main is not None
    loop = asyncio.get_running_loop()

    def stop() -> None:
        stopping.wake()
        if stopping.heeded:
            loop.call_later(grace_s / 2, main.cancel, "SIGTERM")
        else:
            main.cancel("SIGTERM")

    stopping.then = lambda: loop.call_soon_threadsafe(stop)
    if stopping:
        # Asked before there was a task to cancel; in a bot's own process SIGTERM is blocked until then.
        stop()
    try:
        return await call()
    except asyncio.CancelledError:
        if not stopping:
            raise
        return None


async def _main(
    spec: wire.ZygoteSpec, call: Callable[[], Awaitable[object]], stopping: contract.Stopping, grace_s: float
) -> None:
    """The main task of an asyncio bot."""
    if spec.heartbeat_s is not None:
        # Three to a heartbeat, so that one that is late or lost does no harm.
        watchdog.beat(asyncio.get_running_loop(), spec.heartbeat_s / 3)

    async def begin() -> None:
        with _sigterm_asks(stopping):
            _begin(spec)
            await call()

    await until_stopped(begin, stopping, grace_s)


def _leave(stopping: contract.Stopping) -> None:
    """What a stop does to a plain bot, in its main thread."""
    if not stopping.heeded:
        raise SystemExit(0)


def _begin(spec: wire.ZygoteSpec) -> None:
    """The last step before the target is called."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    if spec.ready_at_start:
        notify.notify(READY="1")


@contextlib.contextmanager
def _sigterm_asks(stopping: contract.Stopping) -> Iterator[None]:
    """Within, SIGTERM asks the bot to stop. What the bot forks is not the bot: it ends at SIGTERM, as by default.

    So does a bot whose target is over and which something keeps, a thread perhaps; unless it was asked to stop before.
    """

    def ask(*_: object) -> None:
        stopping.ask()

    def give_back() -> None:
        # The bot may have put a handler of its own in the place of ours.
        if signal.getsignal(signal.SIGTERM) is ask:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, ask)
    os.register_at_fork(after_in_child=give_back)
    try:
        yield
    finally:
        if not stopping:
            give_back()


REHEARSALS = 10


def rehearse() -> None:
    """Does in the zygote what each bot does first.

    Code that has run is specialised, its symbols are bound, its caches are full: no bot has to write, and thereby
    copy, these pages again. That is a tenth of a bot's own memory and a tenth of its page faults.
    """

    async def nothing() -> None:
        await asyncio.sleep(0.0001)

    for _ in range(REHEARSALS):
        asyncio.run(until_stopped(nothing, contract.Stopping(), 0.0))
        print(0, file=_line_buffered(io.FileIO(os.devnull, "w")))
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK).close()
        os.environ.update(BOT_ID="", BOT_RUN_ID="", BOT_KIND="")
        secrets.resolve({"": ""}, "")
        kernel.become_subreaper()
        setproctitle.setproctitle(setproctitle.getproctitle())
        stopping = contract.Stopping()
        contract.Context(bot_id=0, run_id=0, kind="", name=None, labels={}, data_dir="", stopping=stopping)


def log_to(path: str) -> None:
    """The log becomes fd 1 and 2, written line by line. Raises OSError."""
    log = kernel.open_file(path, os.O_WRONLY | os.O_APPEND)
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


def set_up(spec: wire.ZygoteSpec, spawn: wire.Spawn) -> int:
    """Make of this process that of a bot, whatever runs in it then; return the descriptor of its lock.

    Ends the process with one of our exit codes where that cannot be done.
    """
    lock = None
    try:
        try:
            log_to(spawn.log_path)
        finally:
            # Before it leaves the zygote's session: by the one or the other it is found, should the zygote die now. And
            # without a log too: then it is the lock file that tells why the bot has none.
            lock = _lock(spawn)
        _become(spec, spawn)
    except OSError as error:
        give_up(spawn, f"cannot open {error.filename}: {error.strerror}" if error.filename else str(error), lock)
    return lock


class CannotBeSetUp(Exception):
    """Why a process cannot be that of a bot."""


def give_up(spawn: wire.Spawn, reason: str, lock: int | None) -> NoReturn:
    """End a bot that cannot be what it should; its log says why, and so does its lock file, if there is one."""
    # On a full disk it cannot be written. The exit code says what kind of end this is all the same.
    with contextlib.suppress(OSError):
        print(f"bot-{spawn.bot_id} cannot be set up: {reason}", file=sys.stderr, flush=True)
    if lock is not None:
        crash.record(CannotBeSetUp(reason), lock)
    sys.exit(wire.EXIT_UNUSABLE)


def title(spec: wire.ZygoteSpec, spawn: wire.Spawn) -> str:
    """What `ps` shows of a bot."""
    return f"bot-{spawn.bot_id} {spec.kind}" + (f" {spawn.name}" if spawn.name else "")


def _become(spec: wire.ZygoteSpec, spawn: wire.Spawn) -> None:
    os.setsid()
    kernel.become_subreaper()
    setproctitle.setproctitle(title(spec, spawn))
    os.environ.update(BOT_ID=str(spawn.bot_id), BOT_RUN_ID=str(spawn.run_id), BOT_KIND=spec.kind)
    # Of a heartbeat, the supervisor's own may be what is inherited.
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        os.environ.pop(name, None)
    if spec.heartbeat_s is not None:
        os.environ["WATCHDOG_USEC"] = str(round(spec.heartbeat_s * 1_000_000))
    signal.signal(kernel.DUMP_SIGNAL, signal.SIG_IGN)
    # multiprocessing within a bot: a start method of its own choice.
    multiprocessing.set_start_method(None, force=True)
    limits.apply(spawn.limits, spawn.cgroup)


def forget_resource_tracker() -> None:
    """The supervisor's is not ours: what uses shared memory or semaphores from here on starts one of its own."""
    tracker = resource_tracker._resource_tracker
    tracker._fd = tracker._pid = None  # type: ignore[attr-defined]


def _lock(spawn: wire.Spawn) -> int:
    """One copy: held by this process, and by what it forks, until all of it is gone."""
    lock = kernel.open_file(spawn.lock_path, os.O_RDWR)
    try:
        kernel.lock(lock)
    except BlockingIOError:
        print(f"bot-{spawn.bot_id}: another copy of it runs: {spawn.lock_path} is held", file=sys.stderr)
        sys.exit(wire.EXIT_LOCKED)
    os.truncate(lock, 0)
    # With the start time: what we fork holds the lock too, and by then our pid can be another's.
    os.pwrite(lock, f"{spawn.run_id} {os.getpid()} {kernel.start_ticks(os.getpid())}\n".encode(), 0)
    return lock
