"""Settings and the command line: where values come from, and how a wrong one is refused."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from supervisor import __version__, settings
from supervisor.cli import app, check, serve
from supervisor.core import errors, model


@pytest.fixture(autouse=True)
def environ(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.startswith(settings.PREFIX):
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def refusal(flags: dict[str, Any] | None = None) -> str:
    with pytest.raises(errors.SettingsRefused) as refused:
        settings.read(flags or {})
    assert "\n" not in refused.value.detail
    return refused.value.detail


# ---- where values come from


def test_defaults() -> None:
    chosen = settings.read({})
    assert (chosen.host, chosen.port, chosen.data_dir) == ("127.0.0.1", 8000, Path.cwd() / "data")
    assert (chosen.log_limit_bytes, chosen.shutdown_s, chosen.grace_s, chosen.start_timeout_s) == (
        10 * 2**20,
        5,
        10,
        30,
    )
    assert (chosen.admin_token, chosen.read_token, chosen.trusted_network) == (None, None, False)
    assert list(chosen.kinds) == ["counter"]


def test_flags_then_environment_then_file_then_defaults(environ: pytest.MonkeyPatch, config: Path) -> None:
    config.write_text('port = 1\nlog_level = "error"\ngrace_s = 1\n')
    environ.setenv("BOT_SUPERVISOR_CONFIG", str(config))
    environ.setenv("BOT_SUPERVISOR_PORT", "2")
    environ.setenv("BOT_SUPERVISOR_LOG_LEVEL", "debug")
    environ.setenv("BOT_SUPERVISOR_HOST", "")
    chosen = settings.read({"port": "3"})
    assert (chosen.port, chosen.log_level, chosen.grace_s, chosen.host) == (3, "debug", 1, "127.0.0.1")


def test_lists_are_written_with_commas(environ: pytest.MonkeyPatch, config: Path) -> None:
    environ.setenv("BOT_SUPERVISOR_ALLOWED_HOSTS", "a.example, b.example")
    assert settings.read({}).allowed_hosts == ["a.example", "b.example"]
    assert settings.read({"allowed_hosts": "c.example"}).allowed_hosts == ["c.example"]
    environ.delenv("BOT_SUPERVISOR_ALLOWED_HOSTS")
    config.write_text('allowed_hosts = ["d.example"]')
    assert settings.read({"config": str(config)}).allowed_hosts == ["d.example"]


def test_kinds(environ: pytest.MonkeyPatch, config: Path) -> None:
    config.write_text("""
        grace_s = 2
        [kinds.trader]
        target = "bots.trader:main"
        path = ["bots"]
        env = {A = "b"}
        start_timeout_s = 1.5
        [kinds.trader.restart]
        policy = "always"
        max_restarts = 9
    """)
    kinds = settings.read({"config": str(config)}).kinds
    trader, counter = kinds["trader"], kinds["counter"]
    assert (trader.target, trader.path, trader.env) == ("bots.trader:main", (Path.cwd() / "bots",), {"A": "b"})
    assert (trader.grace_s, trader.start_timeout_s) == (2, 1.5)
    assert trader.restart_policy == model.RestartPolicy(policy=model.Policy.ALWAYS, max_restarts=9)
    assert (counter.target, counter.grace_s, counter.start_timeout_s) == ("botproc.counter:main", 2, 30)

    environ.setenv("BOT_SUPERVISOR_KINDS", json.dumps({"counter": {"target": "mine:main"}}))
    assert {name: kind.target for name, kind in settings.read({}).kinds.items()} == {"counter": "mine:main"}


@pytest.fixture
def site(tmp_path: Path, environ: pytest.MonkeyPatch) -> Path:
    """A directory on the path in which distributions can be installed."""
    site = tmp_path / "site"
    site.mkdir()
    environ.syspath_prepend(site)
    return site


def install(site: Path, name: str, entry_points: str) -> None:
    directory = site / f"{name}-1.0.dist-info"
    directory.mkdir()
    (directory / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (directory / "entry_points.txt").write_text(entry_points)


def test_what_a_kind_works_out_is_none_of_its_settings() -> None:
    def make() -> settings.Kind:
        return settings.Kind(target="a:b", restart=settings.Restart(factor=3), limits=settings.Limits(nice=5))

    used, unused = make(), make()
    assert used.restart_policy is used.restart_policy == model.RestartPolicy(factor=3)
    assert used.default_limits is used.default_limits == model.Limits(nice=5)
    assert used == unused
    assert used.model_dump() == unused.model_dump()
    assert used.model_dump_json() == unused.model_dump_json()


def test_kinds_of_installed_distributions(site: Path, config: Path) -> None:
    chosen = settings.read({})
    install(site, "mybots", "[bot_supervisor.kinds]\necho = mybots.echo:main\ntrader = mybots:trade\nold = mybots:old")
    config.write_text("""
        [kinds.echo]
        grace_s = 3
        [kinds.old]
        command = ["node", "old.js"]
        [kinds.counter]
        grace_s = 4
    """)
    kinds = settings.read({"config": str(config)}, chosen).kinds
    assert sorted(kinds) == ["counter", "echo", "old", "trader"]
    assert (kinds["echo"].target, kinds["echo"].grace_s) == ("mybots.echo:main", 3)
    assert (kinds["trader"].target, kinds["trader"].grace_s) == ("mybots:trade", 10)
    assert (kinds["old"].target, kinds["old"].command) == (None, ("node", "old.js"))
    assert (kinds["counter"].target, kinds["counter"].grace_s) == ("botproc.counter:main", 4)


@pytest.mark.parametrize(
    ("entry_points", "words"),
    [
        ("[bot_supervisor.kinds]\nbad = os", "'bad' = 'os' brings no kind"),
        ("[bot_supervisor.kinds]\nbad = a:b [extra]", "brings no kind"),
        ("[bot_supervisor.kinds]\na b = a:b", "'a b' = 'a:b' brings no kind"),
        ("[bot_supervisor.kinds]\ngood = other:main", "there is 'mine:main' already"),
        ("[bot_supervisor.kinds]\nnothing", "cannot be read"),
        ("[bot_supervisor.kinds]\n\udcff = a:b", "cannot be read"),
    ],
)
def test_entry_points_that_are_wrong_are_left_out(
    site: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path, entry_points: str, words: str
) -> None:
    install(site, "good", "[bot_supervisor.kinds]\ngood = mine:main")
    later = tmp_path / "later"
    later.mkdir()
    sys.path.append(str(later))
    install(later, "bad", "")
    (later / "bad-1.0.dist-info" / "entry_points.txt").write_bytes(entry_points.encode(errors="surrogateescape"))
    kinds = settings.read({}).kinds
    assert {name: kind.target for name, kind in kinds.items()} == {
        "counter": "botproc.counter:main",
        "good": "mine:main",
    }
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert words in caplog.text


def test_read_again(environ: pytest.MonkeyPatch, config: Path) -> None:
    """With the same tokens, which have left the environment, and with the file and its errors as they are now."""
    environ.setenv("BOT_SUPERVISOR_ADMIN_TOKEN", "aaa")
    config.write_text("")
    flags = {"config": str(config), "host": "0.0.0.0"}
    chosen = settings.read(flags)
    config.write_text('grace_s = 2\n[kinds.new]\ntarget = "a:b"')
    again = settings.read(flags, chosen)
    assert again.admin_token == chosen.admin_token
    assert again.kinds["new"].grace_s == 2
    config.write_text('grace_s = 2\n[kinds.new]\ntarget = "a:b')
    with pytest.raises(errors.SettingsRefused, match=rf"{config}: is not TOML: .*line 3") as refused:
        settings.read(flags, chosen)
    assert "\n" not in refused.value.detail


# ---- tokens


def test_tokens_leave_the_environment(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("BOT_SUPERVISOR_ADMIN_TOKEN", "aaa")
    environ.setenv("bot_supervisor_read_token", "rrr")
    chosen = settings.read({})
    assert chosen.admin_token
    assert chosen.read_token
    assert (chosen.admin_token.get_secret_value(), chosen.read_token.get_secret_value()) == ("aaa", "rrr")
    assert not [name for name in os.environ if "TOKEN" in name.upper() and name.upper().startswith(settings.PREFIX)]
    assert "aaa" not in repr(chosen)


def test_tokens_from_a_file(environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text('admin = "aaa"\nread = "rrr"\n')
    file.chmod(0o600)
    chosen = settings.read({"token_file": str(file)})
    assert chosen.admin_token
    assert chosen.admin_token.get_secret_value() == "aaa"
    environ.setenv("BOT_SUPERVISOR_ADMIN_TOKEN", "env")
    chosen = settings.read({"token_file": str(file)})
    assert chosen.admin_token
    assert chosen.admin_token.get_secret_value() == "env"


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        ('admin = "a"', 0o640, "chmod 600"),
        ('admin = "a"', 0o604, "chmod 600"),
        ('admin = "a"\nuser = "b"', 0o600, "must have the lines"),
        ("admin = 1", 0o600, "must have the lines"),
        ("", 0o600, "must have the lines"),
        ("aaa", 0o600, "is not TOML"),
        ('admin = ""', 0o600, "neither empty"),
        ('admin = "a b"', 0o600, "neither empty"),
        ('admin = "ä"', 0o600, "visible ASCII"),
        ('read = "a"', 0o600, "no admin token"),
        ('admin = "a"\nread = "a"', 0o600, "must differ"),
    ],
)
def test_token_files_that_are_refused(tmp_path: Path, text: str, mode: int, words: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(text)
    file.chmod(mode)
    assert words in refusal({"token_file": str(file)})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "bots.example"])
def test_no_wide_address_without_a_token(environ: pytest.MonkeyPatch, host: str) -> None:
    line = refusal({"host": host})
    assert f"cannot listen on {host}" in line
    assert "bot-supervisor token" in line
    assert settings.read({"host": host, "uds": "socket"}).uds == Path.cwd() / "socket"
    assert settings.read({"host": host, "trusted_network": True}).host == host
    environ.setenv("BOT_SUPERVISOR_ADMIN_TOKEN", "aaa")
    assert settings.read({"host": host}).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_token(host: str) -> None:
    assert settings.read({"host": host}).host == host


# ---- what is refused


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("port = ", "is not TOML"),
        ("prt = 1", "prt: there is no such setting"),
        ("port = 70000", "port: "),
        ('admin_token = "a"', "admin_token: "),
        ('config = "other"', "config: "),
        ("kinds = 3", "kinds: "),
        ("[kinds.x]", "kinds.x: "),
        ('[kinds.x]\ntarget = "no colon"', "kinds.x.target: "),
        ('[kinds.x]\ntarget = "a:b"\nnope = 1', "kinds.x.nope: "),
        ('[kinds.x]\ntarget = "a:b"\ngrace_s = "3"', "kinds.x.grace_s: "),
        ('[kinds.x]\ntarget = "a:b"\nrestart.policy = "x"', "kinds.x.restart.policy: "),
        ('[kinds."a b"]\ntarget = "a:b"', "kinds.a b."),
        ("shutdown_s = 8", "shutdown_s: "),
    ],
)
def test_files_that_are_refused(config: Path, text: str, where: str) -> None:
    config.write_text(text)
    line = refusal({"config": str(config)})
    assert line.startswith(f"{config}: ")
    assert where in line


def test_a_byte_order_mark_is_passed_over(config: Path) -> None:
    config.write_bytes(b"\xef\xbb\xbfport = 1234\n")
    assert settings.read({"config": str(config)}).port == 1234


def test_files_that_cannot_be_read(config: Path, tmp_path: Path) -> None:
    assert refusal({"config": str(config)}) == f"{config}: cannot be read: No such file or directory"
    assert "Is a directory" in refusal({"config": str(tmp_path)})
    config.write_bytes(b"\xff")
    assert "is not TOML" in refusal({"config": str(config)})


def test_the_source_of_a_wrong_value_is_named(environ: pytest.MonkeyPatch) -> None:
    assert refusal({"log_limit_bytes": "1"}).startswith("--log-limit-bytes: ")
    environ.setenv("BOT_SUPERVISOR_PORT", "x")
    assert refusal().startswith("BOT_SUPERVISOR_PORT: ")
    environ.delenv("BOT_SUPERVISOR_PORT")
    environ.setenv("BOT_SUPERVISOR_KINDS", "{")
    assert refusal().startswith("BOT_SUPERVISOR_KINDS: is not JSON: ")
    environ.delenv("BOT_SUPERVISOR_KINDS")
    environ.setenv("BOT_SUPERVISOR_PRT", "1")
    assert refusal() == "BOT_SUPERVISOR_PRT: there is no such setting"


# ---- the command line


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "supervisor", *argv], capture_output=True, text=True, timeout=30, check=False
    )


def test_help_describes_every_flag_and_no_token() -> None:
    shown = run("--help")
    assert shown.returncode == 0
    assert len(shown.stdout.splitlines()) < 100
    for name, field in settings.Flags.model_fields.items():
        # The rest of its words may be on the lines below, broken at hyphens.
        described = re.search(rf"^  --{name.replace('_', '-')} (.*?)^  -", shown.stdout, re.M | re.S)
        assert described is not None
        words = "".join(described[1].split())
        assert field.description is not None
        assert "".join(field.description.split()) in words
        if field.default not in (None, [], True, False):
            assert f"(default:{field.default})" in words
    assert "--admin-token" not in shown.stdout
    assert "--read-token" not in shown.stdout
    assert "--kinds" not in shown.stdout


def test_version() -> None:
    assert run("--version").stdout == f"bot-supervisor {__version__}\n"


@pytest.mark.parametrize("argv", [["--admin-token", "sesame"], ["--admin-token=sesame"], ["--read_token", "sesame"]])
def test_a_token_has_no_flag(argv: list[str]) -> None:
    refused = run(*argv)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert "argv" in refused.stderr
    assert "sesame" not in refused.stderr


@pytest.mark.parametrize("argv", [["--port", "x"], ["--host", "0.0.0.0"], ["--config", "/nowhere"]])
def test_a_refusal_is_one_line(argv: list[str]) -> None:
    refused = run(*argv)
    assert (refused.returncode, refused.stdout) == (2, "")
    [line] = refused.stderr.splitlines()
    assert line.startswith("bot-supervisor: ")


def test_a_token_may_be_part_of_a_path(tmp_path: Path) -> None:
    assert "cannot be read" in run(f"--config={tmp_path}/token").stderr


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--nope"], "No such option: --nope; "),
        (["--bot-password=sesame"], "No such option: --bot-password; "),
        (["--port"], "Option '--port' requires an argument; "),
        (["--port", "1", "check"], "Invalid value: options of check stand behind it; "),
        (["check", "--nope"], "No such option: --nope; "),
        (["check", "this"], "Got unexpected extra argument(s) (this); "),
        (["serves"], "No such command 'serves'; "),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_refused_in_one_line(argv: list[str], line: str) -> None:
    refused = run(*argv)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == f"bot-supervisor: {line}see bot-supervisor --help\n"


@pytest.mark.parametrize(
    ("argv", "given"),
    [
        (["--port=1", "--port", "2"], {"port": "2"}),
        (["--no-metrics-per-bot", "--trusted-network"], {"metrics_per_bot": False, "trusted_network": True}),
        (["--grace-s", "-1"], {"grace_s": "-1"}),
        ([], {}),
    ],
    ids=" ".join,
)
def test_flags_come_as_they_were_written(environ: pytest.MonkeyPatch, argv: list[str], given: dict[str, Any]) -> None:
    """And those that were not are left to the environment, the file and the defaults."""
    seen: dict[str, Any] = {}
    environ.setattr(serve, "serve", seen.update)
    assert app.main(argv) == 0
    assert seen == given


def test_a_list_may_be_repeated(environ: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    environ.setattr(serve, "serve", seen.update)
    app.main(["--allowed-hosts", "a,b", "--allowed-hosts=c"])
    assert settings.read(seen).allowed_hosts == ["a", "b", "c"]


def test_ctrl_c_ends_a_command_without_a_traceback(
    environ: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: Path) -> int:
        raise KeyboardInterrupt

    environ.setattr(check, "check", interrupted)
    assert app.main(["check"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_the_namesake_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: name)
    assert app.main([]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "the distribution 'supervisor'" in line


def test_the_main_module_imports_nothing_heavy() -> None:
    heavy = "('pydantic', 'fastapi', 'asyncio')"
    code = f"import supervisor.__main__, sys; print([m for m in sys.modules if m.startswith({heavy})])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
