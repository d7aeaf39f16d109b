"""The engine of this machine: a zygote for each kind, and a reaper for what zygotes leave behind."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
from collections.abc import Collection, Mapping
from multiprocessing import resource_tracker
from pathlib import Path

import psutil

from botproc import kernel, wire
from botproc.reaper import Reaper
from supervisor import logs, settings
from supervisor.core import errors, params
from supervisor.core.model import Exit, Params, Run, now_us
from supervisor.engine import cgroups, oom, pidfd, zygote_client
from supervisor.engine.descendants import Descendants
from supervisor.engine.locks import Locks
from supervisor.engine.notifications import Notifications
from supervisor.engine.process import LocalProcess
from supervisor.engine.protocol import KindParams, KindStatus, OnNotify, Order, Process

log = logging.getLogger(__name__)

_HELLO_S = 3.0
"""How long a zygote of an earlier supervisor has to name its bots; one with bots answers at once."""

_REST = 10
"""A zygote is made again by itself when it is at least so many times as old as its making took."""

_SILENT_S = 1.0
_SILENT_TRIES = 4
"""A zygote that owes us something and says nothing at all for so long is stopped or stuck."""

_REAPED_S = 0.01
_REAPED_TRIES = 200


class LocalEngine:
    """Processes of this machine. Made by `open`; all of it runs in the event loop's thread."""

    def __init__(
        self,
        data_dir: Path,
        kinds: Mapping[str, settings.Kind],
        on_notify: OnNotify,
        *,
        zygote_idle_s: float | None = None,
        without_supervisor_s: float | None = None,
    ) -> None:
        """`zygote_idle_s`: how long a zygote without bots is kept; `without_supervisor_s`: how long bots are when no
        supervisor is there; None: for ever."""
        self._data_dir = data_dir
        self._run_dir = data_dir / "run"
        self.log_dir = data_dir / "logs"
        self._kind_log_dir = data_dir / "kinds"
        for directory in (self._run_dir, self.log_dir, self._kind_log_dir):
            directory.mkdir(mode=0o700, exist_ok=True)
        self._locks = Locks(self._run_dir / "locks")
        self._kinds = kinds
        self._on_notify = on_notify
        self._zygote_idle_s = zygote_idle_s
        self._without_supervisor_s = without_supervisor_s
        self._known: dict[str, wire.Hello] = {}
        """What was found in a kind when it was last imported; also while it has no zygote."""
        self._resting: set[str] = set()
        self._changed: set[str] = set()
        """Kinds of which the settings say something new, that has not been imported yet."""
        self._zygotes: dict[str, zygote_client.Zygote] = {}
        self._retired: list[zygote_client.Zygote] = []
        self._making: dict[str, asyncio.Task[zygote_client.Zygote]] = {}
        self._watches: set[asyncio.Task[None]] = set()
        self._insisting: set[zygote_client.Zygote] = set()
        self._reaper: Reaper[int | zygote_client.Zygote] = Reaper()
        self._died: list[int | zygote_client.Zygote] = []
        """Reaped, and what they have left not ended yet."""
        self._by_pid: dict[int, LocalProcess] = {}
        self._orphans: dict[int, LocalProcess] = {}
        self._groups = cgroups.Groups()
        self._oom = oom.Oom(oom.counter())
        self._forking: set[int] = set()
        """The runs whose processes are being made."""
        self._early: dict[int, list[Mapping[str, str]]] = {}
        self._closing = False

    # ---- life

    async def open(self) -> None:
        """Finds the zygotes of an earlier supervisor, with the bots that they have. Raises OSError."""
        kernel.become_subreaper()
        # What our process had before it was this program, be it another supervisor: none of it is a dead bot's rest.
        self._reaper.spare(self._reaper.children())
        self._notifications = Notifications(self._run_dir, self._receive)
        paths = [path for path in self._run_dir.glob("*.sock") if path.name != "notify.sock"]
        # Of two of a kind that was imported again, the later one has the code of now.
        paths.sort(key=lambda path: path.stat().st_mtime_ns)
        newest = {path.name.rsplit(".", 2)[0]: path for path in paths}
        await asyncio.gather(*(self._find(path, path in newest.values()) for path in paths))
        for kind in self._kinds.keys() - self._zygotes.keys():
            self._warm_up(kind)
        # As late as this, since of a child that ends sooner nobody knows yet which run it was.
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._on_child)

    async def close(self, *, leave: bool = False) -> None:
        """Lets the zygotes leave, and waits until they are gone. Bots are not touched: to be stopped before.

        A zygote whose bot would not die stays with it: it tells the next supervisor how that ended after all. With
        `leave` all of them stay as they are, for the next supervisor.
        """
        self._closing = True
        for making in self._making.values():
            making.cancel()
        connected = [z for z in (*self._zygotes.values(), *self._retired) if not z.lost.is_set()]
        if not leave:
            await self._dismiss(connected)
        for process in self._by_pid.values():
            # From here on their ends are the next supervisor's to see.
            if process.fd is not None:
                asyncio.get_running_loop().remove_reader(process.fd)
        for task in list(self._watches):
            task.cancel()
        for zygote in connected:
            zygote.close()
        await asyncio.gather(*self._watches, return_exceptions=True)
        self._notifications.close()
        self._reaper.close()
        self._oom.close()
        asyncio.get_running_loop().remove_signal_handler(signal.SIGCHLD)
        for pid, key in self._reaper.expected.items():
            if isinstance(key, zygote_client.Zygote) and key.lost.is_set():
                # Its socket is closed a moment before it is gone; when we are, so is it. Unless it has but hung up.
                with contextlib.suppress(psutil.Error):
                    psutil.Process(pid).wait(pidfd.KILLED_S)
        # multiprocessing keeps one helper process for all its spawned ones. It ends with us, not some time after.
        with contextlib.suppress(ChildProcessError):
            resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]

    async def _dismiss(self, connected: Collection[zygote_client.Zygote]) -> None:
        """Lets zygotes leave, and makes them; but for those that have bots."""
        for zygote in connected:
            zygote.quit()
        alive = [zygote for zygote in connected if not zygote.has_bots]
        try:
            async with asyncio.timeout(1):
                await asyncio.gather(*(zygote.lost.wait() for zygote in alive))
        except TimeoutError:
            for zygote in alive:
                # One that imports, or is stuck.
                zygote.kill()
                zygote.lose()

    # ---- the engine's verbs

    async def warm(self, kind: str) -> KindParams:
        hello = await self._hello(kind)
        return KindParams(params=hello.params, schema=hello.schema)

    async def check(self, kind: str, given: Params) -> Params:
        hello = await self._hello(kind)
        if hello.schema is None:
            return params.check(kind, hello.params, given)
        zygote = self._zygotes[kind]
        if hello.start_method != "fork":
            # The model is where the kind is imported, and that is in the bots alone.
            return given
        checking = zygote.check(given)
        self._insist(zygote)
        if found := await checking:
            raise params.refused(kind, found)
        return given

    def set_kinds(self, kinds: Mapping[str, settings.Kind]) -> None:
        before, self._kinds = self._kinds, kinds
        same = {
            kind
            for kind in before.keys() & kinds.keys()
            if self._fingerprint(kind, before[kind]) == self._fingerprint(kind, kinds[kind])
        }
        for kind in before.keys() - same:
            self._known.pop(kind, None)
            self._resting.discard(kind)
            if (making := self._making.get(kind)) is not None:
                making.cancel()
            if kind in self._zygotes:
                self._retire(self._zygotes[kind])
        self._changed = set(kinds.keys() - same)
        for kind in self._changed:
            self._warm_up(kind)

    async def reload(self, kind: str) -> None:
        zygote = await self._begin(kind)
        self._retired.append(zygote)
        try:
            await self._connect(zygote)
            self._start_watch(zygote)
            hello = await asyncio.shield(zygote.hello)
            if hello.error:
                raise errors.SpawnFailed(_import_failed(kind, hello.error), permanent=True)
        except (errors.SpawnFailed, asyncio.CancelledError):
            zygote.kill()
            raise
        if kind in self._zygotes:
            self._retire(self._zygotes[kind])
        self._retired.remove(zygote)
        self._zygotes[kind] = zygote
        # Of one whose imports start threads, what can make its bots.
        await self._hello(kind)

    def _retire(self, zygote: zygote_client.Zygote) -> None:
        """From now on it makes no bot; it leaves with the last that it has."""
        del self._zygotes[zygote.kind]
        if not zygote.lost.is_set():
            self._retired.append(zygote)
            zygote.quit()

    async def _hello(self, kind: str) -> wire.Hello:
        while True:
            zygote = await self._zygote(kind)
            hello = await asyncio.shield(zygote.hello)
            if hello.error:
                raise errors.SpawnFailed(_import_failed(kind, hello.error), permanent=True)
            if not _has_threads(hello):
                self._known[kind] = hello
                self._changed.discard(kind)
                self._rest_when_idle(zygote)
                return hello

    def _rest_when_idle(self, zygote: zygote_client.Zygote) -> None:
        """One that had no bot for a time can leave, and returns on demand."""
        if self._zygote_idle_s is None or zygote.has_bots or self._closing:
            return

        def rest(forks: int) -> None:
            current = self._zygotes.get(zygote.kind) is zygote
            if current and zygote.forks == forks and not zygote.has_bots and not self._closing:
                self._resting.add(zygote.kind)
                self._retire(zygote)

        asyncio.get_running_loop().call_later(self._zygote_idle_s, rest, zygote.forks)

    async def spawn(self, order: Order) -> LocalProcess:
        if order.kind in self._changed:
            # It was warm a moment ago, and the settings were read again since.
            await self._hello(order.kind)
        zygote = self._zygotes.get(order.kind)
        if zygote is None:
            raise errors.SpawnFailed(f"the zygote of {order.kind} has ended")
        self._oom.look()
        spawn = wire.Spawn(
            run_id=order.run_id,
            bot_id=order.bot_id,
            name=order.name,
            labels=dict(order.labels),
            params=dict(order.params),
            log_path=str(logs.log_path(self.log_dir, order.bot_id)),
            lock_path=str(self._locks.path(order.bot_id)),
            data_dir=str(self._data_dir / "bots" / str(order.bot_id)),
            grace_s=order.grace_s,
            limits=dataclasses.asdict(order.limits),
            cgroup=self._groups.make(order.bot_id, order.limits, self._our_pids),
        )
        self._forking.add(order.run_id)
        try:
            self._insist(zygote)
            process = await zygote.fork(spawn)
            for values in self._early.pop(process.identity.pid, ()):
                self._on_notify(process.bot_id, process.run_id, values)
        except errors.SpawnFailed:
            if zygote.lost.is_set():
                await self._end_half_made(zygote, order.bot_id)
            raise
        finally:
            self._forking.remove(order.run_id)
            if not self._forking:
                self._early.clear()
        return process

    def adopt(self, run: Run) -> Process | None:
        for zygote in (*self._zygotes.values(), *self._retired):
            if (process := zygote.processes.get(run.run_id)) is not None:
                return process
        # One whose pid never reached the ledger may hold its bot's lock.
        identity = run.identity or self._locks.holder(run.bot_id, run.run_id)
        if identity is None:
            return None
        process = LocalProcess(run.bot_id, run.run_id, identity, self._locks.path(run.bot_id), lambda _: None)
        if process.fd is None:
            return None
        if identity.pid not in self._reaper.children():
            process.descendants = Descendants()
        self._know(process)
        return process

    def disown(self, claimed: Collection[int]) -> None:
        for zygote in (*self._zygotes.values(), *self._retired):
            for run_id in zygote.processes.keys() - claimed:
                zygote.processes[run_id].kill()
                zygote.processes[run_id].acknowledge()

    def kind_status(self, kind: str) -> KindStatus:
        zygote = self._zygotes.get(kind)
        hello = None
        reason = "no zygote yet"
        if kind in self._resting:
            reason = f"retired: no bot for {self._zygote_idle_s:g} s; it returns on demand"
        rss = None
        if zygote is not None:
            reason = "importing"
            if zygote.hello.done():
                if error := zygote.hello.exception():
                    reason = str(error)
                else:
                    hello = zygote.hello.result()
                    reason = _import_failed(kind, hello.error) if hello.error else "warm"
                    if hello.start_method == "spawn":
                        reason = "warm; its imports start threads, so each bot is a fresh interpreter"
            try:
                rss = psutil.Process(zygote.pid).memory_info().rss
            except psutil.NoSuchProcess:
                zygote = None
        warm = hello is not None and not hello.error
        if warm and (zygote is None or zygote.lost.is_set()):
            warm, reason = False, "its zygote has ended"
        known = hello if warm else self._known.get(kind)
        return KindStatus(
            warm=warm,
            reason=reason,
            description=known.description if known else "",
            params=known.params if known else None,
            schema=known.schema if known else None,
            start_method=known.start_method if known else "",
            limits_note=self._groups.note(self._kinds[kind].default_limits) if kind in self._kinds else "",
            pid=zygote.pid if zygote else None,
            import_s=hello.import_s if hello else None,
            rss_bytes=rss,
        )

    def forget(self, bot_id: int) -> None:
        self._groups.remove(bot_id)
        self._locks.remove(bot_id)

    # ---- zygotes

    async def _zygote(self, kind: str) -> zygote_client.Zygote:
        zygote = self._zygotes.get(kind)
        if zygote is not None and not zygote.lost.is_set():
            if not zygote.hello.done():
                if kind in self._making or kind not in self._kinds or zygote.age_s < self._kinds[kind].start_timeout_s:
                    return zygote
                log.warning("the kind %s hangs in its import: SIGKILL for its zygote, pid %s", kind, zygote.pid)
                zygote.kill()
                zygote.lose()
            else:
                broken = zygote.hello.exception() or zygote.hello.result().error
                if not broken and not _has_threads(zygote.hello.result()):
                    return zygote
        making = self._making.get(kind)
        if making is None:
            making = self._making[kind] = asyncio.create_task(self._make(kind))
            making.add_done_callback(lambda task: (self._making.pop(kind, None), task.cancelled() or task.exception()))
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            if not making.cancelled():
                raise
            raise errors.SpawnFailed(f"the zygote of {kind} is given up: the kind has changed, or we end") from None

    async def _make(self, kind: str) -> zygote_client.Zygote:
        described = None
        before = self._zygotes.get(kind)
        if before is not None and before.hello.done() and not before.hello.exception():
            hello = before.hello.result()
            if _has_threads(hello):
                described = hello
                self._retire(before)
        zygote = self._zygotes[kind] = await self._begin(kind, described)
        self._resting.discard(kind)
        try:
            await self._connect(zygote)
        except (errors.SpawnFailed, asyncio.CancelledError):
            zygote.kill()
            zygote.lose()
            raise
        self._start_watch(zygote)
        return zygote

    async def _begin(self, kind: str, described: wire.Hello | None = None) -> zygote_client.Zygote:
        """A new zygote, which nobody uses yet. Raises SpawnFailed."""
        spec = self._kinds.get(kind)
        if spec is None:
            raise errors.SpawnFailed(f"there is no kind {kind!r} in the settings", permanent=True)
        if self._closing:
            # Nobody would end it.
            raise errors.SpawnFailed(f"there is no new zygote of {kind}: the supervisor ends")
        zygote_spec = wire.ZygoteSpec(
            kind=kind,
            target=spec.target or "",
            command=spec.command or (),
            params=dict(spec.params),
            preload=tuple(spec.preload),
            path=tuple(str(path) for path in spec.path),
            env=dict(spec.env),
            cwd=str(spec.cwd) if spec.cwd else None,
            run_dir=str(self._run_dir),
            socket_name=zygote_client.Zygote.socket_name(self._fingerprint(kind, spec)),
            log_path=str(self._kind_log_dir / f"{kind}.log"),
            notify_address=self._notifications.address,
            secrets_dir=str(self._data_dir / "secrets"),
            ready_at_start=spec.ready == "start",
            heartbeat_s=spec.heartbeat_s,
            without_supervisor_s=self._without_supervisor_s,
            described=described,
        )
        zygote = await zygote_client.Zygote.make(zygote_spec, self._locks.path, self._know, self._on_end)
        self._reaper.expect(zygote.pid, zygote)
        # Started by multiprocessing with the first zygote.
        self._reaper.spare({resource_tracker._resource_tracker._pid})  # type: ignore[attr-defined]
        return zygote

    def _fingerprint(self, kind: str, spec: settings.Kind) -> str:
        return zygote_client.fingerprint(kind, spec, self._without_supervisor_s)

    async def _connect(self, zygote: zygote_client.Zygote) -> None:
        while True:
            try:
                return await zygote.connect()
            except (FileNotFoundError, ConnectionRefusedError):
                # It listens within some 30 ms, before it imports anything of the kind.
                if not zygote.exists:
                    raise errors.SpawnFailed(f"the zygote of {zygote.kind} ended at once") from None
                await asyncio.sleep(0.005)
            except OSError as error:
                raise errors.SpawnFailed(f"cannot reach the zygote of {zygote.kind}: {error.strerror}") from error

    async def _find(self, path: Path, is_newest: bool) -> None:
        """A zygote of an earlier supervisor, by its socket."""
        kind = path.name.rsplit(".", 3)[0]
        zygote = zygote_client.Zygote(kind, path, self._locks.path, self._know, self._on_end)
        try:
            await zygote.connect()
        except (ConnectionError, FileNotFoundError, ProcessLookupError):
            path.unlink(missing_ok=True)  # noqa: ASYNC240 (a local file)
            return
        if zygote.pid in self._reaper.children():
            # That supervisor was this very process, before it was replaced.
            zygote.is_child = True
            self._reaper.expect(zygote.pid, zygote)
        spec = self._kinds.get(kind)
        current = is_newest and spec is not None and path.name.startswith(self._fingerprint(kind, spec))
        if current and kind not in self._zygotes:
            self._zygotes[kind] = zygote
        else:
            self._retired.append(zygote)
            zygote.quit()
        try:
            async with asyncio.timeout(_HELLO_S):
                await asyncio.shield(zygote.hello)
        except (TimeoutError, errors.SpawnFailed):
            # Were it left alone, it could still do what the earlier supervisor had asked for. Its bots run on.
            log.warning("the zygote of %s, pid %s, of an earlier supervisor does not answer: SIGKILL", kind, zygote.pid)
            zygote.kill()
            zygote.lose()
            if self._zygotes.get(kind) is zygote:
                del self._zygotes[kind]
        self._start_watch(zygote)

    def _start_watch(self, zygote: zygote_client.Zygote) -> None:
        task = asyncio.create_task(self._watch_zygote(zygote), name=f"watch zygote {zygote.pid}")
        self._watches.add(task)
        task.add_done_callback(self._watches.discard)

    async def _watch_zygote(self, zygote: zygote_client.Zygote) -> None:
        """When a zygote has died, its bots are ours to wait for."""
        await zygote.lost.wait()
        if self._retired.count(zygote):
            self._retired.remove(zygote)
        orphans = [p for p in zygote.processes.values() if p.alive]
        if orphans:
            log.warning("the zygote of %s, pid %s, died; its %d bots run on", zygote.kind, zygote.pid, len(orphans))
        for process in orphans:
            if not zygote.is_child:
                process.descendants = Descendants()
            self._watch(process, zygote)
        if zygote.is_child:
            self._sweep()
        else:
            # What its dead bots had left is init's now, and out of our sight.
            zygote.swept()
        if not self._closing and zygote.kind in self._kinds and self._zygotes.get(zygote.kind) is zygote:
            hello = zygote.hello
            if not hello.cancelled() and hello.exception() is None and not hello.result().error:
                if _has_threads(hello.result()):
                    # Another is about to take its place.
                    return
                # One that dies as soon as it is warm must not keep a processor busy. Whoever asks has it at once.
                await asyncio.sleep(_REST * zygote.making_s - zygote.age_s)
                self._warm_up(zygote.kind)

    def _warm_up(self, kind: str) -> None:
        """Makes a zygote in the background. What goes wrong is logged, and told to whoever asks for the kind."""

        async def warm() -> None:
            try:
                await self.warm(kind)
            except errors.SpawnFailed as error:
                log.warning("%s (see %s)", error.detail, self._kind_log_dir / f"{kind}.log")

        task = asyncio.create_task(warm(), name=f"warm up {kind}")
        self._watches.add(task)
        task.add_done_callback(self._watches.discard)

    def _insist(self, zygote: zygote_client.Zygote) -> None:
        """Something is due from a zygote. If it stays silent it gets SIGKILL: its bots run on, and what we wait for
        we learn without it."""

        async def insist() -> None:
            told, left = zygote.told, _SILENT_TRIES
            while zygote.owes and not zygote.lost.is_set():
                if left == 0:
                    log.warning("the zygote of %s, pid %s, does not answer: SIGKILL", zygote.kind, zygote.pid)
                    zygote.kill()
                    break
                # In parts, so that a supervisor that was itself held up does not take that for silence.
                await asyncio.sleep(_SILENT_S / _SILENT_TRIES)
                told, left = zygote.told, left - 1 if zygote.told == told else _SILENT_TRIES
            self._insisting.discard(zygote)

        if zygote not in self._insisting:
            self._insisting.add(zygote)
            task = asyncio.create_task(insist(), name=f"insist on zygote {zygote.pid}")
            self._watches.add(task)
            task.add_done_callback(self._watches.discard)

    # ---- processes

    def _know(self, process: LocalProcess, zygote: zygote_client.Zygote | None = None) -> None:
        """From here on it is watched, reaped should its zygote die, and heard when it notifies."""
        pid = process.identity.pid
        process.out_of_memory = lambda: self._oom.killed(self._groups.directory(process.bot_id))
        self._reaper.expect(pid, process.run_id)
        self._by_pid[pid] = process
        if process.fd is not None:
            self._watch(process, zygote)

    def _our_pids(self) -> set[int]:
        zygote_pids = (zygote.pid for zygote in (*self._zygotes.values(), *self._retired))
        return {os.getpid(), *zygote_pids, *self._by_pid}

    def _on_end(self, process: LocalProcess) -> None:
        pid = process.identity.pid
        if self._by_pid.get(pid) is process:
            del self._by_pid[pid]
            self._reaper.forget(pid)
        for zygote in self._zygotes.values():
            if process.run_id in zygote.processes:
                self._rest_when_idle(zygote)

    def _receive(self, pid: int, values: Mapping[str, str]) -> None:
        # A bot's own child may speak for it, such as the systemd-notify of a shell script.
        leader = kernel.session(pid) or pid
        process = self._by_pid.get(pid) or self._by_pid.get(leader)
        if process is not None and process.run_id not in self._forking:
            self._on_notify(process.bot_id, process.run_id, values)
        elif self._forking and len(self._early) < 1000:
            # A bot may be ready before whoever asked for it has its process. All others are no bots.
            self._early.setdefault(process.identity.pid if process else leader, []).append(values)

    def _on_child(self) -> None:
        """Some child of the supervisor has ended: a zygote, or what a dead zygote has left us."""
        deaths = self._reaper.reap()
        for death in deaths:
            if isinstance(death.key, int) and (process := self._by_pid.get(death.pid)) is not None:
                exit_ = Exit(
                    exit_code=death.exit_code,
                    signal=death.signal,
                    ended_at=now_us(),
                    cpu_seconds=death.cpu_seconds,
                    max_rss_bytes=death.max_rss_bytes,
                    swept=False,
                )
                self._orphans[death.key] = process
                self._finish(process, exit_)
        self._died += [death.key for death in deaths]
        self._sweep()

    def _sweep(self) -> None:
        """Ends what the dead have left; once a dead zygote's last words are read, which may tell of another bot."""
        if any(isinstance(key, zygote_client.Zygote) and key.is_heard for key in self._died):
            return
        died, self._died = self._died, []
        for key, killed in self._reaper.sweep(died):
            if isinstance(key, zygote_client.Zygote):
                key.swept()
            elif (process := self._orphans.pop(key, None)) is not None:
                process.swept(killed)

    def _finish(self, process: LocalProcess, exit_: Exit) -> None:
        process.ended(exit_)
        self._on_end(process)

    def _finish_alone(self, process: LocalProcess, exit_: Exit) -> None:
        """Of one that was no child of ours: what it has left did not come to us."""
        descendants = process.descendants
        if descendants is None:
            self._finish(process, exit_)
            return
        self._finish(process, dataclasses.replace(exit_, swept=False))

        async def sweep() -> None:
            process.swept(await descendants.end())

        task = asyncio.create_task(sweep(), name=f"sweep bot-{process.bot_id}")
        self._watches.add(task)
        task.add_done_callback(self._watches.discard)

    def _watch(self, process: LocalProcess, zygote: zygote_client.Zygote | None = None) -> None:
        """Watches a process by its pidfd, which is readable once it has ended."""
        if process.fd is not None:
            asyncio.get_running_loop().add_reader(process.fd, self._on_readable, process, zygote)
        else:
            self._finish(process, zygote_client.lost_exit("it ended together with its zygote"))

    def _on_readable(self, process: LocalProcess, zygote: zygote_client.Zygote | None) -> None:
        assert process.fd is not None
        # Level-triggered: left in place it would be called for ever.
        asyncio.get_running_loop().remove_reader(process.fd)
        process.over = True
        if zygote is not None and not zygote.lost.is_set():
            self._insist(zygote)
        else:
            self._find_out(process, zygote)

    def _find_out(self, process: LocalProcess, zygote: zygote_client.Zygote | None, tries: int = 0) -> None:
        """How a process ended that no zygote waits for any more."""
        self._on_child()
        if process.fd is None:
            return
        zombie = pidfd.zombie(process.identity)
        heirs = (os.getpid(), zygote.pid if zygote else 0)
        if zombie is not None and zombie[0] in heirs and tries < _REAPED_TRIES:
            # On its way to us: a zygote that dies closes its socket a moment before it gives its children away.
            asyncio.get_running_loop().call_later(_REAPED_S, self._find_out, process, zygote, tries + 1)
            return
        # Not our child: another reaps it, sooner or later. The kernel may still say how it ended.
        status = zombie[1] if zombie is not None else pidfd.exit_status(process.fd)
        if status is None:
            self._finish_alone(
                process, zygote_client.lost_exit("its zygote was gone, so nobody could see how it ended")
            )
            return
        code = os.waitstatus_to_exitcode(status)
        self._finish_alone(
            process,
            Exit(
                exit_code=code if code >= 0 else None,
                signal=-code if code < 0 else None,
                ended_at=now_us(),
                cpu_seconds=None,
                max_rss_bytes=None,
            ),
        )

    async def _end_half_made(self, zygote: zygote_client.Zygote, bot_id: int) -> None:
        """A zygote died between fork and answer: what it had made must not run on unknown, nor beside the next.

        A bot leaves the zygote's session when it has its lock: one that is not seen there, as it is about to leave, is
        found by the lock.
        """
        try:
            await zygote.end_session()
            identity = self._locks.holder(bot_id)
            holder = pidfd.open_process(identity) if identity else None
            if holder is not None:
                await pidfd.kill(holder)
        except OSError as error:
            # No descriptor is left. The lock still keeps two of them apart.
            log.warning("cannot end what the zygote of %s had half made: %s", zygote.kind, error.strerror)


def _has_threads(hello: wire.Hello) -> bool:
    """Its imports have started threads: a fork of it would have the locks of all, and one of them."""
    return hello.threads > 1 and hello.start_method == "fork"


def _import_failed(kind: str, error: str) -> str:
    """The last line of the traceback, which says what is wrong."""
    return f"cannot import the kind {kind}: {error.strip().splitlines()[-1]}"
