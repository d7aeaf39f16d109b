"""s6, by its commands: s6-svscan with a service directory for each bot, declared beforehand and down.

Each bot writes to its log by itself, which is less than s6 is mostly used with: a logger process for each.
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.peers import environment, peer
from benchmarks.peers.peer import Listed, Session

AT_ONCE = 50
"""Commands under way at the same time."""


class S6:
    name = "s6"
    lists = "state, pid (a command for each bot)"
    restarts = True

    def install(self) -> None:
        environment.install_from_debian("s6")

    def version(self) -> str:
        return environment.debian_version("s6")

    @contextlib.contextmanager
    def running(self, kind: str, capacity: int) -> Iterator[Session]:
        with tempfile.TemporaryDirectory(prefix="benchmark-s6-") as name:
            services, log_dir = Path(name) / "services", Path(name) / "logs"
            log_dir.mkdir()
            logs = peer.Logs(log_dir)
            for number in range(capacity):
                service = services / str(number)
                service.mkdir(parents=True)
                (service / "down").touch()
                command = shlex.join(peer.command(kind, logs.report(number)))
                run = service / "run"
                run.write_text(f"#!/bin/sh\nexec {command} >>{shlex.quote(str(logs.log(number)))}\n")
                run.chmod(0o755)
            process = subprocess.Popen(
                ["s6-svscan", "-c", str(2 * capacity + 10), str(services)], stdin=subprocess.DEVNULL
            )
            try:
                controls = [services / str(number) / "supervise" / "status" for number in range(capacity)]
                peer.wait_until(lambda: all(path.exists() for path in controls), "s6 supervises all services")
                yield _Running(process.pid, services, logs, capacity)
            finally:
                peer.end(process.pid)
                process.wait()
                logs.first_lines.close()


class _Running:
    def __init__(self, pid: int, services: Path, logs: peer.Logs, capacity: int) -> None:
        self.root_pid = pid
        self.first_lines = logs.first_lines
        self.log = logs.log
        self.report = logs.report
        self._services = services
        self._free = list(range(capacity))
        self._started: list[int] = []

    def start(self, count: int) -> list[int]:
        numbers, self._free = self._free[:count], self._free[count:]
        self.first_lines.forget(numbers)
        self._run([["s6-svc", "-u", self._service(number)] for number in numbers])
        self._started += numbers
        return numbers

    def stop(self, numbers: Sequence[int]) -> None:
        self._run([["s6-svc", "-d", self._service(number)] for number in numbers])
        self._started = [number for number in self._started if number not in set(numbers)]
        self._free += numbers

    def listing(self) -> list[Listed]:
        said = self._run([["s6-svstat", "-o", "pid", self._service(number)] for number in self._started])
        pids = [int(line) for line in said]
        return [Listed(number=number, pid=pid) for number, pid in zip(self._started, pids, strict=True) if pid > 0]

    def _service(self, number: int) -> str:
        return str(self._services / str(number))

    def _run(self, commands: Sequence[Sequence[str]]) -> list[str]:
        """Runs commands side by side; what each said."""
        said: list[str] = []
        for first in range(0, len(commands), AT_ONCE):
            some = [
                subprocess.Popen(one, stdout=subprocess.PIPE, text=True) for one in commands[first : first + AT_ONCE]
            ]
            for process in some:
                said.append(process.communicate()[0])
                if process.returncode != 0:
                    raise RuntimeError(f"{process.args!r} has ended with {process.returncode}")
        return said
