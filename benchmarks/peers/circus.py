"""circus, by its client library over ZeroMQ: a watcher for each bot, since the processes of one share a log."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.peers import environment, peer
from benchmarks.peers.peer import Session

CONFIG = """
[circus]
endpoint = ipc://{directory}/endpoint
pubsub_endpoint = ipc://{directory}/pubsub
"""


class Circus:
    name = "circus"
    lists = "state, pid, CPU, memory"
    restarts = True

    def install(self) -> None:
        environment.install_from_pypi("circus")

    def version(self) -> str:
        return environment.pypi_version("circus")

    @contextlib.contextmanager
    def running(self, kind: str, capacity: int) -> Iterator[Session]:
        program = environment.program_of("circus", "circusd")
        with tempfile.TemporaryDirectory(prefix="benchmark-circus-") as name:
            directory = Path(name)
            (directory / "logs").mkdir()
            logs = peer.Logs(directory / "logs")
            config = directory / "circus.ini"
            config.write_text(CONFIG.format(directory=directory))
            process = subprocess.Popen(
                [str(program), "--log-level", "warning", "--log-output", str(directory / "circus.log"), str(config)],
                stdin=subprocess.DEVNULL,
                env=environment.VARIABLES,
            )
            client = peer.Client(
                str(environment.program_of("circus", "python")),
                str(Path(__file__).parent / "clients" / "circus_client.py"),
                f"ipc://{directory}/endpoint",
            )
            try:
                client.ask("list")  # It waits until there is someone who answers.
                yield peer.Told(process.pid, client, kind, logs)
            finally:
                client.close()
                peer.end(process.pid)
                process.wait()
                logs.first_lines.close()
