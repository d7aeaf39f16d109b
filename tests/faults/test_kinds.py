"""What is wrong with a kind, its code or its file: each is told by what to change, and the others go on."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.program import BOTS, Program
from tests.waiting import wait_for

Make = Callable[..., Program]

KINDS = {
    "missing": 'target = "no_such_module:main"',
    "nameless": 'target = "obedient:no_such_bot"',
    "raises": 'target = "raises_at_import:main"',
    "exits": 'target = "exits_at_import:main"',
    "hangs": 'target = "slow_import:main"\nstart_timeout_s = 0.5',
    "needs": 'target = "parameters:needs"',
}


@pytest.fixture(autouse=True)
def counter_goes_on(shared: Program) -> Any:
    """Whatever is wrong with a kind: the counter counts, before and after."""
    bot_id = shared.start_bot()
    pid = shared.wait_state(bot_id, "running")["pid"]
    yield
    assert shared.bot(bot_id)["pid"] == pid
    shared.wait_state(shared.start_bot(), "running")


# ---- calls


@pytest.mark.parametrize(
    "kind", ["nope", "os:system", "botproc.counter:main", "../counter", "counter\u00a0", "COUNTER"]
)
def test_only_registered_names_are_kinds(shared: Program, kind: str) -> None:
    for path in ("/start", "/bots"):
        response = shared.post(path, {"kind": kind})
        assert response.status_code == 422
        assert response.json()["type"] in ("/problems/unknown-kind", "/problems/invalid-input")
    assert shared.get(f"/kinds/{kind}").status_code in (404, 422)
    assert shared.post(f"/kinds/{kind}/reload").status_code in (404, 422)


def test_an_unknown_kind_names_those_that_there_are(shared: Program) -> None:
    detail = shared.post("/start", {"kind": "nope"}).json()["detail"]
    assert "'nope'" in detail
    assert "counter" in detail


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({}, "symbol"),
        ({"symbol": 1}, "symbol"),
        ({"symbol": "a", "leverage": "2"}, "leverage"),
        ({"symbl": "a"}, "symbl"),
        ({"symbl": "a"}, "did you mean symbol?"),
    ],
)
def test_a_wrong_parameter_is_named(shared: Program, params: dict[str, Any], field: str) -> None:
    response = shared.post("/start", {"kind": "needs", "params": params})
    assert response.status_code == 422
    assert field in response.json()["detail"]
    assert [
        error for error in response.json()["errors"] if field in f"{'.'.join(map(str, error['loc']))}: {error['msg']}"
    ]


# ---- code


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("nameless", "no_such_bot"),
        ("raises", "RuntimeError: no configuration"),
        ("exits", "this is a script"),
        ("hangs", "was not imported within 0.5 s"),
    ],
)
def test_code_that_cannot_be_imported(shared: Program, kind: str, words: str) -> None:
    response = shared.post("/start", {"kind": kind})
    assert (response.status_code, response.json()["type"]) == (503, "/problems/spawn-failed")
    assert words in response.json()["detail"]
    wait_for(lambda: words in shared.runs(response.json()["bot_id"])[0]["detail"])
    assert not shared.get(f"/kinds/{kind}").json()["warm"]
    response = shared.post(f"/kinds/{kind}/reload")
    assert (response.status_code, response.json()["type"]) == (422, "/problems/not-reloaded")
    assert words in response.json()["detail"]


def test_new_code_that_is_broken(make_program: Make, tmp_path: Path) -> None:
    """The code that was imported before goes on, until the new one can be."""
    module = tmp_path / "mine.py"
    good = "import time\ndef main():\n    print('good', flush=True)\n    time.sleep(3600)\n"
    module.write_text(good)
    program = make_program(config=f'[kinds.mine]\ntarget = "mine:main"\npath = ["{tmp_path}"]\n').start()
    program.wait_state(program.start_bot("mine"), "running")
    module.write_text("def main(:\n")
    response = program.post("/kinds/mine/reload")
    assert response.status_code == 422
    assert "SyntaxError" in response.json()["detail"]
    later = program.start_bot("mine")
    wait_for(lambda: program.bot_log(later) == "good\n")
    # A fleet that rolls all the same rolls onto the good code.
    results = program.post("/bots/restart?kind=mine&max_parallel=1").json()["results"]
    assert [result["ok"] for result in results] == [True, True]


def test_what_was_given_to_a_broken_kind_comes_out_of_hiding_but_for_secrets(
    make_program: Make, tmp_path: Path
) -> None:
    module = tmp_path / "mine.py"
    module.write_text("def main(:\n")
    program = make_program(config=f'[kinds.mine]\ntarget = "mine:main"\npath = ["{tmp_path}"]\n').start()
    given = {"account": "alice", "token": "t0p-s3cret"}
    bots = [program.post("/bots", {"kind": "mine", "params": given}).json()["bot_id"] for _ in range(2)]
    hidden = {"account": "**********", "token": "**********"}
    assert [program.bot(bot_id)["params"] for bot_id in bots] == [hidden, hidden]
    module.write_text(
        "import time\nfrom pydantic import SecretStr\n"
        "def main(*, account: str, token: SecretStr, side: str = 'buy'):\n"
        "    print(account, token.get_secret_value() == 't0p-s3cret', side, flush=True)\n    time.sleep(3600)\n"
    )
    # One by its next start, the other by the reload, whichever comes first.
    assert program.post(f"/bots/{bots[0]}/start").json()["state"] == "running"
    assert program.post("/kinds/mine/reload").status_code == 200
    shown = {"account": "alice", "token": "**********", "side": "buy"}
    assert [program.bot(bot_id)["params"] for bot_id in bots] == [shown, shown]
    wait_for(lambda: program.bot_log(bots[0]) == "alice True buy\n")
    assert [run["params"] for run in program.runs(bots[0])] == [shown, shown]
    program.kill()
    program.start()
    assert [program.bot(bot_id)["params"] for bot_id in bots] == [shown, shown]
    assert b"t0p-s3cret" not in b"".join(path.read_bytes() for path in program.data_dir.glob("ledger.sqlite3*"))


def test_a_rolling_restart_onto_settings_that_are_broken(make_program: Make) -> None:
    table = f'[kinds.mine]\npath = ["{BOTS}"]\ntarget = "{{}}"\n'
    program = make_program(config=table.format("obedient:leaves")).start()
    bots = [program.start_bot("mine") for _ in range(4)]
    for bot_id in bots:
        program.wait_state(bot_id, "running")
    program.config.write_text(table.format("raises_at_import:main"))
    assert program.post("/kinds/reload").json()["changed"] == ["mine"]
    results = program.post("/bots/restart?kind=mine&max_parallel=2").json()["results"]
    assert [result["bot_id"] for result in results] == bots
    assert not any(result["ok"] for result in results)
    assert [result["state"] for result in results] == ["failed", "failed", "running", "running"]
    assert "no configuration" in results[0]["detail"]
    assert results[3]["detail"].startswith(f"not restarted: bot {bots[0]} of the batch before is failed: ")


# ---- the file

TYPOS = [
    ('[kinds.mine]\ntarget = "mine:main', "line 2"),
    ('[kinds.mine\ntarget = "mine:main"', "line 1"),
    ('[kinds.mine]\ntagret = "mine:main"', "kinds.mine"),
    ('[kinds.mine]\ntarget = "mine.main"', "kinds.mine.target"),
    ('[kinds.mine]\ntarget = "mine:main"\ngrace_s = "3"', "kinds.mine.grace_s"),
    ('[kinds.mine]\ntarget = "mine:main"\nlimits = {nice = 20}', "kinds.mine.limits.nice"),
    ('[kinds.mine]\ntarget = "mine:main"\nschedule = "every minute"', "kinds.mine.schedule.cron"),
    ('[kind.mine]\ntarget = "mine:main"', "kind: there is no such setting"),
]


@pytest.mark.parametrize(("text", "words"), TYPOS)
def test_a_typo_in_the_file_at_start(tmp_path: Path, text: str, words: str) -> None:
    program = Program(tmp_path, config=text)
    try:
        process = program.launch(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = (stream.decode() for stream in process.communicate(timeout=60))
    finally:
        program.close()
    assert (process.returncode, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"bot-supervisor: {program.config}: ")
    assert words in err


def test_typos_in_the_file_at_a_reload(make_program: Make) -> None:
    table = f'[kinds.mine]\npath = ["{BOTS}"]\ntarget = "obedient:leaves"\n'
    program = make_program(config=table).start()
    bot_id = program.start_bot("mine")
    pid, kinds = program.wait_state(bot_id, "running")["pid"], program.get("/kinds/mine").json()
    for text, words in TYPOS:
        program.config.write_text(text)
        response = program.post("/kinds/reload")
        assert (response.status_code, response.json()["type"]) == (422, "/problems/not-reloaded")
        assert response.json()["detail"].startswith(f"{program.config}: ")
        assert words in response.json()["detail"]
        program.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
        told = f"the kinds are as they were: {response.json()['detail']}"
        wait_for(lambda told=told: told in program.log(), what=told)  # type: ignore[misc]
    program.config.unlink()
    assert "cannot be read" in program.post("/kinds/reload").json()["detail"]
    assert program.bot(bot_id)["pid"] == pid
    assert program.get("/kinds/mine").json()["zygote_pid"] == kinds["zygote_pid"]
    program.wait_state(program.start_bot("mine"), "running")
