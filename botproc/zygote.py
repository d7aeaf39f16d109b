"""The warm process of one kind: imports it once, forks its bots, reaps them, outlives its supervisor.

Single-threaded: one selector over the listening socket, the supervisor's connection and SIGCHLD. That makes
fork safe, as no other thread can hold a lock at that moment.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import gc
import inspect
import os
import selectors
import signal
import socket
import sys
import time
import traceback
import types
import weakref
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import context, popen_fork, process, util
from typing import Any

import setproctitle

from botproc import bootstrap, command, fresh, immortal, kernel, reaper, target, wire

_IN_A_ROW = 16
"""So many bots are forked before the supervisor hears of the first."""

_LONELY_S = 60.0
"""A zygote with neither bots nor supervisor, nor exits to tell, leaves after this time."""


def main(spec: wire.ZygoteSpec) -> None:
    """The life of a zygote. The target of a `multiprocessing` process of the spawn context."""
    # A session of its own, so that Ctrl-C at the terminal reaches the supervisor alone. SIGTERM stays blocked,
    # and each bot inherits that until it can take it (see `bootstrap`). A zygote is ended by `Quit` or SIGKILL.
    os.setsid()
    kernel.reset_signals()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    kernel.become_subreaper()
    setproctitle.setproctitle(f"zygote {spec.kind}")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    bootstrap.log_to(spec.log_path)
    # Nothing else that the supervisor had open stays open here, nor in any bot.
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    bootstrap.forget_resource_tracker()
    # A kind that looks at its arguments must not take the supervisor's for its own.
    del sys.argv[1:]
    _Zygote(spec).run()
    os._exit(0)


@dataclasses.dataclass(slots=True)
class _Bot:
    """A bot that lives. `kill_at`: it is being stopped, as no supervisor came for too long, and is killed then."""

    alive: wire.Alive
    grace_s: float
    lock_path: str
    kill_at: float | None = None
    killed: bool = False


class _Zygote:
    def __init__(self, spec: wire.ZygoteSpec) -> None:
        self._spec = spec
        self._reaper: reaper.Reaper[int] = reaper.Reaper(self._run_of)
        self._bots: dict[int, _Bot] = {}
        self._ended: dict[int, wire.Ended] = {}
        self._quitting = False
        self._lonely_since = time.monotonic()
        self._connection: socket.socket | None = None
        self._lines = wire.Lines()
        self._unsent = bytearray()

        # Listening comes first, so that a supervisor that takes over while we import finds us.
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._run_dir = os.open(spec.run_dir, os.O_PATH | os.O_DIRECTORY)
        self._address = f"/proc/self/fd/{self._run_dir}/{spec.socket_name}"
        self._listener.bind(self._address)
        os.chmod(self._address, 0o600)
        self._listener.listen()
        # One that takes over looks for sockets once, and may have done so before there was ours.
        parent = process.parent_process()
        if parent is not None and parent.pid != os.getppid():
            os.unlink(self._address)
            os._exit(0)

        wakeup, waker = socket.socketpair()
        wakeup.setblocking(False)
        waker.setblocking(False)
        self._wakeup = wakeup
        self._waker = waker
        self._selector = selectors.DefaultSelector()
        # A bot's `multiprocessing.parent_process()` lives as long as this pipe's other end, which only we hold.
        self._lifeline, self._lifeline_end = os.pipe()

        self._target: target.Target | None = None
        self._hello = self._import()
        # What the imports started is no bot's rest, and what they did to SIGCHLD does not hold.
        self._reaper.spare(self._reaper.children())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)

    def _import(self) -> wire.Hello:
        """Imports the kind, if it has something to import. What goes wrong is told first on each connection."""
        # Before the kind is there: what that does to signals, streams or event loops is its own.
        bootstrap.rehearse()
        _share(sys.modules.values(), values=True)
        before = set(sys.modules)
        begin = time.monotonic()
        spec = self._spec
        found: dict[str, Any] = {"error": "", "description": "", "params": [], "schema": None}
        start_method = "fork"
        try:
            if spec.described is not None:
                start_method = "spawn"
                target.enter(spec)
                found = {name: getattr(spec.described, name) for name in found}
            elif spec.command:
                start_method = "exec"
                target.enter(spec)
                found["params"] = command.describe(spec)
            else:
                loaded = target.load(spec)
                doc = inspect.getdoc(loaded.call) or ""
                found["description"] = doc.partition("\n\n")[0].replace("\n", " ")
                found["params"], found["schema"] = target.describe(loaded), target.schema(loaded)
                self._target = loaded
        except BaseException:
            # Whatever the kind's modules do, `sys.exit()` included, is an answer and not the end of it.
            found["error"] = traceback.format_exc()
            traceback.print_exc()
        # Of the kind, its code only: a bot can see when one of its values ends.
        _share([module for name, module in sys.modules.items() if name not in before], values=False)
        return wire.Hello(
            kind=spec.kind,
            pid=os.getpid(),
            import_s=time.monotonic() - begin,
            threads=len(os.listdir("/proc/self/task")),
            start_method=start_method,
            **found,
        )

    def run(self) -> None:
        selector = self._selector
        selector.register(self._listener, selectors.EVENT_READ)
        selector.register(self._wakeup, selectors.EVENT_READ)
        while True:
            if self._connection is not None:
                events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
                selector.modify(self._connection, events)
            ready = selector.select(self._until_due_s())
            for key, events in ready:
                if key.fileobj is self._wakeup:
                    with contextlib.suppress(BlockingIOError):
                        self._wakeup.recv(4096)
                    self._reap()
                elif key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._connection:
                    if events & selectors.EVENT_WRITE:
                        self._flush()
                    if events & selectors.EVENT_READ:
                        self._receive()
            # Only after a look: while it imports, or is held up, a supervisor may have come.
            if self._may_leave():
                break
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._address)

    def _may_leave(self) -> bool:
        if self._bots or self._ended:
            return False
        if self._hello.error and self._connection is not None and not self._unsent:
            return True
        lonely = self._connection is None and time.monotonic() - self._lonely_since >= _LONELY_S
        return self._quitting or lonely

    # ---- without a supervisor

    def _until_due_s(self) -> float | None:
        """Ends bots when it is time to, and says how long nothing else is due but what the selector tells."""
        now = time.monotonic()
        due = []
        limit_s = self._spec.without_supervisor_s
        if self._connection is None and not self._bots and not self._ended:
            due.append(self._lonely_since + _LONELY_S)
        elif self._connection is None and limit_s is not None:
            left = [bot for bot in self._bots.values() if bot.kill_at is None]
            if left:
                due.append(self._lonely_since + limit_s)
            for bot in left if now >= self._lonely_since + limit_s else ():
                bot.kill_at = now + bot.grace_s
                # A stopped process takes its SIGTERM only when it wakes.
                _signal(bot, signal.SIGTERM)
                _signal(bot, signal.SIGCONT)
        # Once begun a stop goes on to its end, be there a supervisor again or not.
        for bot in self._bots.values():
            if bot.kill_at is None or bot.killed:
                continue
            if now >= bot.kill_at:
                bot.killed = True
                _signal(bot, signal.SIGKILL)
            else:
                due.append(bot.kill_at)
        return max(0.0, min(due) - now) if due else None

    # ---- the supervisor

    def _accept(self) -> None:
        # What an earlier supervisor had asked for comes first: the new one is told how that ended.
        while self._connection is not None and self._receive():
            pass
        if self._connection is not None:
            self._disconnect()
        try:
            connection, _ = self._listener.accept()
        except OSError:
            # It has gone again, or there is no descriptor for it; it is asked again while it waits.
            return
        connection.setblocking(False)
        self._connection = connection
        self._lines = wire.Lines()
        self._unsent.clear()
        self._quitting = False
        self._selector.register(connection, selectors.EVENT_READ)
        alive = [wire.fields(bot.alive) for bot in self._bots.values()]
        ended = [wire.fields(one) for one in self._ended.values()]
        self._send(wire.Hello(**{**wire.fields(self._hello), "alive": alive, "ended": ended}))

    def _disconnect(self) -> None:
        assert self._connection is not None
        self._selector.unregister(self._connection)
        self._connection.close()
        self._connection = None
        self._lonely_since = time.monotonic()

    def _receive(self) -> bool:
        """Does what the supervisor asks for. False when there is nothing to read."""
        assert self._connection is not None
        try:
            data = self._connection.recv(1 << 16)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            data = b""
        if not data:
            self._disconnect()
            return False
        spawns = []
        for line in self._lines.feed(data):
            match wire.decode(line):
                case wire.Spawn() as spawn:
                    spawns.append(spawn)
                case wire.Ack(run_ids=run_ids):
                    for run_id in run_ids:
                        self._ended.pop(run_id, None)
                case wire.Check(check_id=check_id, params=params):
                    assert self._target is not None
                    self._send(wire.Checked(check_id=check_id, errors=target.check(self._target, params)))
                case wire.Quit():
                    self._quitting = True
        for first in range(0, len(spawns), _IN_A_ROW):
            self._spawn(spawns[first : first + _IN_A_ROW])
        return True

    def _send(self, message: wire.Message) -> None:
        if self._connection is not None:
            self._unsent += wire.encode(message)
            self._flush()

    def _flush(self) -> None:
        """Never blocks: a supervisor that does not read must not keep us from reaping."""
        assert self._connection is not None
        try:
            del self._unsent[: self._connection.send(self._unsent)]
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            self._unsent.clear()

    # ---- the bots

    def _spawn(self, spawns: Sequence[wire.Spawn]) -> None:
        """Forks all, one right after the other, and only then does what each fork asks for.

        After a fork each page that we write to is copied, as the bot has it too: 280 pages when we go all the way
        from one message to the next between two forks, 70 when we do nothing but fork.
        """
        bots = [self._bot(spawn) for spawn in spawns]
        failed = [_start(bot) for bot in bots]
        for spawn, bot, error in zip(spawns, bots, failed, strict=True):
            self._born(spawn, bot, error)

    def _bot(self, spawn: wire.Spawn) -> _BotProcess:
        run: Callable[..., None]
        if self._target is not None:
            run = functools.partial(bootstrap.run, self._spec, self._target)
        else:
            run = functools.partial(command.run if self._spec.command else fresh.run, self._spec)
        bot = _BotProcess(target=run, args=(spawn,), name=f"bot-{spawn.bot_id}")
        bot.lifeline = self._lifeline
        bot.let_go = self._let_go
        return bot

    def _born(self, spawn: wire.Spawn, bot: _BotProcess, error: OSError | None) -> None:
        try:
            if error is not None:
                raise error
            process._children.discard(bot)  # type: ignore[attr-defined]
            pid = bot.pid
            assert pid is not None
            alive = wire.Alive(
                run_id=spawn.run_id,
                bot_id=spawn.bot_id,
                pid=pid,
                # Not reaped yet, dead or alive: both are surely those of our child.
                start_ticks=kernel.start_ticks(pid),
                inode=kernel.pidfd_inode(pid),
                log_start=spawn.log_start,
            )
        except OSError as error:
            if bot.pid is not None:
                # No descriptor is left to see who it is, and nobody has been told of it.
                os.kill(bot.pid, signal.SIGKILL)
            self._send(wire.NotSpawned(run_id=spawn.run_id, errno=error.errno or 0, detail=f"fork: {error.strerror}"))
            return
        self._reaper.expect(pid, spawn.run_id)
        self._bots[spawn.run_id] = _Bot(alive, spawn.grace_s, spawn.lock_path)
        self._send(alive)

    def _let_go(self) -> None:
        """In a bot: ends all that is the zygote's alone. What the kind's modules have opened stays open."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()
        self._reaper.close()
        for end in (self._listener, self._connection, self._wakeup, self._waker):
            if end is not None:
                end.close()
        os.close(self._run_dir)
        os.close(self._lifeline_end)

    def _run_of(self, pid: int) -> int | None:
        """The run of ours that lives and has started this process, as far as that can be seen."""
        return reaper.owner(pid, {run_id: (bot.alive.pid, run_id, bot.lock_path) for run_id, bot in self._bots.items()})

    def _reap(self) -> None:
        deaths = self._reaper.reap()
        swept = dict(self._reaper.sweep(death.key for death in deaths))
        for death in deaths:
            bot = self._bots.pop(death.key)
            asked = "" if bot.kill_at is None else "stopped"
            if bot.killed and death.signal == signal.SIGKILL:
                asked = "stop-timeout"
            ended = wire.Ended(
                run_id=death.key,
                bot_id=bot.alive.bot_id,
                log_start=bot.alive.log_start,
                exit_code=death.exit_code,
                signal=death.signal,
                ended_at=time.time_ns() // 1000,
                cpu_seconds=death.cpu_seconds,
                max_rss_bytes=death.max_rss_bytes,
                descendants_killed=swept.get(death.key, 0),
                swept=death.key in swept,
                asked=asked,
            )
            self._ended[death.key] = ended
            self._send(ended)
        for run_id in swept.keys() - {death.key for death in deaths}:
            if run_id in self._ended:
                values = wire.fields(self._ended[run_id]) | {"descendants_killed": swept[run_id], "swept": True}
                self._ended[run_id] = wire.Ended(**values)
                self._send(self._ended[run_id])


