"""The supervisor's end of one zygote."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import logging
import multiprocessing
import os
import secrets
import signal
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from botproc import kernel, wire, zygote
from supervisor import __version__, settings
from supervisor.background import Background
from supervisor.core import errors
from supervisor.core.model import Cause, Exit, Identity, Params, now_us
from supervisor.engine import pidfd
from supervisor.engine.process import RETRY_S, LocalProcess
from supervisor.engine.watchdog import Watchdog
from supervisor.logs import Output

log = logging.getLogger(__name__)

_HOLD_TRIES = 5
_LINE_LIMIT = 4 << 20
_spawn = multiprocessing.get_context("spawn")


_MADE_OF = {"target", "command", "params", "preload", "path", "env", "cwd", "ready", "heartbeat_s"}


def fingerprint(kind: str, spec: settings.Kind, without_supervisor_s: float | None) -> str:
    """The first part of a zygote's socket name: a kind and what it was made of, our own version included."""
    made_of = spec.model_dump(include=_MADE_OF)
    digest = hashlib.sha256(f"{__version__} {wire.VERSION} {without_supervisor_s} {made_of!r}".encode()).hexdigest()[:8]
    return f"{kind}.{digest}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """What the engine is to know of its zygotes, and where its bots' locks and logs are."""

    lock_path: Callable[[int], Path]
    output: Callable[[int, int], Output]
    """The output of a bot's run that began at an offset of its log."""
    born: Callable[[LocalProcess], None]
    """Called as soon as a zygote tells of a bot that lives."""
    ended: Callable[[LocalProcess, Zygote | None], None]
    lost: Callable[[Zygote], None]
    """Called when a zygote has died or hung up."""


