"""Whoever follows the guide gets what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.program import Program
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "first-bot.md").read_text()


def steps() -> list[tuple[str, str]]:
    """The blocks of the guide in order: a file's name and its text, or "$" and a console session."""
    found = []
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", GUIDE, re.M | re.S):
        if match[1] == "console":
            found.append(("$", match[2]))
        elif match[1] in ("python", "toml"):
            [*_, name] = re.findall(r"`(mybots/\S+)`", GUIDE[: match.start()])
            found.append((name, match[2]))
    return found


def said(expected: str) -> re.Pattern[str]:
    """What the guide shows of an answer, where … stands for anything."""
    return re.compile(".*".join(map(re.escape, expected.split("…"))), re.S)


def test_the_guide(make_program: Callable[..., Program], tmp_path: Path) -> None:
    (tmp_path / "mybots").mkdir()
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    program = make_program(env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"})
    program.config = tmp_path / "mybots" / "bots.toml"
    sessions = 0
    for name, text in steps():
        if name != "$":
            (tmp_path / name).write_text(text)
            continue
        sessions += 1
        if program.process is None:
            program.start(cwd=tmp_path)
        for command, expected in re.findall(r"^\$ (.*)\n((?:[^$\n].*\n)*)", text, re.M):
            line = command.replace("localhost:8000", str(program.client.base_url).removeprefix("http://").rstrip("/"))
            pattern = said(expected.strip())

            def matches(line: str = line, pattern: re.Pattern[str] = pattern) -> bool:
                # Twice only where it changes nothing: the bot may not have printed yet.
                out = subprocess.run(f"{line} -sS", shell=True, capture_output=True, text=True, check=True).stdout
                assert "POST" not in line or pattern.fullmatch(out.strip()), (line, out)
                return pattern.fullmatch(out.strip()) is not None

            wait_for(matches, what=f"{command}\n{expected}")
    assert sessions == 4
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "mybots/test_greeter.py"]
    result = subprocess.run(tests, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
