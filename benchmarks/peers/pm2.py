"""PM2, by its node API: a daemon of its own, with a home of its own."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.peers import environment, peer
from benchmarks.peers.peer import Session


class PM2:
    name = "pm2"
    lists = "state, pid, CPU, memory"
    restarts = True

    def install(self) -> None:
        environment.install_from_npm("pm2")

    def version(self) -> str:
        return environment.npm_version("pm2")

    @contextlib.contextmanager
    def running(self, kind: str, capacity: int) -> Iterator[Session]:
        with tempfile.TemporaryDirectory(prefix="benchmark-pm2-", ignore_cleanup_errors=True) as name:
            directory = Path(name)
            (directory / "logs").mkdir()
            logs = peer.Logs(directory / "logs")
            client = peer.Client(
                "node",
                str(Path(__file__).parent / "clients" / "pm2_client.js"),
                str(environment.CACHE / "pm2"),
                PM2_HOME=str(directory / "home"),
            )
            pid = 0
            try:
                client.ask("connect")  # It starts the daemon.
                pid = int((directory / "home" / "pm2.pid").read_text())
                yield peer.Told(pid, client, kind, logs)
            finally:
                # The daemon is nobody's child: what it has as bots is looked for while it is there.
                if pid:
                    peer.end(pid)
                client.close()
                logs.first_lines.close()
