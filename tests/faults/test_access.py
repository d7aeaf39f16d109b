"""Whoever calls, nothing is let in that may not be, and nothing is told that is secret."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from tests.faults.observe import free_port, ready
from tests.program import Program
from tests.waiting import wait_for

Make = Callable[..., Program]

LIVEZ = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


def command(*argv: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the program with these arguments until it ends."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("BOT_SUPERVISOR_")}
    # Where the tests are run from is where the program is found, wherever it runs.
    env["PYTHONPATH"] = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-m", "supervisor", *argv],
        cwd=cwd, env=env, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def make_tokens(directory: Path) -> tuple[Path, str, str]:
    """A file of tokens as the command makes it, with its tokens."""
    file = directory / "tokens.toml"
    assert command("token", str(file)).returncode == 0
    tokens = tomllib.loads(file.read_text())
    return file, tokens["admin"], tokens["read"]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def connect(program: Program) -> socket.socket:
    return socket.create_connection((program.client.base_url.host, program.client.base_url.port or 0), timeout=10)


def raw(program: Program, request: bytes) -> bytes:
    """All that is answered to these bytes until the connection is closed."""
    with connect(program) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def audited(program: Program) -> list[str]:
    return re.findall(r"^supervisor \| audit \| (.*)$", program.log(), re.M)


# ---- bot-supervisor token


def test_a_file_of_tokens_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    made = command("token", cwd=tmp_path)
    file = tmp_path / "tokens.toml"
    assert (made.returncode, made.stderr) == (0, "")
    assert f"--token-file {file}" in made.stdout
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_text()
    tokens = tomllib.loads(before)
    assert set(tokens) == {"admin", "read"}
    assert len(set(tokens.values())) == 2
    assert all(len(token) == 43 and token not in made.stdout for token in tokens.values())

    again = command("token", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == f"bot-supervisor: {file} is there already, and is left as it is; name another file\n"
    assert file.read_text() == before


def test_tokens_are_shown_when_asked_for_and_links_are_not_followed(tmp_path: Path) -> None:
    shown = command("token", "--show", str(tmp_path / "mine"))
    assert shown.stdout.endswith((tmp_path / "mine").read_text())
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert command("token", str(tmp_path / "link")).returncode == 2
    assert not (tmp_path / "elsewhere").exists()
    assert command("token", str(tmp_path / "no" / "where")).stderr.endswith(": No such file or directory\n")


# ---- tokens


def test_every_wrong_token_is_answered_alike(make_program: Make, tmp_path: Path) -> None:
    file, admin, read = make_tokens(tmp_path)
    program = make_program(flags=["--token-file", str(file)]).start()
    wrong = [
        [],
        [""],
        ["Bearer"],
        ["Bearer "],
        ["Bearer wrong"],
        [f"Bearer {admin[:-1]}"],
        [f"Bearer {admin}x"],
        [f"Basic {admin}"],
        ["Bearer \xfc\xe9"],
        [f"Bearer {admin}", f"Bearer {admin}"],
    ]
    answers = set()
    for values in wrong:
        lines = "".join(f"Authorization: {value}\r\n" for value in values)
        request = f"POST /start HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\r\n".encode("latin-1")
        answers.add(re.sub(rb"\r\ndate: [^\r]*", b"", raw(program, request)))
    [answer] = answers
    assert answer.startswith(b"HTTP/1.1 401 ")

    assert program.post("/start", headers=bearer(read)).status_code == 403
    assert program.get("/bots", headers=bearer(read)).json() == []
    assert program.post("/start", headers=bearer(admin)).json() == {"bot_id": 1}
    assert program.get("/stop/1", headers=bearer(read)).status_code == 403
    assert program.get("/stop/1", headers=bearer(admin)).status_code == 200
    wait_for(lambda: len(audited(program)) >= 4)
    # Of those whom nobody knows nothing is written: they could fill the log.
    assert audited(program) == [
        "read 127.0.0.1 POST /start 403",
        "admin 127.0.0.1 POST /start 200 bots 1",
        "read 127.0.0.1 GET /stop/1 403",
        "admin 127.0.0.1 GET /stop/1 200",
    ]
    assert admin not in program.log()
    assert read not in program.log()
    program.client.headers.update(bearer(read))


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_nothing_listens_wide_without_a_token(tmp_path: Path, host: str) -> None:
    refused = command("--host", host, "--port", "0", "--data-dir", str(tmp_path / "data"))
    assert (refused.returncode, refused.stdout) == (2, "")
    [line] = refused.stderr.splitlines()
    assert line.startswith(f"bot-supervisor: cannot listen on {host}, beyond loopback, without a token")
    assert "bot-supervisor token" in line
    assert not (tmp_path / "data").exists()


# ---- secrets


def test_secrets_and_tokens_are_seen_nowhere(make_program: Make, tmp_path: Path) -> None:
    file, from_file, _ = make_tokens(tmp_path)
    from_env, password = "token-of-the-environment", "correct-horse-battery"
    program = make_program(
        kinds={"secretive": 'target = "secretive:main"'},
        flags=["--token-file", str(file), "--log-level", "debug"],
        env={"BOT_SUPERVISOR_READ_TOKEN": from_env},
    ).start()
    program.client.headers.update(bearer(from_file))
    bot_id = program.start_bot("secretive", params={"password": password})
    pid = ready(program, bot_id, f"{len(password)} characters")

    answers = ["/bots", f"/bots/{bot_id}", "/runs", "/bots_history", "/kinds", "/openapi.json", "/readyz?verbose",
               f"/bots/{bot_id}/logs", "/crashes"]  # fmt: skip
    seen = {path: program.get(path).text for path in answers}
    refused = program.post(f"/start?token={password}", {"kind": "secretive", "params": {"password": [password]}})
    seen |= {"a refusal": refused.text, "log": program.log(), "bot's log": program.bot_log(bot_id)}
    family = program.family()
    assert pid in {process.pid for process in family}
    for process in family:
        seen[f"cmdline of {process}"] = " ".join(process.cmdline())
        # What the supervisor was given in its environment its owner can read there, and nobody else.
        if process.pid != program.pid:
            seen[f"environ of {process}"] = Path(f"/proc/{process.pid}/environ").read_text(errors="replace")
    secrets = {from_file, from_env, password}
    assert [(where, secret) for where, text in seen.items() for secret in secrets if secret in text] == []
    assert refused.status_code == 422

    files = [path for path in program.data_dir.rglob("*") if path.is_file()]
    holders = {path for path in files if any(secret.encode() in path.read_bytes() for secret in secrets)}
    assert {path.parent for path in holders} == {program.data_dir / "secrets"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in holders} == {0o600}
    assert stat.S_IMODE(program.data_dir.stat().st_mode) == 0o700


# ---- audit


def test_what_was_done_is_told_and_no_more(make_program: Make) -> None:
    port = free_port()
    kinds = {"broken": 'target = "raises_at_import:main"'}
    program = make_program(flags=["--log-level", "error", "--port", str(port)], kinds=kinds)
    program.launch()
    program.answers_at(port)
    first = program.start_bot()
    second = program.post("/bots", {"labels": {"team": "of-great-value"}}).json()["bot_id"]
    program.get("/bots")
    program.post("/bots/stop?label=team:of-great-value")
    program.post("/bots/stop?all=true")
    program.post(f"/bots/{first}/signal", {"signal": "SIGHUP"})
    program.post("/bots/77/start?wait=0")
    program.post("/no%0Asuch\u2028path")
    program.client.delete(f"/bots/{second}")
    failed = program.post("/start", {"kind": "broken"})
    program.post("/start", headers={"Origin": "http://evil.example"})
    program.post("/start", headers={"Host": "evil.example"})
    wait_for(lambda: len(audited(program)) >= 10)
    assert audited(program) == [
        f"local 127.0.0.1 POST /start 200 bots {first}",
        f"local 127.0.0.1 POST /bots 201 bots {second}",
        f"local 127.0.0.1 POST /bots/stop 200 bots {second}",
        f"local 127.0.0.1 POST /bots/stop 200 bots {first}",
        f"local 127.0.0.1 POST /bots/{first}/signal 409",
        "local 127.0.0.1 POST /bots/77/start 404",
        "local 127.0.0.1 POST /no%0Asuch%E2%80%A8path 404",
        f"local 127.0.0.1 DELETE /bots/{second} 204",
        f"local 127.0.0.1 POST /start 503 bots {failed.json()['bot_id']}",
        "local 127.0.0.1 POST /start 403",
    ]
    assert "of-great-value" not in program.log()


# ---- the unix socket


def launch_at(program: Program, path: Path) -> None:
    """Starts a program that listens on a unix socket, and makes its client call there."""
    before = len(program.log())
    program.launch()
    program.client.close()
    program.client = httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost", timeout=30)
    said = f"listening on unix:{path}"
    wait_for(lambda: said in program.log()[before:] or not program.running, 20)
    assert program.running, program.log()


def test_a_unix_socket(make_program: Make, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    program = make_program(flags=["--uds", str(path), "--host", "0.0.0.0"])
    launch_at(program, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not psutil.Process(program.pid).net_connections("inet")
    program.start_bot()
    assert program.get("/livez", headers={"Host": "evil.example"}).status_code == 400
    wait_for(lambda: audited(program))
    assert audited(program) == ["local unix POST /start 200 bots 1"]

    other = command("--uds", str(path), "--data-dir", str(tmp_path / "other"))
    assert (other.returncode, other.stderr) == (2, f"bot-supervisor: cannot listen on {path}: Address already in use\n")
    assert program.get("/livez").status_code == 200

    program.kill()
    assert path.is_socket()
    launch_at(program, path)
    assert program.get("/bots").json()[0]["state"] == "running"

    file = path.stat()
    assert program.replace().returncode == 0
    assert os.path.samestat(path.stat(), file), "no client was refused"
    assert program.get("/bots").json()[0]["state"] == "running"
    assert program.terminate() == 0
    assert not path.exists()


@pytest.mark.parametrize("name", ["file", "x" * 200])
def test_what_is_no_socket_is_left_alone(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "file":
        path.write_text("precious")
    refused = command("--uds", str(path), "--data-dir", str(tmp_path / "data"))
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"bot-supervisor: cannot listen on {path}: ")
    assert len(refused.stderr.splitlines()) == 1
    assert not path.is_file() or path.read_text() == "precious"


# ---- slow clients, and too many


def test_clients_that_hold_connections_give_way(make_program: Make) -> None:
    program = make_program(flags=["--max-connections", "4"]).start()
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connect(program)) for _ in range(30)]
        slow = [stack.enter_context(connect(program)) for _ in range(30)]
        for connection in slow:
            connection.sendall(LIVEZ[:-2])
        for _ in range(10):
            with connect(program) as connection:
                connection.sendall(LIVEZ)
                assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        open_ones = [c for c in psutil.Process(program.pid).net_connections("inet") if c.status != "LISTEN"]
        assert len(open_ones) <= 4
        for connection in (*idle, *slow[:20]):
            with contextlib.suppress(ConnectionError):
                assert connection.recv(1) == b""


def test_a_body_that_comes_too_slowly(make_program: Make) -> None:
    """Clients that are owed an answer keep their places, for so long: then others get them."""
    program = make_program(flags=["--max-connections", "4"]).start()
    head = b"POST /start HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n"
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(program)) for _ in range(4)]
        for connection in slow:
            connection.sendall(head)
            assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
            connection.sendall(b"{")
            connection.settimeout(30)
        other = stack.enter_context(connect(program))
        other.settimeout(30)
        other.sendall(LIVEZ)
        assert other.recv(1000).startswith(b"HTTP/1.1 200 ")
        for connection in slow:
            assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")
    assert program.get("/bots").json() == []
