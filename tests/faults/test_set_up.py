"""Bots without a log: one run, closed, with the reason; and a start that works once the cause is gone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from botproc import wire
from tests.program import Program

KINDS = {"sleeps": 'target = "misbehaving:sleeps"', "wrecks": 'target = "wrecks_its_log:main"\nready = "notify"'}

NEVER = {"policy": "never"}

Make = Callable[..., Program]


def as_directory(path: Path) -> None:
    path.mkdir()


def as_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("policy", ["never", "always"])
@pytest.mark.parametrize("put", [as_directory, as_pipe], ids=lambda put: put.__name__)
@pytest.mark.parametrize("what", ["logs/{}.log", "run/locks/{}.lock"])
def test_a_bot_without_a_log_or_a_lock_fails_once_and_says_why(
    shared: Program, what: str, put: Callable[[Path], None], policy: str
) -> None:
    bot_id = shared.start_bot("sleeps", restart={"policy": policy})
    shared.wait_state(bot_id, "running")
    shared.get(f"/stop/{bot_id}")
    shared.wait_state(bot_id, "stopped")
    path = shared.data_dir / what.format(bot_id)
    path.unlink(missing_ok=True)
    put(path)
    assert shared.post(f"/bots/{bot_id}/start").status_code in (200, 202)
    bot = shared.wait_state(bot_id, "failed")
    assert f"cannot open {path}: not a regular file" in bot["reason"]
    _, run = shared.ended_runs(bot_id)
    assert (run["exit_code"], run["cause"]) == (wire.EXIT_UNUSABLE, "crashed")
    assert f"cannot open {path}: not a regular file" in run["detail"]

    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    assert shared.post(f"/bots/{bot_id}/start").status_code in (200, 202)
    shared.wait_state(bot_id, "running")
    shared.get(f"/stop/{bot_id}")
    shared.wait_state(bot_id, "stopped")


def test_directories_that_were_removed_are_made_again(make_program: Make) -> None:
    program = make_program(kinds=KINDS).start()
    shutil.rmtree(program.data_dir / "logs")
    shutil.rmtree(program.data_dir / "run" / "locks")
    bot_id = program.start_bot("sleeps")
    program.wait_state(bot_id, "running")
    assert (program.data_dir / "logs" / f"{bot_id}.log").exists()
    assert (program.data_dir / "run" / "locks" / f"{bot_id}.lock").exists()


@pytest.mark.parametrize("how", ["directory", "pipe", "link", "nothing"])
@pytest.mark.parametrize("then", ["ends", "stays"])
def test_the_end_of_a_bot_that_wrecks_its_log_is_known(shared: Program, how: str, then: str) -> None:
    bot_id = shared.start_bot("wrecks", params={"how": how, "code": 3 if then == "ends" else None}, restart=NEVER)
    if then == "stays":
        shared.wait_state(bot_id, "running")
        assert shared.get(f"/stop/{bot_id}").status_code == 200
        shared.wait_state(bot_id, "stopped")
    else:
        shared.wait_state(bot_id, "failed")
    [run] = shared.ended_runs(bot_id)
    assert (run["exit_code"], run["cause"]) == ((3, "crashed") if then == "ends" else (0, "stopped"))
    assert shared.client.delete(f"/bots/{bot_id}").status_code == 204
