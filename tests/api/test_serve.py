"""The program around the server: its signals, its socket, its directory."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from supervisor import data_directory
from supervisor.api import listener
from supervisor.core import errors
from tests.waiting import wait_for


class Fake:
    """A process of `serve_fake`."""

    def __init__(self, directory: Path, *flags: str, env: dict[str, str] | None = None) -> None:
        self.output = directory / "output"
        environ = {name: value for name, value in os.environ.items() if not name.startswith("BOT_SUPERVISOR_")}
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.api.serve_fake",
                    "--data-dir",
                    str(directory / "data"),
                    "--port=0",
                    *flags,
                ],
                env=environ | (env or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def wait_listening(self) -> httpx.Client:
        url = wait_for(lambda: re.search(r"listening on (http://\S+)", self.output.read_text()), 20)
        return httpx.Client(base_url=url[1] if url else "", timeout=5)

    def end(self) -> int:
        return self.process.wait(20)


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Fake]:
    fake = Fake(tmp_path)
    try:
        yield fake
    finally:
        fake.process.kill()
        fake.process.wait()


def test_shutdown(fake: Fake) -> None:
    with fake.wait_listening() as client:
        client.post("/start").raise_for_status()
        fake.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "SIGHUP" in fake.output.read_text())
        assert client.get("/livez").status_code == 200

        fake.process.send_signal(signal.SIGTERM)
        wait_for(lambda: client.post("/start").status_code == 503)
        assert client.post("/start").json()["type"] == "/problems/shutting-down"
        # Reads are answered until all bots are gone, and further signals change nothing.
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            fake.process.send_signal(signum)
            assert client.get("/bots").json()[0]["state"] == "running"

        fake.process.send_signal(signal.SIGUSR1)
        assert fake.end() == 0
    assert "Traceback" not in fake.output.read_text()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_shutdown_with_clients_that_hold_on(fake: Fake, signum: int) -> None:
    with fake.wait_listening() as client:
        port = client.base_url.port or 0
        idle = socket.create_connection(("127.0.0.1", port))
        half = socket.create_connection(("127.0.0.1", port))
        half.sendall(b"POST /start HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{")
        client.get("/livez").raise_for_status()
        fake.process.send_signal(signal.SIGUSR1)
        fake.process.send_signal(signum)
        assert fake.end() == 0
        idle.close()
        half.close()
    assert "Traceback" not in fake.output.read_text()


def test_a_second_supervisor_leaves_the_first_alone(fake: Fake, tmp_path: Path) -> None:
    with fake.wait_listening() as client:
        other = subprocess.run(
            [sys.executable, "-m", "tests.api.serve_fake", "--data-dir", str(tmp_path / "data"), "--port", "0"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert other.returncode == errors.DataDirectoryBusy.exit_code
        assert other.stderr.splitlines() == [
            f"bot-supervisor: another supervisor (pid {fake.process.pid}) works in {tmp_path / 'data'}"
        ]
        assert client.get("/livez").status_code == 200


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        program = Fake(tmp_path, f"--port={port}")
        assert program.end() == errors.SettingsRefused.exit_code
    [line] = program.output.read_text().splitlines()
    assert line == f"bot-supervisor: cannot listen on 127.0.0.1, port {port}: Address already in use"


def test_tokens_are_guarded_and_not_inherited(tmp_path: Path) -> None:
    program = Fake(tmp_path, env={"BOT_SUPERVISOR_ADMIN_TOKEN": "sesame-sesame"})
    try:
        with program.wait_listening() as client:
            assert client.get("/bots").status_code == 401
            headers = {"Authorization": "Bearer sesame-sesame"}
            assert client.get("/bots", headers=headers).status_code == 200
            program.process.send_signal(signal.SIGUSR1)
            program.process.send_signal(signal.SIGTERM)
            assert program.end() == 0
    finally:
        program.process.kill()
        program.process.wait()
    assert "sesame" not in program.output.read_text()


def test_the_data_directory_is_private(tmp_path: Path) -> None:
    data = tmp_path / "a" / "data"
    with data_directory.held(data):
        assert data.stat().st_mode & 0o777 == 0o700
        assert (data / "supervisor.lock").stat().st_mode & 0o777 == 0o600
        with pytest.raises(errors.DataDirectoryBusy, match=f"pid {os.getpid()}"), data_directory.held(data):
            pass
    with data_directory.held(data):
        pass


def test_a_data_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(errors.SettingsRefused, match="cannot use"), data_directory.held(tmp_path / "file"):
        pass


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid"])
def test_an_address_that_is_not_ours(host: str) -> None:
    with pytest.raises(errors.SettingsRefused, match="cannot listen on"):
        listener.listen(host, 0)
