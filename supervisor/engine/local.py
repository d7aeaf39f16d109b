"""The engine of this machine: a slot with a zygote for each kind, and what becomes of processes without one."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
from collections.abc import Collection, Iterator, Mapping
from multiprocessing import resource_tracker
from pathlib import Path

from botproc import kernel, wire
from supervisor import settings
from supervisor.background import Background
from supervisor.core import errors, params
from supervisor.core.model import Exit, Params, Run, now_us
from supervisor.engine import cgroups, oom, pidfd
from supervisor.engine.locks import Locks
from supervisor.engine.notifications import Notifications
from supervisor.engine.orphans import Orphans
from supervisor.engine.process import RETRY_S, LocalProcess
from supervisor.engine.protocol import KindParams, KindStatus, OnNotify, Order, Process
from supervisor.engine.slot import Slot
from supervisor.engine.zygote_client import Listener, Zygote, fingerprint
from supervisor.logs import BotLogs

log = logging.getLogger(__name__)

_HALF_MADE_TRIES = 10
_HELLO_S = 3.0
"""Timeout for a zygote of an earlier supervisor to name its bots; one with bots answers at once."""


class LocalEngine:
    """Processes of this machine. Made by `open`; all of it runs in the event loop's thread."""

    def __init__(
        self,
        data_dir: Path,
        kinds: Mapping[str, settings.Kind],
        on_notify: OnNotify,
        logs: BotLogs,
        *,
        zygote_idle_s: float | None = None,
        without_supervisor_s: float | None = None,
    ) -> None:
        """`zygote_idle_s`: how long a zygote without bots is kept; `without_supervisor_s`: how long bots are when no
        supervisor is there; None: for ever."""
        self._data_dir = data_dir
        self._run_dir = data_dir / "run"
        self._logs = logs
        self._kind_log_dir = data_dir / "kinds"
        lock_dir = self._run_dir / "locks"
        for directory in (self._run_dir, lock_dir, self._kind_log_dir):
            directory.mkdir(mode=0o700, exist_ok=True)
        self._locks = Locks(lock_dir)
        self._kinds = kinds
        self._zygote_idle_s = zygote_idle_s
        self._without_supervisor_s = without_supervisor_s
        self._slots: dict[str, Slot] = {}
        self._background = Background()
        self._orphans = Orphans(self._background, self._on_end)
        self._notifications = Notifications(self._run_dir, on_notify)
        self._groups = cgroups.Groups()
        self._oom = oom.Oom(oom.counter())
        self._listener = Listener(
            lock_path=self._locks.path,
            output=self._logs.output,
            born=self._know,
            ended=self._on_end,
            lost=self._on_lost,
        )

    # ---- life

    async def open(self) -> None:
        """Find the zygotes of an earlier supervisor, with the bots that they have. Raises SettingsRefused."""
        try:
            await self._open()
        except OSError as error:
            raise errors.SettingsRefused(
                f"cannot use {error.filename or self._run_dir}: {error.strerror};"
                f" start the supervisor as the user to whom {self._data_dir} belongs, or clear the way"
            ) from error

    async def _open(self) -> None:
        kernel.become_subreaper()
        # Read once, and here: later there may be no descriptor for it.
        pidfd.boot_id()
        self._notifications.open()
        for kind, spec in self._kinds.items():
            self._slot(kind).set_spec(spec, is_same=True)
        paths = [path for path in self._run_dir.glob("*.sock") if path.name != "notify.sock" and _is_only_here(path)]
        # Of two of a kind that was imported again, the later one has the code of now.
        paths.sort(key=lambda path: path.stat().st_mtime_ns)
        newest = {path.name.rsplit(".", 2)[0]: path for path in paths}
        await asyncio.gather(*(self._find(path, path in newest.values()) for path in paths))
        for kind in self._kinds:
            if self._slots[kind].is_empty:
                self._slots[kind].warm_up()
        # As late as this, since of a child that ends sooner nobody knows yet which run it was.
        self._orphans.open()

    async def close(self, *, leave: bool = False) -> None:
        """Let the zygotes leave, and wait until they are gone. Bots are not touched: to be stopped before.

        A zygote whose bot would not die stays with it: it tells the next supervisor how that ended after all. With
        `leave` all of them stay as they are, for the next supervisor.
        """
        for slot in self._slots.values():
            slot.close()
        connected = [zygote for zygote in self._zygotes() if not zygote.lost.is_set()]
        if not leave:
            await _dismiss(connected)
        self._orphans.leave()
        self._notifications.close()
        await self._background.close()
        for zygote in connected:
            zygote.close()
        self._orphans.close()
        self._oom.close()
        # multiprocessing keeps one helper process for all its spawned ones. It ends with us, not some time after.
        with contextlib.suppress(ChildProcessError):
            resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]

    # ---- the engine's verbs

    async def warm(self, kind: str) -> KindParams:
        hello = await self._slot(kind).hello()
        return KindParams(params=hello.params, schema=hello.schema)

    async def check(self, kind: str, given: Params) -> Params:
        slot = self._slot(kind)
        hello = await slot.hello()
        if hello.schema is None:
            return params.check(kind, hello.params, given)
        if hello.start_method != "fork":
            # The model is where the kind is imported, and that is in the bots alone.
            return given
        zygote = await slot.warm_zygote()
        if found := await zygote.check(given):
            raise params.refused(kind, found, given, hello.schema.get("properties", {}))
        return given

    def set_kinds(self, kinds: Mapping[str, settings.Kind]) -> None:
        before, self._kinds = self._kinds, kinds
        for kind in before.keys() | kinds.keys():
            old, new = before.get(kind), kinds.get(kind)
            is_same = bool(old and new and self._fingerprint(kind, old) == self._fingerprint(kind, new))
            slot = self._slot(kind)
            slot.set_spec(new, is_same=is_same)
            if new is not None and not is_same:
                slot.warm_up()
        self._slots = {kind: slot for kind, slot in self._slots.items() if slot.is_needed}

    async def reload(self, kind: str) -> None:
        await self._slot(kind).reload()

    async def spawn(self, order: Order) -> LocalProcess:
        zygote = await self._slot(order.kind).warm_zygote()
        self._oom.look()
        try:
            cgroup = self._groups.make(order.bot_id, order.limits, self._our_pids)
        except OSError as error:
            raise errors.SpawnFailed(f"cannot make the control group of the bot: {error.strerror}") from error
        spawn = wire.Spawn(
            run_id=order.run_id,
            bot_id=order.bot_id,
            name=order.name,
            labels=dict(order.labels),
            params=dict(order.params),
            log_path=str(self._logs.path(order.bot_id)),
            log_start=self._logs.follow(order.bot_id),
            lock_path=str(self._locks.path(order.bot_id)),
            data_dir=str(self._data_dir / "bots" / str(order.bot_id)),
            grace_s=order.grace_s,
            limits=dataclasses.asdict(order.limits),
            cgroup=cgroup,
        )
        with self._notifications.held(order.run_id):
            try:
                process = await zygote.fork(spawn)
            except errors.SpawnFailed:
                if zygote.lost.is_set():
                    await self._end_half_made(zygote, order.bot_id)
                raise
            self._notifications.deliver(process)
        return process

    def adopt(self, run: Run) -> Process | None:
        for zygote in self._zygotes():
            if (process := zygote.processes.get(run.run_id)) is not None:
                if run.identity is not None:
                    # Of an older zygote, that did not know it.
                    process.output.start = run.log_start
                return self._followed(process)
        # One whose pid never reached the ledger may hold its bot's lock.
        identity = run.identity or self._locks.holder(run.bot_id, run.run_id)
        if identity is None:
            return None
        # One that waits to be reaped has nothing open any more, and nothing can be done to it: only its end is read.
        is_of_here = self._locks.is_of(identity.pid, run.bot_id, self._logs.path(run.bot_id))
        if not is_of_here and pidfd.zombie(identity) is None:
            # Gone; or it is of the directory that this one is a copy of, and a bot of the supervisor there.
            return None
        output = self._logs.output(run.bot_id, run.log_start)
        process = LocalProcess(run.bot_id, run.run_id, identity, self._locks.path(run.bot_id), output, lambda _: None)
        if not process.hold():
            return None
        self._know(process)
        self._orphans.adopt(process)
        return self._followed(process)

    def _followed(self, process: LocalProcess) -> LocalProcess:
        """What it writes from now on is printed."""
        self._logs.follow(process.bot_id)
        return process

    def lost(self, run: Run) -> Exit:
        words = self._logs.output(run.bot_id, run.log_start).last_words()
        return Exit(
            exit_code=None,
            signal=None,
            ended_at=now_us(),
            cpu_seconds=None,
            max_rss_bytes=None,
            log_end=words.log_end,
            last_lines=words.last_lines,
        )

    def disown(self, claimed: Collection[int]) -> None:
        for zygote in self._zygotes():
            for run_id in zygote.processes.keys() - claimed:
                zygote.processes[run_id].kill()
                zygote.processes[run_id].acknowledge()

    def kind_status(self, kind: str) -> KindStatus:
        status = self._slot(kind).status()
        if (spec := self._kinds.get(kind)) is None:
            return status
        return dataclasses.replace(status, limits_note=self._groups.note(spec.default_limits))

    def forget(self, bot_id: int) -> None:
        self._logs.leave(bot_id)
        self._groups.remove(bot_id)
        self._locks.remove(bot_id)

    # ---- slots and zygotes

    def _slot(self, kind: str) -> Slot:
        """The slot of a kind. One that nobody knows gets an empty slot, which says so."""
        slot = self._slots.get(kind)
        if slot is None:
            log_path = self._kind_log_dir / f"{kind}.log"
            slot = Slot(kind, self._make_zygote, self._background, self._zygote_idle_s, log_path)
            slot.set_spec(self._kinds.get(kind), is_same=True)
            self._slots[kind] = slot
        return slot

    def _zygotes(self) -> Iterator[Zygote]:
        return (zygote for slot in self._slots.values() for zygote in slot)

    def _our_pids(self) -> set[int]:
        return {os.getpid(), *(zygote.pid for zygote in self._zygotes()), *self._orphans.known_pids}

    async def _make_zygote(self, kind: str, spec: settings.Kind, described: wire.Hello | None) -> Zygote:
        """A new zygote, connected to. Raises SpawnFailed."""
        zygote = Zygote.start(
            wire.ZygoteSpec(
                kind=kind,
                target=spec.target or "",
                command=spec.command or (),
                params=dict(spec.params),
                preload=tuple(spec.preload),
                path=tuple(str(path) for path in spec.path),
                env=dict(spec.env),
                cwd=str(spec.cwd) if spec.cwd else None,
                run_dir=str(self._run_dir),
                socket_name=Zygote.socket_name(self._fingerprint(kind, spec)),
                log_path=str(self._kind_log_dir / f"{kind}.log"),
                notify_address=self._notifications.address,
                secrets_dir=str(self._data_dir / "secrets"),
                ready_at_start=spec.ready == "start",
                heartbeat_s=spec.heartbeat_s,
                without_supervisor_s=self._without_supervisor_s,
                described=described,
            ),
            self._listener,
        )
        self._orphans.expect(zygote)
        try:
            await zygote.connect_when_up()
        except (errors.SpawnFailed, asyncio.CancelledError):
            zygote.kill()
            zygote.lose()
            raise
        return zygote

    def _fingerprint(self, kind: str, spec: settings.Kind) -> str:
        return fingerprint(kind, spec, self._without_supervisor_s)

    async def _find(self, path: Path, is_newest: bool) -> None:
        """A zygote of an earlier supervisor, by its socket."""
        kind = path.name.rsplit(".", 3)[0]
        zygote = Zygote(kind, path, self._listener)
        try:
            await zygote.connect()
        except (ConnectionError, FileNotFoundError, ProcessLookupError):
            path.unlink(missing_ok=True)  # noqa: ASYNC240 (a local file)
            return
        if zygote.pid in self._orphans.children:
            # That supervisor was this very process, before it was replaced.
            zygote.is_child = True
            self._orphans.expect(zygote)
        spec = self._kinds.get(kind)
        slot = self._slot(kind)
        is_of_now = spec is not None and path.name.startswith(self._fingerprint(kind, spec))
        slot.take(zygote, is_current=is_newest and is_of_now)
        try:
            async with asyncio.timeout(_HELLO_S):
                await asyncio.shield(zygote.hello)
        except (TimeoutError, errors.SpawnFailed):
            # Were it left alone, it could still do what the earlier supervisor had asked for. Its bots run on.
            log.warning("the zygote of %s, pid %s, of an earlier supervisor does not answer: SIGKILL", kind, zygote.pid)
            zygote.kill()
            zygote.lose()
            slot.drop(zygote)

    def _on_lost(self, zygote: Zygote) -> None:
        self._orphans.inherit(zygote)
        if (slot := self._slots.get(zygote.kind)) is not None:
            slot.lost(zygote)
            if not slot.is_needed:
                del self._slots[zygote.kind]

    # ---- processes

    def _know(self, process: LocalProcess) -> None:
        """From here on it is reaped, should its zygote die, and heard when it notifies."""
        process.out_of_memory = lambda: self._oom.killed(self._groups.directory(process.bot_id))
        self._orphans.expect(process)
        self._notifications.know(process)

    def _on_end(self, process: LocalProcess, zygote: Zygote | None = None) -> None:
        self._orphans.forget(process)
        self._notifications.forget(process)
        if zygote is not None and (slot := self._slots.get(zygote.kind)) is not None:
            slot.rest_when_idle(zygote)

    async def _end_half_made(self, zygote: Zygote, bot_id: int) -> None:
        """A zygote died between fork and answer: what it had made must not run on unknown, nor beside the next.

        A bot leaves the zygote's session when it has its lock: one that is not seen there, as it is about to leave, is
        found by the lock.
        """
        for _ in range(_HALF_MADE_TRIES):
            try:
                await zygote.end_session()
                identity = self._locks.holder(bot_id)
                holder = pidfd.open_process(identity) if identity else None
                if holder is not None:
                    await pidfd.kill(holder)
                return
            except OSError as error:
                # No descriptor is left. The lock still keeps two of them apart.
                log.warning("cannot end what the zygote of %s had half made: %s", zygote.kind, error.strerror)
            await asyncio.sleep(RETRY_S)


def _is_only_here(path: Path) -> bool:
    """Whether the socket has no second name, as in a copy of a data directory that was made with hard links: to connect
    would take the zygote from the supervisor there."""
    if path.stat().st_nlink == 1:
        return True
    log.warning("%s has another name elsewhere, and is not used: is this a copy of a data directory?", path)
    return False


async def _dismiss(zygotes: Collection[Zygote]) -> None:
    """Let zygotes leave, and make them; except those that have bots."""
    for zygote in zygotes:
        zygote.quit()
    alive = [zygote for zygote in zygotes if not zygote.has_bots]
    try:
        async with asyncio.timeout(1):
            await asyncio.gather(*(zygote.lost.wait() for zygote in alive))
    except TimeoutError:
        for zygote in alive:
            # One that imports, or is stuck.
            zygote.kill()
            zygote.lose()
