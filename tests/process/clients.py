"""A zygote without a supervisor: the tests speak to it themselves."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from botproc import wire
from tests.waiting import wait_for

KINDS = Path(__file__).parent / "kinds"
BOTS = Path(__file__).parent.parent / "bots"
ROOT = Path(__file__).parent.parent.parent

_SCRIPT = """
import json, os, sys
from botproc import wire, zygote
spec = json.loads(sys.argv[1])
zygote._LONELY_S = float(sys.argv[2])
if uid := int(sys.argv[3]):
    os.setuid(uid)
zygote.main(wire.ZygoteSpec(**{k: tuple(v) if isinstance(v, list) else v for k, v in spec.items()}))
"""


class ZygoteClient:
    """A zygote, and this end of its socket. The tests' process is its parent."""

    def __init__(
        self,
        directory: Path,
        target: str,
        *,
        kind: str | None = None,
        preload: tuple[str, ...] = (),
        notify_address: str = "",
        lonely_s: float = 60.0,
        uid: int = 0,
        preexec: Callable[[], None] | None = None,
        ready_at_start: bool = True,
        heartbeat_s: float | None = None,
        grace_s: float = 10.0,
    ) -> None:
        # A name of its own, so that every process with its title is one of this zygote's.
        self.kind = kind or f"kind-{secrets.token_hex(4)}"
        self.directory = self.paths = directory
        self.grace_s = grace_s
        self.socket_path = directory / f"{self.kind}.sock"
        self.log_path = directory / f"{self.kind}.log"
        spec = wire.ZygoteSpec(
            kind=self.kind,
            target=target,
            command=(),
            params={},
            preload=preload,
            path=(str(KINDS), str(BOTS)),
            env={"OF_THE_KIND": "yes"},
            cwd=None,
            run_dir=str(directory),
            socket_name=self.socket_path.name,
            log_path=str(self.log_path),
            notify_address=notify_address,
            secrets_dir=str(directory / "secrets"),
            ready_at_start=ready_at_start,
            heartbeat_s=heartbeat_s,
        )
        argv = [sys.executable, "-c", _SCRIPT, json.dumps(dataclasses.asdict(spec)), str(lonely_s), str(uid)]
        # Buffered as usual, whatever the tests were started with.
        env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        self.process = subprocess.Popen(argv, cwd=ROOT, env=env, preexec_fn=preexec)
        self.hello: wire.Hello | None = None
        self._socket: socket.socket | None = None
        self._lines = wire.Lines()
        self._received: list[wire.Message] = []
        self._run_ids = itertools.count(1)
        self.limits: dict[str, Any] = {}
        """Of the bots that are asked for from now on, and their control group."""
        self.cgroup = ""

    # ---- the connection

    def connect(self) -> wire.Hello:
        self.disconnect()

        def connected() -> socket.socket | None:
            attempt = socket.socket(socket.AF_UNIX)
            try:
                attempt.connect(str(self.socket_path))
            except (FileNotFoundError, ConnectionRefusedError):
                attempt.close()
                assert self.process.poll() is None, f"the zygote ended: {self.log()}"
                return None
            return attempt

        connection = wait_for(connected, 10, "the zygote listens")
        assert connection is not None
        connection.settimeout(10)
        self._socket = connection
        self._lines = wire.Lines()
        hello = self.receive()
        assert isinstance(hello, wire.Hello)
        self.hello = hello
        return hello

    def disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def send(self, message: wire.Message) -> None:
        assert self._socket is not None
        self._socket.sendall(wire.encode(message))

    def receive(self) -> wire.Message:
        while not self._received:
            assert self._socket is not None
            try:
                data = self._socket.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                raise EOFError(self.log())
            self._received += map(wire.decode, self._lines.feed(data))
        return self._received.pop(0)

    # ---- bots

    def bot_log(self, bot_id: int) -> str:
        path = self.directory / f"{bot_id}.log"
        return path.read_text() if path.exists() else ""

    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    def order(self, bot_id: int, **params: Any) -> int:
        """Asks for a bot and does not wait; the id of its run."""
        run_id = next(self._run_ids)
        self.send(
            wire.Spawn(
                run_id=run_id,
                bot_id=bot_id,
                name=None,
                labels={},
                params=params,
                log_path=str(self.paths / f"{bot_id}.log"),
                lock_path=str(self.paths / f"{bot_id}.lock"),
                data_dir=str(self.directory / "bots" / str(bot_id)),
                grace_s=self.grace_s,
                limits=self.limits,
                cgroup=self.cgroup,
            )
        )
        return run_id

    def spawn(self, bot_id: int = 1, **params: Any) -> wire.Alive:
        run_id = self.order(bot_id, **params)
        answer = self.receive()
        assert isinstance(answer, wire.Alive), answer
        assert (answer.run_id, answer.bot_id) == (run_id, bot_id)
        return answer

    def ended(self, run_id: int) -> wire.Ended:
        """The end of a run, when nothing of it is left. Ends of other runs are kept for later."""
        others: list[wire.Message] = []
        while True:
            message = self.receive()
            if isinstance(message, wire.Ended) and message.run_id == run_id and message.swept:
                self._received[:0] = others
                return message
            if not (isinstance(message, wire.Ended) and message.run_id == run_id):
                others.append(message)

    def wait_log(self, bot_id: int, text: str) -> str:
        wait_for(lambda: text in self.bot_log(bot_id), 10, f"{text!r} in the log")
        return self.bot_log(bot_id)

    def processes(self) -> list[psutil.Process]:
        """All processes that bear the kind's name: the zygote, bots, and what they forked."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.status() != psutil.STATUS_ZOMBIE and self.kind in " ".join(process.cmdline()):
                    found.append(process)
        return found

    # ---- the end

    def close(self) -> None:
        self.disconnect()
        if self.process.poll() is None:
            zygote = psutil.Process(self.process.pid)

            def alone() -> bool:
                left = zygote.children(recursive=True)
                for process in left:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.send_signal(signal.SIGKILL)
                return not left

            with contextlib.suppress(psutil.NoSuchProcess):
                wait_for(alone, 10, "the zygote is alone")
            self.process.kill()
        with contextlib.suppress(ChildProcessError):
            self.process.wait()
        while orphans := [p for p in self.processes() if p.pid != os.getpid()]:
            for process in orphans:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)