class Zygote:
    """A zygote: made by us, or by an earlier supervisor and found again by its socket.

    `processes` are the runs whose end it has not told us yet, or that we have not acknowledged.
    """

    def __init__(
        self,
        kind: str,
        socket_path: Path,
        listener: Listener,
        child: tuple[int, int] | None = None,
    ) -> None:
        """`child` are its pid and its pidfd, when it is a child of ours."""
        self.kind = kind
        self.socket_path = socket_path
        self.is_child = child is not None
        self.pid = child[0] if child else 0
        self._fd = child[1] if child else None
        self.hello: asyncio.Future[wire.Hello] = asyncio.get_running_loop().create_future()
        # An error that nobody waits for is told by `status`, not by asyncio's complaint.
        self.hello.add_done_callback(lambda f: f.cancelled() or f.exception())
        self.processes: dict[int, LocalProcess] = {}
        self.making_s = 0.0
        """From its start to its first word, when the kind was imported."""
        self.lost = asyncio.Event()
        self._listener = listener
        self._watchdog = Watchdog(self._is_pending, self._on_silence)
        self._since = asyncio.get_running_loop().time()
        self._pending: dict[int, tuple[asyncio.Future[LocalProcess], tuple[int, int]]] = {}
        """Answers that are due, each with two descriptors that keep places until the new process has its pidfd."""
        self._checks: dict[int, asyncio.Future[list[dict[str, Any]]]] = {}
        self._check_ids = itertools.count(1)
        self.forks = 0
        """How many bots it was asked for."""
        self._ending: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._background = Background()

    @classmethod
    def start(cls, spec: wire.ZygoteSpec, listener: Listener) -> Zygote:
        """Start a new one, to be connected to. Raises SpawnFailed when no process can be made."""
        process = _spawn.Process(target=zygote.main, args=(spec,), name=f"zygote {spec.kind}")
        _leave_deleted_directory()
        try:
            process.start()
            assert process.pid is not None
            fd = os.pidfd_open(process.pid)
        except OSError as error:
            if process.pid is not None:
                # A child of ours that is not reaped yet: the number is surely its own.
                os.kill(process.pid, signal.SIGKILL)
            raise errors.SpawnFailed(f"cannot start the zygote of {spec.kind}: {error.strerror}") from error
        finally:
            # The engine reaps all children of the supervisor: multiprocessing need not know of this one.
            multiprocessing.process._children.discard(process)  # type: ignore[attr-defined]
        path = Path(spec.run_dir) / spec.socket_name
        return cls(spec.kind, path, listener, (process.pid, fd))

    @staticmethod
    def socket_name(prefix: str) -> str:
        return f"{prefix}{secrets.token_hex(4)}.sock"

    async def connect(self) -> None:
        """Connects, and reads what it says from now on. Raises OSError, e.g. FileNotFoundError when it is gone."""
        directory = os.open(self.socket_path.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            # Through the descriptor, as a long path would not fit into a socket address.
            reader, self._writer = await asyncio.open_unix_connection(
                f"/proc/self/fd/{directory}/{self.socket_path.name}", limit=_LINE_LIMIT
            )
        finally:
            os.close(directory)
        peer: socket.socket = self._writer.get_extra_info("socket")
        self.pid = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        if self._fd is None:
            try:
                self._fd = os.pidfd_open(self.pid)
            except OSError:
                self.close()
                raise
        asyncio.get_running_loop().add_reader(self._fd, self._on_death, peer)
        self._background.start(self._read(reader), name=f"read from the zygote of {self.kind}")

    async def connect_when_up(self) -> None:
        """Connect to one that was just started. Raises SpawnFailed."""
        while True:
            try:
                return await self.connect()
            except (FileNotFoundError, ConnectionRefusedError):
                # It listens within some 30 ms, before it imports anything of the kind.
                if not self.exists:
                    raise errors.SpawnFailed(f"the zygote of {self.kind} ended at once") from None
                await asyncio.sleep(0.005)
            except OSError as error:
                raise errors.SpawnFailed(f"cannot reach the zygote of {self.kind}: {error.strerror}") from error

    @property
    def is_heard(self) -> bool:
        """It may still tell something, or what it told is not read yet."""
        return self._writer is not None and not self.lost.is_set()

    @property
    def has_bots(self) -> bool:
        """A process of its runs, and be it one that cannot die."""
        return any(process.alive and not process.over for process in self.processes.values())

    @property
    def age_s(self) -> float:
        """Since we have it."""
        return asyncio.get_running_loop().time() - self._since

    @property
    def exists(self) -> bool:
        try:
            return self._fd is not None and pidfd.send(self._fd, 0)
        except OSError:
            # A signal that could not be sent says nothing of its end.
            return True

    def kill(self) -> None:
        if self._fd is not None:
            pidfd.send(self._fd, signal.SIGKILL)

    def close(self) -> None:
        """Lets go of it; it lives on."""
        self._background.cancel()
        self._unwatch()
        self._watchdog.close()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def quit(self) -> None:
        """Asks it to leave when its last bot has ended."""
        self._send(wire.Quit())

    def swept(self) -> None:
        """It is gone, and so is all that its dead bots had left to it."""
        for process in self.processes.values():
            if not process.alive:
                process.swept(0)

    async def fork(self, spawn: wire.Spawn) -> LocalProcess:
        """Makes a bot's process. Not to be cancelled. Raises SpawnFailed."""
        if self.lost.is_set():
            raise errors.SpawnFailed(f"the zygote of {self.kind} has ended")
        try:
            # Better to find out now than with a process at hand: one is for its pidfd, one to see that it is the one.
            places = os.pipe()
        except OSError as error:
            raise errors.SpawnFailed(f"the supervisor has no descriptor left: {error.strerror}") from error
        self.forks += 1
        answer: asyncio.Future[LocalProcess] = asyncio.get_running_loop().create_future()
        self._pending[spawn.run_id] = answer, places
        self._send(spawn)
        self._watchdog.watch()
        return await _held(await asyncio.shield(answer))

    def check(self, params: Params) -> asyncio.Future[list[dict[str, Any]]]:
        """What the kind's model finds wrong with the parameters. Raises SpawnFailed when the zygote has ended, and the
        future when it ends."""
        if self.lost.is_set():
            raise errors.SpawnFailed(f"the zygote of {self.kind} has ended")
        check_id = next(self._check_ids)
        answer: asyncio.Future[list[dict[str, Any]]] = asyncio.get_running_loop().create_future()
        self._checks[check_id] = answer
        self._send(wire.Check(check_id=check_id, params=dict(params)))
        self._watchdog.watch()
        return answer

    def acknowledge(self, run_id: int) -> None:
        self.processes.pop(run_id, None)
        self._send(wire.Ack(run_ids=[run_id]))

    def _send(self, message: wire.Message) -> None:
        if self._writer is not None and not self.lost.is_set():
            self._writer.write(wire.encode(message))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self._receive(wire.decode(line))
        except ConnectionError:
            pass
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.error("the zygote of %s cannot be understood: %s: SIGKILL; its bots run on", self.kind, error)
            self.kill()
        # Not when this task is cancelled: then it lives on, and the next supervisor is to find its socket.
        self.lose()

    def lose(self) -> None:
        """It has ended, or is as good as dead: all that is pending from it fails, and its bots are ours to wait for."""
        if self.lost.is_set():
            return
        self.lost.set()
        self._watchdog.close()
        with contextlib.suppress(OSError):
            self.socket_path.unlink()
        gone = errors.SpawnFailed(f"the zygote of {self.kind} has ended")
        if not self.hello.done():
            self.hello.set_exception(gone)
        for run_id in list(self._pending):
            self._due(run_id).set_exception(gone)
        for check in self._checks.values():
            if not check.done():
                check.set_exception(gone)
        self._checks.clear()
        if self._writer is not None:
            self._writer.close()
        self._unwatch()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        self._listener.lost(self)

    async def end_session(self) -> None:
        """Once it has died: ends what it had forked and not told of, as far as that is still in its session. Looked for
        once, for all who wait for it. Raises OSError when no descriptor is left."""
        if self._ending is None or (self._ending.done() and self._ending.exception()):
            self._ending = self._background.start(self._end_session(), name=f"end session {self.pid}")
        await asyncio.shield(self._ending)

    async def _end_session(self) -> None:
        known = {process.identity.pid for process in self.processes.values()}
        for pid in set(psutil.pids()) - known - {self.pid}:
            if kernel.session(pid) == self.pid:
                with contextlib.suppress(ProcessLookupError):
                    fd = os.pidfd_open(pid)
                    # By now the number may be another's.
                    if kernel.session(pid) == self.pid:
                        await pidfd.kill(fd)
                    else:
                        os.close(fd)

    def _on_death(self, peer: socket.socket) -> None:
        """Ends the connection; what it still said is read. A bot that it was just forking has its end of it too, and
        may be held up before it closes that."""
        self._unwatch()
        # It may have ended by itself.
        with contextlib.suppress(OSError):
            peer.shutdown(socket.SHUT_RD)

    def _unwatch(self) -> None:
        if self._fd is not None:
            asyncio.get_running_loop().remove_reader(self._fd)

    def _is_pending(self) -> bool:
        """An answer, or the end of a process that has ended."""
        return bool(self._pending or self._checks) or any(
            process.over and process.alive for process in self.processes.values()
        )

    def _on_silence(self) -> None:
        """It is stopped or stuck. Its bots run on, and what is pending we learn without it."""
        log.warning("the zygote of %s, pid %s, does not answer: SIGKILL", self.kind, self.pid)
        self.kill()

    def _due(self, run_id: int) -> asyncio.Future[LocalProcess]:
        """The answer that comes now. From here on there is a descriptor for the new process."""
        answer, places = self._pending.pop(run_id)
        for place in places:
            os.close(place)
        return answer

    def _receive(self, message: wire.Message) -> None:
        self._watchdog.heard()
        match message:
            case wire.Hello():
                for values in message.alive:
                    self._alive(wire.of_fields(wire.Alive, values))
                for values in message.ended:
                    self._ended(wire.of_fields(wire.Ended, values))
                self.making_s = self.age_s
                self.hello.set_result(message)
            case wire.Alive():
                answer = self._due(message.run_id)
                answer.set_result(self._alive(message))
            case wire.NotSpawned():
                self._due(message.run_id).set_exception(errors.SpawnFailed(message.detail))
            case wire.Ended():
                self._ended(message)
            case wire.Checked():
                check = self._checks.pop(message.check_id)
                # Unless whoever asked has gone.
                if not check.done():
                    check.set_result(message.errors)

    def _alive(self, alive: wire.Alive) -> LocalProcess:
        identity = Identity(pid=alive.pid, start_ticks=alive.start_ticks, inode=alive.inode, boot_id=pidfd.boot_id())
        process = self._process(alive, identity)
        self._listener.born(process)
        process.when_over(self._watchdog.watch)
        return process

    def _ended(self, ended: wire.Ended) -> None:
        process = self.processes.get(ended.run_id)
        if process is None:
            # Ended while no supervisor was there: it has no pid any more, only an end.
            nobody = Identity(pid=0, start_ticks=0, inode=0, boot_id="")
            process = self._process(ended, nobody)
        process.ended(
            Exit(
                exit_code=ended.exit_code,
                signal=ended.signal,
                ended_at=ended.ended_at,
                cpu_seconds=ended.cpu_seconds,
                max_rss_bytes=ended.max_rss_bytes,
                descendants_killed=ended.descendants_killed,
                swept=ended.swept,
                asked=Cause(ended.asked) if ended.asked else None,
                detail="was stopped by its zygote, which had no supervisor for too long" if ended.asked else "",
            )
        )
        self._listener.ended(process, self)

    def _process(self, told: wire.Alive | wire.Ended, identity: Identity) -> LocalProcess:
        bot_id, run_id = told.bot_id, told.run_id
        lock_path = self._listener.lock_path(bot_id)
        output = self._listener.output(bot_id, told.log_start)
        process = LocalProcess(bot_id, run_id, identity, lock_path, output, self.acknowledge)
        self.processes[run_id] = process
        return process


def _leave_deleted_directory() -> None:
    """A directory that is gone is no place to be: multiprocessing has each process go there first."""
    try:
        Path.cwd()
    except FileNotFoundError:
        log.warning("the working directory was deleted: from now on it is /, and relative paths begin there")
        os.chdir("/")


async def _held(process: LocalProcess) -> LocalProcess:
    """The process that was just made, with its pidfd. Raises SpawnFailed when there is no descriptor for that, once the
    process is ended again."""
    for _ in range(_HOLD_TRIES):
        try:
            # False: it has ended again, and how is about to be told.
            process.hold()
            return process
        except OSError as error:
            why = error.strerror
            await asyncio.sleep(RETRY_S)
    process.kill()
    process.acknowledge()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.sweep(), pidfd.KILLED_S)
    raise errors.SpawnFailed(f"the supervisor has no descriptor left: {why}")


def lost_exit(detail: str) -> Exit:
    """The end of a process that nobody saw."""
    return Exit(exit_code=None, signal=None, ended_at=now_us(), cpu_seconds=None, max_rss_bytes=None, detail=detail)