def _signal(bot: _Bot, signum: int) -> None:
    # Ours, and not reaped yet. One that has become another user's may be out of our reach.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(bot.alive.pid, signum)


def _share(modules: Iterable[types.ModuleType], *, values: bool) -> None:
    """What these modules made stays shared with the bots, as long as they do not change it.

    It will live as long as we do. What is neither counted nor in the collector's sight is not written to.
    """
    gc.collect()
    immortal.make_immortal(modules, values=values)
    gc.freeze()


def _start(bot: _BotProcess) -> OSError | None:
    try:
        bot.start()
    except OSError as error:
        return error
    return None


class _BotProcess(context.ForkProcess):
    """A process of the fork context that leaves its reaping to the zygote."""

    lifeline: int
    let_go: Callable[[], None]

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> _Popen:
        return _Popen(process_obj)


class _Popen(popen_fork.Popen):
    """Forks with one pipe for all bots instead of two for each.

    The stock one would also ask for every sibling at each start with `waitpid`, which takes a dead one's exit
    status and resource usage from us, and its two pipes a bot would be inherited by each later bot.
    """

    def _launch(self, process_obj: Any) -> None:
        self.sentinel = -1
        self.pid = os.fork()
        if self.pid != 0:
            return
        code = 1
        try:
            process_obj.let_go()
            # What the zygote's imports registered for the exit is not the bots' to do; what a bot registers is.
            atexit._clear()
            weakref.finalize._registry.clear()  # type: ignore[attr-defined]
            weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]
            atexit.register(util._exit_function)  # type: ignore[attr-defined]
            code = process_obj._bootstrap(parent_sentinel=process_obj.lifeline)
        finally:
            # Whatever happens here, the child must not return into the zygote's own frames.
            try:
                atexit._run_exitfuncs()
                util._flush_std_streams()  # type: ignore[attr-defined]
            finally:
                # As the kernel keeps it; an integer that is too large for the call would raise.
                os._exit(code & 0xFF)

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        return self.returncode
