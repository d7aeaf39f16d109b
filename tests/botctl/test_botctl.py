"""botctl as a user calls it: the real command, against the real program."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from supervisor.botctl import listings
from supervisor.botctl.exits import MEANING, Exit
from tests.program import Program
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]
KINDS = {
    "crashing": 'target = "misbehaving:raises"\nrestart = {policy = "never"}\nready = "notify"',
    "rude": r"""command = ["sh", "-c", "printf '\\033[31mred\\033[2J\\n'; exec sleep 1000"]""",
}
COMMAND = [sys.executable, "-m", "supervisor.botctl"]


def environment(url: str = "", **more: str) -> dict[str, str]:
    usual = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BOT_SUPERVISOR_", "NO_COLOR", "FORCE_COLOR"))
    }
    return usual | {"BOT_SUPERVISOR_URL": url, "PYTHONWARNINGS": "error"} | more


class Running:
    """A command that runs. What it prints is read by a thread of its own."""

    def __init__(self, process: subprocess.Popen[str], errors: IO[bytes]) -> None:
        self._process = process
        self._errors = errors
        self._lines: list[str] = []
        assert process.stdout is not None
        self._reader = threading.Thread(target=self._lines.extend, args=(process.stdout,), daemon=True)
        self._reader.start()

    def out(self) -> str:
        """What has come so far."""
        return "".join(self._lines)

    def err(self) -> str:
        # Not by `read`: where that is, the command writes next.
        return os.pread(self._errors.fileno(), 65536, 0).decode()

    def ended(self) -> int:
        """Its exit code, once it has ended by itself and all that it printed is read."""
        code = self._process.wait(20)
        self._reader.join(20)
        return code


class Botctl:
    """Calls botctl for one supervisor."""

    def __init__(self, program: Program) -> None:
        self.env = environment(str(program.client.base_url))

    def __call__(self, *arguments: str, expected: int = 0, **popen: Any) -> subprocess.CompletedProcess[str]:
        usual: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 50, "env": self.env, "cwd": ROOT}
        done = subprocess.run([*COMMAND, *arguments], **(usual | popen))
        assert done.returncode == expected, (arguments, done)
        assert "Traceback" not in (done.stderr or ""), done.stderr
        return done

    def json(self, *arguments: str, expected: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", expected=expected).stdout)

    @contextmanager
    def running(self, *arguments: str, told: str = "", code: Exit = Exit.INTERRUPTED) -> Iterator[Running]:
        """The command while it runs; it is ended by SIGINT, as Ctrl-C does, unless another code is expected.

        `told`: on stderr, before that.
        """
        with (
            tempfile.TemporaryFile() as errors,
            subprocess.Popen(
                [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=errors, text=True, env=self.env, cwd=ROOT
            ) as process,
        ):
            try:
                it = Running(process, errors)
                yield it
                if code is Exit.INTERRUPTED:
                    wait_for(lambda: it.err() == told, what=f"it has told {told!r}")
                    process.send_signal(signal.SIGINT)
                assert (it.ended(), it.err()) == (code, told), it.out()
            finally:
                process.kill()
                it.ended()


@pytest.fixture
def botctl(shared: Program) -> Botctl:
    return Botctl(shared)


def on_a_terminal(
    *arguments: str, env: dict[str, str], columns: int = 100, until: str | None = None
) -> tuple[str, int]:
    """What the command shows on a terminal, and its exit code. `until`: Ctrl-C is pressed once this is shown."""
    ours, theirs = pty.openpty()
    env = {**env, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "30"}
    with subprocess.Popen([*COMMAND, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=env, cwd=ROOT) as it:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 65536):
                shown += chunk
                if until is not None and until in shown.decode(errors="replace"):
                    it.send_signal(signal.SIGINT)
                    until = None
        except OSError:  # The other side was closed.
            pass
        except BaseException:
            # Nobody would end it, and it is waited for.
            it.kill()
            raise
        finally:
            os.close(ours)
    return shown.decode(), it.returncode


# ---- a fleet


def test_a_life(botctl: Botctl, shared: Program) -> None:
    bot = botctl.json("start", "--param", "start_number=12", "--name", "adder", "--label", "team=a", "--wait")
    bot_id = str(bot["bot_id"])
    assert (bot["state"], bot["params"], bot["labels"]) == ("running", {"start_number": 12}, {"team": "a"})
    [header, row] = botctl("ps").stdout.splitlines()
    assert header.split() == ["ID", "NAME", "KIND", "STATE", "PID", "CPU", "MEM", "UPTIME", "RESTARTS", "REASON"]
    assert row.split()[:5] == [bot_id, "adder", "counter", "running", str(bot["pid"])]
    assert [each["bot_id"] for each in botctl.json("ps", "--label", "team=a", "--kind", "counter")] == [bot["bot_id"]]
    assert botctl.json("ps", "--name", "nobody") == []
    wait_for(lambda: "12" in shared.bot_log(bot["bot_id"]), what="it has printed")
    assert botctl("logs", bot_id).stdout.startswith("12\n")
    shown = botctl("show", bot_id).stdout
    assert all(text in shown for text in ("adder", "its process is ready", "start_number=12", "team=a"))
    # The last ten lines, which on a slow machine are no longer the first.
    assert re.search(r"^\| \d+$", shown, re.M)
    assert "restarted" not in botctl("restart", bot_id).stdout
    assert botctl("stop", bot_id).stdout.startswith(f"bot {bot_id} stopped: ")
    assert [each["state"] for each in botctl.json("ps", "-a")] == ["stopped"]
    assert [run["cause"] for run in botctl.json("runs", "--bot", bot_id)] == ["restarted", "stopped"]
    assert [run["start_number"] for run in botctl.json("history", "--since", "1h")] == [12, 12]
    assert " stopped " in botctl("history").stdout
    assert " restarted " in botctl("runs", "--cause", "restarted").stdout
    assert botctl.json("start", bot_id)["results"][0]["ok"]
    botctl("signal", bot_id, "cont")
    assert botctl("delete", bot_id).stdout == f"bot {bot_id} deleted\n"
    assert botctl("show", bot_id, expected=Exit.REFUSED).stderr == f"botctl: there is no bot {bot_id}\n"


def test_a_frozen_bot_is_seen(botctl: Botctl, shared: Program) -> None:
    bot_id = shared.start_bot()
    botctl("signal", str(bot_id), "STOP")

    def is_frozen() -> bool:
        bot: dict[str, Any] = shared.bot(bot_id)
        return (bot["frozen"], bot["reason"]) == (True, "frozen by a signal (state T)")

    wait_for(is_frozen, what="SIGSTOP has come")
    assert "frozen by a signal (state T)" in botctl("ps").stdout
    assert "frozen by a signal (state T)" in botctl("show", str(bot_id)).stdout
    botctl("signal", str(bot_id), "CONT")
    wait_for(lambda: shared.bot(bot_id)["frozen"] is False, what="SIGCONT has come")
    assert "frozen" not in botctl("ps").stdout


def test_many(botctl: Botctl) -> None:
    ids = [str(botctl.json("start", "--label", f"n={number % 2}")["bot_id"]) for number in range(3)]
    assert len(botctl("restart", "--label", "n=0", "--max-parallel", "1").stdout.splitlines()) == 2
    done = botctl("stop", *ids, "99999", expected=Exit.NOT_ALL_WELL)
    assert len(done.stdout.splitlines()) == 3
    assert done.stderr == "botctl: bot 99999: there is no bot 99999\n"
    results = botctl.json("delete", *ids, "99999", expected=Exit.NOT_ALL_WELL)["results"]
    assert [result["ok"] for result in results] == [True, True, True, False]
    assert botctl.json("stop", "--all") == {"results": []}
    assert "nothing was done" in botctl("stop", "--kind", "counter").stderr


def test_crashes_and_kinds(botctl: Botctl, shared: Program) -> None:
    bot_id = shared.start_bot("crashing")
    shared.wait_state(bot_id, "failed")
    shared.ended_runs(bot_id)
    [group] = botctl.json("crashes", "--kind", "crashing")
    assert (group["count"], group["bot_id"]) == (1, bot_id)
    assert group["type"] in botctl("crashes").stdout
    assert botctl("start", "crashing", "--wait", expected=Exit.NOT_ALL_WELL).stderr.startswith("botctl: bot ")
    assert group["type"] in botctl("show", str(bot_id)).stdout
    assert [kind["name"] for kind in botctl.json("kinds")] == sorted(["counter", *KINDS])
    assert "start_number" in botctl("kinds").stdout


# ---- how it ends


def test_every_exit_code_is_told() -> None:
    told = re.findall(r"^\| (\d+) \| (.*) \|$", (ROOT / "docs" / "botctl.md").read_text(), re.M)
    assert {int(code): meaning for code, meaning in told} == {code.value: what for code, what in MEANING.items()}


@pytest.mark.parametrize(
    "arguments",
    [
        ["start", "--param", "nonsense"],
        ["start", "--count", "0"],
        ["start", "12", "--name", "new"],
        ["start", "counter", "other"],
        ["stop"],
        ["stop", "1", "--all"],
        ["stop", "one"],
        ["logs", "-n", "0"],
        ["runs", "--since", "yesterday"],
        ["runs", "--since", "999999999999d"],
        ["ps", "--label", "team"],
        ["ps", "--url", "nonsense"],
        ["ps", "--no-such-option"],
        ["no-such-command"],
        ["wait", "1", "--for", "rain"],
        ["top"],
        ["events", "--since", "1"],
    ],
)
def test_usage(arguments: list[str], botctl: Botctl) -> None:
    done = botctl(*arguments, expected=Exit.USAGE)
    assert (done.stdout, done.stderr.count("\n")) == ("", 1), done
    assert done.stderr.startswith("botctl: ")


def test_refusals_and_nobody(botctl: Botctl) -> None:
    assert botctl("start", "nonsense", expected=Exit.REFUSED).stderr.startswith("botctl: there is no kind 'nonsense'")
    assert "start_number" in botctl("start", "--param", "start_number=x", expected=Exit.REFUSED).stderr
    assert botctl("ps", "--state", "happy", expected=Exit.REFUSED).stderr.count("\n") == 1
    with socket.socket() as taken:  # It is bound, and does not listen.
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        for arguments in (["ps"], ["start"], ["logs", "-f"], ["events", "-f"], ["wait", "1"], ["top", "--json"]):
            done = botctl(*arguments, "--url", url, expected=Exit.NO_SERVER)
            assert done.stderr == f"botctl: no supervisor answers at {url}: Connection refused\n"


def test_help(botctl: Botctl) -> None:
    told = botctl("--help").stdout
    assert "Exit codes: 0 " in told
    assert botctl().stdout == told
    for command in re.findall(r"^  (\w+)  ", told.partition("Commands:")[2], re.M):
        assert "--json" in botctl(command, "--help").stdout
        assert f"botctl {command}" in (ROOT / "docs" / "botctl.md").read_text()


def test_who_reads_has_gone(botctl: Botctl) -> None:
    botctl("start")
    script = " ".join([*COMMAND, "ps", "--json"]) + " | true; echo ${PIPESTATUS[0]}"
    done = subprocess.run(
        ["bash", "-c", f"set +o pipefail; {script}"],
        env=botctl.env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stderr == ""
    assert done.stdout in ("1\n", "0\n")  # It may have been quicker


def test_streams_that_cannot_be_written(botctl: Botctl) -> None:
    with open("/dev/full", "w") as full:
        done = botctl("ps", expected=Exit.NOT_ALL_WELL, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.stderr == "botctl: cannot write: No space left on device\n"
    closed = f"exec {' '.join([*COMMAND, 'start'])} >&- 2>&-"
    assert subprocess.run(["sh", "-c", closed], env=botctl.env, cwd=ROOT, timeout=30).returncode == 0


def test_it_starts_without_the_server(botctl: Botctl) -> None:
    check = (
        "import sys; from supervisor.botctl import app; code = app.run(['ps', '--json']);"
        "print(code, sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], env=botctl.env, cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert done.stderr.startswith("0 [")
    loaded = set(re.findall(r"'(\w+)'", done.stderr))
    assert {"httpx", "typer"} <= loaded
    assert not loaded & {"fastapi", "uvicorn", "peewee", "starlette", "psutil"}


# ---- terminals


def test_colours_are_for_terminals_alone(botctl: Botctl) -> None:
    botctl("start", "--name", "x" * 60, "--wait")
    assert "\x1b" not in botctl("ps").stdout
    shown, code = on_a_terminal("ps", env=botctl.env)
    assert code == 0
    assert "\x1b[32mrunning" in shown
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown).splitlines()
    assert len(plain) == 2
    assert all(len(row) <= 100 for row in plain)
    shown, code = on_a_terminal("ps", env=botctl.env | {"NO_COLOR": "1"})
    assert "\x1b[32m" not in shown
    shown, code = on_a_terminal("stop", "--all", env=botctl.env)
    assert "stopping" in shown
    assert code == 0


def test_top(botctl: Botctl) -> None:
    botctl("start", "--name", "adder", "--wait")
    shown, code = on_a_terminal("top", "--interval", "0.2", env=botctl.env, until="adder")
    assert code == Exit.INTERRUPTED
    assert "bots 1  running 1" in shown
    assert shown.endswith("\x1b[?25h\x1b[?1049l"), "the cursor is back, and what was there before"
    assert "Traceback" not in shown


class _Interrupted(io.StringIO):
    """A terminal at which Ctrl-C is pressed while it shows bots for the first time."""

    pressed = False

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if "running" in text and not self.pressed:
            self.pressed = True
            raise KeyboardInterrupt
        return super().write(text)


def test_top_ends_well_in_the_middle_of_its_first_look(shared: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stdout", screen := _Interrupted())
    with pytest.raises(KeyboardInterrupt):
        listings.top(url=str(shared.client.base_url))
    assert screen.getvalue().startswith("\x1b[?1049h")
    assert screen.getvalue().endswith("\x1b[?25h\x1b[?1049l")


def test_bots_cannot_act_on_the_terminal(botctl: Botctl, shared: Program) -> None:
    bot_id = str(botctl.json("start", "rude")["bot_id"])
    wait_for(lambda: "red" in shared.bot_log(int(bot_id)), what="it has printed")
    for shown in (
        botctl("logs", bot_id).stdout,
        botctl("show", bot_id).stdout,
        botctl("logs", bot_id, "--json").stdout,
    ):
        assert "\x1b" not in shown
        assert "red" in shown
    shown, _ = on_a_terminal("logs", bot_id, env=botctl.env)
    assert shown == "\\x1b[31mred\\x1b[2J\r\n"


# ---- ways in


def test_token_and_unix_socket(make_program: Callable[..., Program], tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    subprocess.run(
        [sys.executable, "-m", "supervisor", "token", str(tokens)], check=True, cwd=ROOT, capture_output=True
    )
    program = make_program(flags=["--token-file", str(tokens)]).start()
    admin, read = re.findall('= "(.*)"', tokens.read_text())
    program.client.headers["Authorization"] = f"Bearer {admin}"
    botctl = Botctl(program)
    assert "token" in botctl("ps", expected=Exit.REFUSED).stderr.lower()
    botctl.env["BOT_SUPERVISOR_TOKEN_FILE"] = str(tokens)
    bot_id = botctl.json("start")["bot_id"]
    assert botctl.json("ps")[0]["bot_id"] == bot_id
    tokens.chmod(0o644)
    assert "chmod 600" in botctl("ps", expected=Exit.USAGE).stderr
    botctl.env["BOT_SUPERVISOR_TOKEN"] = read
    botctl("ps")
    botctl("stop", str(bot_id), expected=Exit.REFUSED)


def test_a_unix_socket(make_program: Callable[..., Program], tmp_path: Path) -> None:
    path = tmp_path / "socket"
    # What clients are told by their environment is no setting of the supervisor's.
    program = make_program(flags=["--uds", str(path)], env={"BOT_SUPERVISOR_URL": f"unix:{path}"})
    program.launch()
    botctl = Botctl(program)
    botctl.env = environment(f"unix:{path}", HTTP_PROXY="http://127.0.0.1:1")
    wait_for(path.exists, 20, "it listens")
    bot_id = str(botctl.json("start")["bot_id"])
    assert botctl("stop", bot_id).stdout.startswith(f"bot {bot_id} stopped")
    program.terminate()
