"""Processes that no zygote of ours waits for: zygotes themselves, bots that have lost theirs, and what the dead leave.

The supervisor is a child subreaper. When a zygote that is its child dies, the zygote's bots become its children, and it
reaps them. The bots of a zygote that an earlier supervisor had made go to init, or to whatever is a subreaper above:
then another process reaps them, and how they ended is read from the zombie, or from the kernel through the pidfd.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
from collections.abc import Callable, Iterable, Set
from multiprocessing import resource_tracker

import psutil

from botproc.reaper import Reaper, owner
from supervisor.background import Background
from supervisor.core.model import Exit, now_us
from supervisor.engine import pidfd
from supervisor.engine.descendants import Descendants
from supervisor.engine.process import RETRY_S, LocalProcess
from supervisor.engine.zygote_client import Zygote, lost_exit

log = logging.getLogger(__name__)

_REAPED_S = 0.01
_REAPED_TRIES = 200
"""How often, and at most how many times, it is looked whether a zombie has become our child."""


class Orphans:
    """The reaper of the supervisor's children, and the end of those that are nobody's."""

    def __init__(self, background: Background, on_end: Callable[[LocalProcess], None]) -> None:
        """`on_end` is called when a process has ended here."""
        self._background = background
        self._on_end = on_end
        self._reaper: Reaper[LocalProcess | Zygote] = Reaper(self._owner)
        self._died: list[LocalProcess | Zygote] = []
        """Reaped, and what they have left not ended yet."""
        # What our process had before it was this program, be it another supervisor: none of it is a dead bot's rest.
        self._reaper.spare(self._reaper.children())

    def open(self) -> None:
        """From now on children that end are reaped: not before it is known which run each of them is."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self.reap)

    def leave(self) -> None:
        """From here on the ends of bots are the next supervisor's to see."""
        for process in self._reaper.expected.values():
            if isinstance(process, LocalProcess):
                process.unwatch()

    def close(self) -> None:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGCHLD)
        self._reaper.close()
        for pid, key in self._reaper.expected.items():
            if isinstance(key, Zygote) and key.lost.is_set():
                # Its socket is closed a moment before it is gone; when we are, so is it. Unless it has but hung up.
                with contextlib.suppress(psutil.Error):
                    psutil.Process(pid).wait(pidfd.KILLED_S)

    @property
    def children(self) -> Set[int]:
        return self._reaper.children()

    @property
    def known_pids(self) -> Iterable[int]:
        """Processes of ours that have not ended."""
        return self._reaper.expected.keys()

    def expect(self, process: LocalProcess | Zygote) -> None:
        """The process is one of ours: should it come to us, it is no dead bot's rest."""
        self._reaper.expect(process.pid, process)
        if isinstance(process, Zygote):
            # Started by multiprocessing with the first zygote.
            self._reaper.spare({resource_tracker._resource_tracker._pid})  # type: ignore[attr-defined]

    def forget(self, process: LocalProcess) -> None:
        """The process was reaped, by us or by another. Its number may be another's by now."""
        if self._reaper.expected.get(process.pid) is process:
            self._reaper.forget(process.pid)

    # ---- those that lose their zygote

    def inherit(self, zygote: Zygote) -> None:
        """A zygote has died: its bots are ours to wait for."""
        orphans = [process for process in zygote.processes.values() if process.alive]
        if orphans:
            log.warning("the zygote of %s, pid %s, died; its %d bots run on", zygote.kind, zygote.pid, len(orphans))
        for process in orphans:
            if not zygote.is_child:
                process.descendants = Descendants()
            self.watch(process, zygote.pid)
        if zygote.is_child:
            self._sweep()
        else:
            # What its dead bots had left is init's now, and out of our sight.
            zygote.swept()

    def adopt(self, process: LocalProcess) -> None:
        """A process of an earlier supervisor, whose zygote is gone."""
        if process.pid not in self.children:
            process.descendants = Descendants()
        self.watch(process)

    def watch(self, process: LocalProcess, zygote_pid: int = 0) -> None:
        """Find out how the process ended, as soon as it has."""
        try:
            there = process.hold()
        except OSError as error:
            log.warning("cannot watch bot-%s, pid %s, for now: %s", process.bot_id, process.pid, error.strerror)
            asyncio.get_running_loop().call_later(RETRY_S, self.watch, process, zygote_pid)
            return
        if there:
            process.when_over(lambda: self._find_out(process, zygote_pid))
        elif process.alive:
            self._finish(process, lost_exit("it ended together with its zygote"))

    def _find_out(self, process: LocalProcess, zygote_pid: int, tries: int = 0) -> None:
        """How a process ended that no zygote waits for any more."""
        self.reap()
        if process.fd is None:
            return
        try:
            zombie = pidfd.zombie(process.identity)
        except OSError as error:
            log.warning("cannot see yet how bot-%s ended: %s", process.bot_id, error.strerror)
            asyncio.get_running_loop().call_later(RETRY_S, self._find_out, process, zygote_pid, tries)
            return
        if zombie is not None and zombie[0] in (os.getpid(), zygote_pid) and tries < _REAPED_TRIES:
            # On its way to us: a zygote that dies closes its socket a moment before it gives its children away.
            asyncio.get_running_loop().call_later(_REAPED_S, self._find_out, process, zygote_pid, tries + 1)
            return
        # Not our child: another reaps it, sooner or later. The kernel may still say how it ended.
        status = zombie[1] if zombie is not None else pidfd.exit_status(process.fd)
        if status is None:
            exit_ = lost_exit("its zygote was gone, so nobody could see how it ended")
        else:
            code = os.waitstatus_to_exitcode(status)
            exit_ = Exit(
                exit_code=code if code >= 0 else None,
                signal=-code if code < 0 else None,
                ended_at=now_us(),
                cpu_seconds=None,
                max_rss_bytes=None,
            )
        if process.descendants is None:
            self._finish(process, exit_)
        else:
            # What it has left did not come to us.
            self._finish(process, dataclasses.replace(exit_, swept=False))
            self._background.start(_end_descendants(process, process.descendants), name=f"sweep bot-{process.bot_id}")

    def _finish(self, process: LocalProcess, exit_: Exit) -> None:
        process.ended(exit_)
        self._on_end(process)

    # ---- children

    def _owner(self, pid: int) -> LocalProcess | Zygote | None:
        """The bot that has started this process, as far as that can be seen."""
        bots = (key for key in self._reaper.expected.values() if isinstance(key, LocalProcess))
        return owner(pid, {bot: (bot.pid, bot.run_id, str(bot.lock_path)) for bot in bots})

    def reap(self) -> None:
        """Some child of the supervisor has ended: a zygote, a bot that lost its own, or what one of them has left."""
        deaths = self._reaper.reap()
        for death in deaths:
            if isinstance(death.key, LocalProcess):
                exit_ = Exit(
                    exit_code=death.exit_code,
                    signal=death.signal,
                    ended_at=now_us(),
                    cpu_seconds=death.cpu_seconds,
                    max_rss_bytes=death.max_rss_bytes,
                    swept=False,
                )
                self._finish(death.key, exit_)
        self._died += [death.key for death in deaths]
        self._sweep()

    def _sweep(self) -> None:
        """End what the dead have left; once a dead zygote's last words are read, which may tell of another bot."""
        if any(isinstance(key, Zygote) and key.is_heard for key in self._died):
            return
        try:
            swept = self._reaper.sweep(self._died)
        except OSError as error:
            log.warning("cannot see yet what the dead have left: %s", error.strerror)
            asyncio.get_running_loop().call_later(RETRY_S, self._sweep)
            return
        self._died.clear()
        for key, killed in swept:
            if isinstance(key, Zygote):
                key.swept()
            else:
                key.swept(killed)


async def _end_descendants(process: LocalProcess, descendants: Descendants) -> None:
    killed = 0
    try:
        killed = await descendants.end()
    except OSError as error:
        log.warning("cannot end all that bot-%s had started: %s", process.bot_id, error.strerror)
    process.swept(killed)
