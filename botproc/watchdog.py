"""How a bot with a heartbeat shows that it is well, and where it hangs when it is not."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import signal
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any

from botproc import kernel, notify

_TASKS = 100
"""The most tasks whose stacks are written."""


def beat(loop: asyncio.AbstractEventLoop, every_s: float) -> None:
    """Sends a heartbeat now, and from the loop again and again: a loop that is frozen does not."""
    notify.notify(WATCHDOG="1")
    loop.call_later(every_s, beat, loop, every_s)


def dump_on_signal() -> None:
    """From now on `kernel.DUMP_SIGNAL` has the stacks of all threads and tasks written to stderr.

    The threads' come first and from C, so that they come from a process, too, in which no Python runs any more. The
    tasks' come as soon as the main thread is at its next line, or its system call is interrupted.
    """
    signal.signal(kernel.DUMP_SIGNAL, _write_tasks)
    faulthandler.register(kernel.DUMP_SIGNAL, file=2, all_threads=True, chain=True)


def _write_tasks(signum: int, frame: FrameType | None) -> None:
    # To the descriptor: the main thread may be in the midst of writing to the stream.
    with contextlib.suppress(Exception):
        os.write(2, "".join(_tasks(frame)).encode(errors="backslashreplace"))


def _tasks(interrupted: FrameType | None) -> Iterator[str]:
    """The tasks of the running loop, each with its stack."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return
    current = asyncio.current_task(loop)
    tasks = sorted(asyncio.all_tasks(loop), key=lambda task: task is not current)
    for task in tasks[:_TASKS]:
        coroutine: Any = task.get_coro()
        # What runs now has a stack, what waits has a chain of coroutines each of which awaits the next.
        frames = _stack(coroutine, interrupted) if task is current else _awaited(coroutine)
        stack = traceback.StackSummary.extract((frame, frame.f_lineno) for frame in frames)
        running = ", which runs now" if task is current else ""
        yield f"Task {task.get_name()!r}{running} (most recent call last):\n{''.join(stack.format())}"
    if len(tasks) > _TASKS:
        yield f"and {len(tasks) - _TASKS} more tasks\n"


def _stack(coroutine: Any, innermost: FrameType | None) -> list[FrameType]:
    """The frames from that of the coroutine down to this one."""
    frames: list[FrameType] = []
    while innermost is not None:
        frames.insert(0, innermost)
        if innermost is getattr(coroutine, "cr_frame", None):
            break
        innermost = innermost.f_back
    return frames


def _awaited(waiting: Any) -> Iterator[FrameType]:
    """The frames of a coroutine that waits, and of the coroutines and generators that it waits for."""
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None)
        if frame is not None:
            yield frame
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)
