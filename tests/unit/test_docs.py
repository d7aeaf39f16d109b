"""The README names what there is, and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import cast

import pytest

from botproc import wire
from supervisor.api import routes, streams
from supervisor.core.model import Cause, State
from supervisor.fleet.fleet import Fleet
from supervisor.settings import Budget, Flags, Kind, Limits, Restart, Schedule

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def section(title: str) -> str:
    """The text below a heading, up to the next one."""
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_every_setting_and_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `?([^|`]*)`? ?\|", section("Settings"), re.M)
    assert [name for name, _ in rows] == list(Flags.model_fields)
    for name, told in rows:
        default = Flags.model_fields[name].default
        shown = "" if default in (None, []) else str(default).lower() if isinstance(default, bool) else str(default)
        assert told.strip() == shown.removesuffix(".0"), name


def test_every_field_of_a_kind() -> None:
    rows = re.findall(r"^\| (`.*?) \|", section("Bots of your own").partition("### Kinds")[2], re.M)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(Kind.model_fields)


def test_every_limit_and_every_field_of_policies_and_schedules() -> None:
    text = section("Bots of your own").partition("### Kinds")[2]
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`[^`]*`", text))))
    for model in (Limits, Restart, Schedule, Budget):
        assert set(model.model_fields) <= named, model


def test_every_route() -> None:
    table = routes.table(cast(Fleet, None), streams.Streams(0))
    there = {f"{row.method} {row.path}" for rows in table.values() for row in rows} | {"GET /openapi.json"}
    there = {route for route in there if "assets" not in route}
    assert set(re.findall(r"`((?:GET|POST|DELETE) /[^`?]*)`", section("API"))) == there


def test_every_cause_and_state() -> None:
    causes = section("API").partition("one of these causes")[2].partition("A bot is started again")[0]
    assert set(re.findall(r"`([a-z-]+)`", causes)) == set(Cause)
    states = section("Words").partition("A bot is `starting`")
    assert set(re.findall(r"`([a-z]+)`", states[1] + states[2])) == set(State)


def test_every_exit_code_of_ours() -> None:
    named = {wire.EXIT_LOCKED, wire.EXIT_UNUSABLE}
    assert set(wire.PERMANENT_EXITS) == named
    text = section("Bots of your own").partition("Exit codes")[2].partition("###")[0]
    assert {int(code) for code in re.findall(r"\b(\d{3})\b", text)} == named


def test_the_files_to_read_are_there() -> None:
    text = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    nine = text.partition("## The nine files to read")[2]
    files = re.findall(r"`((?:supervisor|botproc)/[\w/]+\.py)`", nine)
    assert len(files) == 9
    assert all((ROOT / file).is_file() for file in files)


def test_the_rooms_are_there() -> None:
    text = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    rooms = set(re.findall(r"`((?:supervisor|botproc)[\w/.]*)`", text.partition("## Rooms")[2].partition("\n## ")[0]))
    folders = {f"supervisor/{path.name}" for path in (ROOT / "supervisor").iterdir() if (path / "__init__.py").exists()}
    assert rooms == folders | {"supervisor/program.py", "botproc"}


def test_every_target_of_make() -> None:
    named = set(re.findall(r"^make (\w+)", README, re.M))
    assert named <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    assert {"run", "test", "check"} <= named


def test_every_promise_is_held_by_tests_that_exist() -> None:
    promised, _, not_promised = (ROOT / "docs" / "promises.md").read_text().partition("\n## Not promised\n")
    assert not_promised
    link = re.compile(r"\[(test_\w+)\]\(\.\./(tests/[\w/]+\.py)\)")
    for promise in promised.split("\n* ")[1:]:
        assert link.search(promise), promise
    for name, file in link.findall(promised + not_promised):
        assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(), re.M), (file, name)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze")
def test_the_unit_is_one(tmp_path: Path) -> None:
    unit = tmp_path / "bot-supervisor.service"
    text = (ROOT / "docs" / "bot-supervisor.service").read_text()
    unit.write_text(text.replace("/opt/bot-supervisor/bin/bot-supervisor", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for link in re.findall(r"\]\(((?!http)[^)#]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), (page.name, link)
