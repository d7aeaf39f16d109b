"""One process of a bot as the local engine knows it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from botproc import kernel, wire
from supervisor.core import errors
from supervisor.core.model import Exit, Identity, Raised, Usage
from supervisor.engine import crash_report, pidfd, usage
from supervisor.engine.descendants import Descendants
from supervisor.logs import Output

log = logging.getLogger(__name__)

RETRY_S = 0.1
"""Interval between tries of what failed as no descriptor was left."""


class LocalProcess:
    """A process that a zygote made. `acknowledge` is what to call when its end is in the ledger."""

    def __init__(
        self,
        bot_id: int,
        run_id: int,
        identity: Identity,
        lock_path: Path,
        output: Output,
        acknowledge: Callable[[int], None],
    ) -> None:
        self.bot_id = bot_id
        self.run_id = run_id
        self._identity = identity
        self.output = output
        self.lock_path = lock_path
        self._acknowledge = acknowledge
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[Exit] = loop.create_future()
        self._swept: asyncio.Future[Exit] = loop.create_future()
        self.fd: int | None = None
        # Held from here to the end: whatever becomes of the pid, this refers to our process. If no descriptor is left,
        # each verb tries again.
        with contextlib.suppress(OSError):
            self.hold()
        self._meter = usage.Meter(identity)
        self.over = False
        """It has ended, says the kernel; how, whoever reaps it has yet to tell."""
        self._on_over: Callable[[], None] = lambda: None
        self.out_of_memory: Callable[[], bool] = lambda: False
        """Whether the SIGKILL that just ended it was the kernel's, for want of memory. Set by the engine."""
        self.descendants: Descendants | None = None
        """Set by the engine where no process of ours will be handed what this one leaves."""
        self._killed = False

    @property
    def identity(self) -> Identity:
        return self._identity

    @property
    def log_start(self) -> int:
        return self.output.start

    @property
    def age_s(self) -> float:
        return kernel.age_s(self._identity.start_ticks) if self._identity.pid else 0.0

    @property
    def pid(self) -> int:
        return self._identity.pid

    @property
    def alive(self) -> bool:
        return not self._ended.done()

    async def wait(self) -> Exit:
        return await asyncio.shield(self._ended)

    async def sweep(self) -> Exit:
        return await asyncio.shield(self._swept)

    def hold(self) -> bool:
        """Open the pidfd, if it is not open yet. False when the process is gone. Raises OSError."""
        if self.fd is None and self.alive:
            self.fd = pidfd.open_process(self._identity)
        return self.fd is not None

    def when_over(self, call: Callable[[], None]) -> None:
        """Have this called once when the process has ended, in the place of what was to be called before."""
        self._on_over = call
        self._watch()

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            if self.hold():
                assert self.fd is not None
                loop.add_reader(self.fd, self._when_readable)
        except OSError as error:
            log.warning("cannot watch bot-%s, pid %s, for now: %s", self.bot_id, self.pid, error.strerror)
            loop.call_later(RETRY_S, self._watch)

    def _when_readable(self) -> None:
        # Level-triggered: left in place it would be called for ever.
        self.unwatch()
        self.over = True
        self._on_over()

    def unwatch(self) -> None:
        """Its end is not for us to see."""
        if self.fd is not None:
            asyncio.get_running_loop().remove_reader(self.fd)

    def terminate(self) -> None:
        self.output.dump_ends()
        self._look_for_descendants()
        # A stopped process takes its SIGTERM only when it wakes.
        self._send(signal.SIGTERM, signal.SIGCONT)

    def kill(self) -> None:
        self._killed = True
        self._look_for_descendants()
        self._send(signal.SIGKILL)

    def _send(self, *signums: int) -> None:
        """Send signals, as soon as there is a descriptor to do that with. Nothing happens when it has ended."""
        try:
            if self.hold():
                assert self.fd is not None
                for signum in signums:
                    pidfd.send(self.fd, signum)
        except PermissionError:
            log.warning("cannot signal bot-%s, pid %s: it is another user's", self.bot_id, self.pid)
        except OSError as error:
            log.warning("cannot signal bot-%s, pid %s, for now: %s", self.bot_id, self.pid, error.strerror)
            asyncio.get_running_loop().call_later(RETRY_S, self._send, *signums)

    def _look_for_descendants(self) -> None:
        # While it lives: afterwards nobody could say whose they were.
        if self.descendants is not None and self.fd is not None:
            self.descendants.look(self._identity.pid, self.fd)

    def signal(self, signum: int) -> None:
        try:
            sent = self.hold() and pidfd.send(cast(int, self.fd), signum)
        except OSError as error:
            raise errors.Unavailable(
                f"cannot signal bot {self.bot_id}, pid {self.pid}: {error.strerror}", bot_id=self.bot_id
            ) from error
        if not sent:
            raise ProcessLookupError

    def dump(self) -> None:
        self.output.dump_begins()
        self._send(kernel.DUMP_SIGNAL)

    def usage(self) -> Usage | None:
        return self._meter.read()

    def acknowledge(self) -> None:
        # Not before it is swept: who has been told to forget it has no more to say.
        self._swept.add_done_callback(lambda _: self._acknowledge(self.run_id))

    def ended(self, exit_: Exit) -> None:
        """Told by whoever has reaped it; again when nothing that it had started is left."""
        if not self._ended.done():
            words = self.output.last_words()
            # Now, since the file is the next run's as soon as that has begun.
            raised = crash_report.read(self.lock_path, self.run_id) if exit_.exit_code else None
            detail = exit_.detail
            if exit_.exit_code == wire.EXIT_UNUSABLE:
                detail = _why_unusable(raised, words.last_lines) or detail
                raised = None
            self._ended.set_result(
                dataclasses.replace(
                    exit_,
                    oom=exit_.signal == signal.SIGKILL and not self._killed and self.out_of_memory(),
                    detail=detail,
                    raised=raised,
                    log_end=words.log_end,
                    last_lines=words.last_lines,
                    stacks=words.stacks,
                )
            )
            if self.fd is not None:
                self.unwatch()
                os.close(self.fd)
                self.fd = None
            self._meter.close()
        if exit_.swept:
            self.swept(exit_.descendants_killed)

    def swept(self, killed: int) -> None:
        """Nothing that the process had started is left."""
        if not self._swept.done():
            before = self._ended.result()
            self._swept.set_result(dataclasses.replace(before, descendants_killed=killed, swept=True))


def _why_unusable(raised: Raised | None, last_lines: Sequence[str]) -> str:
    """What the bot has said of why it cannot be set up: in its lock file, else in its log."""
    if raised is not None:
        return raised.message
    return last_lines[-1].partition(" cannot be set up: ")[2] if last_lines else ""
