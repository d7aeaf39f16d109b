"""One process of a bot as the local engine knows it."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path

from botproc import kernel
from supervisor.core.model import Exit, Identity, Usage
from supervisor.engine import crash_report, pidfd, usage
from supervisor.engine.descendants import Descendants
from supervisor.logs import Output


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
        self._lock_path = lock_path
        self._acknowledge = acknowledge
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[Exit] = loop.create_future()
        self._swept: asyncio.Future[Exit] = loop.create_future()
        # Held from here to the end: whatever becomes of the pid, this refers to our process.
        self.fd = pidfd.open_process(identity)
        self._meter = usage.Meter(identity)
        self.over = False
        """It has ended, says the kernel; how, whoever reaps it has yet to tell."""
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

    def when_over(self, call: Callable[[], None]) -> None:
        """Have this called once when the process has ended, in the place of what was to be called before."""

        def over() -> None:
            # Level-triggered: left in place it would be called for ever.
            self.unwatch()
            self.over = True
            call()

        if self.fd is not None:
            asyncio.get_running_loop().add_reader(self.fd, over)

    def unwatch(self) -> None:
        """Its end is not for us to see."""
        if self.fd is not None:
            asyncio.get_running_loop().remove_reader(self.fd)

    def terminate(self) -> None:
        self.output.dump_ends()
        self._look_for_descendants()
        if self.fd is not None and pidfd.send(self.fd, signal.SIGTERM):
            # A stopped process takes its SIGTERM only when it wakes.
            pidfd.send(self.fd, signal.SIGCONT)

    def kill(self) -> None:
        self._killed = True
        self._look_for_descendants()
        if self.fd is not None:
            pidfd.send(self.fd, signal.SIGKILL)

    def _look_for_descendants(self) -> None:
        # While it lives: afterwards nobody could say whose they were.
        if self.descendants is not None and self.fd is not None:
            self.descendants.look(self._identity.pid, self.fd)

    def signal(self, signum: int) -> None:
        if self.fd is None or not pidfd.send(self.fd, signum):
            raise ProcessLookupError

    def dump(self) -> None:
        self.output.dump_begins()
        if self.fd is not None:
            pidfd.send(self.fd, kernel.DUMP_SIGNAL)

    def usage(self) -> Usage | None:
        return self._meter.read()

    def acknowledge(self) -> None:
        # Not before it is swept: who has been told to forget it has no more to say.
        self._swept.add_done_callback(lambda _: self._acknowledge(self.run_id))

    def ended(self, exit_: Exit) -> None:
        """Told by whoever has reaped it; again when nothing that it had started is left."""
        if not self._ended.done():
            if exit_.exit_code:
                # Now, since the file is the next run's as soon as that has begun.
                exit_ = dataclasses.replace(exit_, raised=crash_report.read(self._lock_path, self.run_id))
            if exit_.signal == signal.SIGKILL and not self._killed and self.out_of_memory():
                exit_ = dataclasses.replace(exit_, oom=True)
            words = self.output.last_words()
            exit_ = dataclasses.replace(exit_, log_end=words.log_end, last_lines=words.last_lines, stacks=words.stacks)
            self._ended.set_result(exit_)
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
