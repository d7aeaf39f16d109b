"""Bots of one's own: what the settings say of them, and what becomes of that while the supervisor runs."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from tests.program import Program
from tests.waiting import wait_for

Make = Callable[..., Program]

PLAIN = """
import asyncio

VERSION = 1

async def main(ctx, *, word: str = "hello", times: int | None = None) -> None:
    '''Says a word.'''
    print(word, VERSION, flush=True)
    await asyncio.sleep(3600)
"""


def write(directory: Path, name: str, code: str) -> str:
    """A module of bots; the line that has a kind find it."""
    (directory / f"{name}.py").write_text(code)
    return f'path = ["{directory}"]'


def warm(program: Program, *names: str) -> None:
    def there() -> bool:
        kinds = {kind["name"]: kind for kind in program.get("/kinds").json()["kinds"]}
        return all(kinds[name]["warm"] for name in names)

    wait_for(there, 20, f"{names} are warm")


def says(program: Program, bot_id: int, text: str) -> None:
    wait_for(lambda: text in program.bot_log(bot_id), what=f"{text!r} in the log: {program.bot_log(bot_id)!r}")


# ---- parameters


def test_parameters_by_annotation(make_program: Make, tmp_path: Path) -> None:
    code = """
import asyncio
from typing import Literal

async def main(*, names: list[str], weights: dict[str, float] = {}, side: Literal["buy", "sell"] = "buy",
               limit: int | None = None) -> None:
    print(names, weights, side, limit, flush=True)
    await asyncio.sleep(3600)
"""
    path = write(tmp_path, "annotated", code)
    program = make_program(config=f'[kinds.annotated]\ntarget = "annotated:main"\n{path}\n').start()
    for params, field in [
        ({}, "names"),
        ({"names": [1]}, "names"),
        ({"names": [], "weights": {"a": "heavy"}}, "weights"),
        ({"names": [], "side": "hold"}, "side"),
        ({"names": [], "limit": "2"}, "limit"),
        ({"names": [], "nope": 1}, "nope"),
    ]:
        refused = program.post("/start", {"kind": "annotated", "params": params})
        assert refused.status_code == 422, params
        assert refused.json()["errors"][0]["loc"][:3] == ["body", "params", field]
    bot_id = program.start_bot("annotated", params={"names": ["a"], "side": "sell", "limit": 3})
    says(program, bot_id, "['a'] {} sell 3")
    document = program.get("/openapi.json").json()
    model = document["components"]["schemas"]["AnnotatedParams"]
    assert model["properties"]["side"]["enum"] == ["buy", "sell"]
    assert {"$ref": "#/components/schemas/AnnotatedParams"} in document["components"]["schemas"]["NewBot"][
        "properties"
    ]["params"]["anyOf"]


def test_a_model_with_a_validator_of_its_own(make_program: Make, tmp_path: Path) -> None:
    code = """
import asyncio
from pydantic import BaseModel, field_validator

class Leg(BaseModel):
    symbol: str

class Config(BaseModel):
    legs: list[Leg]
    size: int = 1

    @field_validator("size")
    @classmethod
    def odd(cls, size):
        if size == 13:
            raise ValueError("thirteen brings bad luck")
        if size == 14:
            raise RuntimeError("a bug of the author's")
        if size == 15:
            raise SystemExit("and another")
        return size

async def main(ctx, *, config: Config) -> None:
    print(config.legs[0].symbol, config.size, flush=True)
    await asyncio.sleep(3600)
"""
    path = write(tmp_path, "modelled", code)
    program = make_program(config=f'[kinds.modelled]\ntarget = "modelled:main"\n{path}\n').start()

    def refused(params: object) -> str:
        answer = program.post("/start", {"kind": "modelled", "params": params})
        assert answer.status_code == 422
        return str(answer.json()["detail"])

    legs = [{"symbol": "BTC"}]
    assert "legs: Field required" in refused({})
    assert "legs.0.symbol" in refused({"legs": [{}]})
    assert "thirteen brings bad luck" in refused({"legs": legs, "size": 13})
    assert "RuntimeError: a bug of the author's" in refused({"legs": legs, "size": 14})
    zygote = program.zygote("modelled")
    assert "SystemExit: and another" in refused({"legs": legs, "size": 15})
    assert zygote.is_running()
    says(program, program.start_bot("modelled", params={"legs": legs, "size": 3}), "BTC 3")
    assert "$defs" in program.get("/kinds/modelled").json()["params_schema"]
    document = program.get("/openapi.json").json()["components"]["schemas"]["ModelledParams"]
    assert document["properties"]["legs"]["items"]["$ref"] == "#/components/schemas/ModelledParams.Leg"


def test_secrets_by_reference_and_where_there_is_none(make_program: Make, tmp_path: Path) -> None:
    path = write(tmp_path, "plain", PLAIN)
    kinds = f'[kinds.plain]\ntarget = "plain:main"\n{path}\nenv = {{WORD = "of the environment"}}\n'
    program = make_program(config=kinds).start()
    (tmp_path / "word").write_text("of a file\n")
    says(program, program.start_bot("plain", params={"word": "env:WORD"}), "of the environment 1")
    by_file = program.start_bot("plain", params={"word": f"file:{tmp_path}/word"})
    says(program, by_file, "of a file 1")
    assert program.bot(by_file)["params"]["word"] == f"file:{tmp_path}/word"
    assert program.ledger("SELECT params FROM bot WHERE bot_id = ?", by_file)[0][0].count("of a file") == 0
    missing = program.start_bot("plain", params={"word": "env:NOWHERE"})
    program.wait_state(missing, "failed")
    says(program, missing, "the parameter word: env:NOWHERE: there is no such variable")
    stolen = program.post("/start", {"kind": "plain", "params": {"word": f"secret:{'0' * 32}"}})
    assert stolen.status_code == 422


def test_a_secret_outlives_the_supervisor(make_program: Make, tmp_path: Path) -> None:
    code = """
import time
from pydantic import SecretStr

def main(*, key: SecretStr):
    print(len(key.get_secret_value()), "characters", flush=True)
    time.sleep(3600)
"""
    path = write(tmp_path, "keyed", code)
    program = make_program(config=f'[kinds.keyed]\ntarget = "keyed:main"\n{path}\n').start()
    bot_id = program.start_bot("keyed", params={"key": "open sesame"})
    says(program, bot_id, "11 characters")
    program.kill()
    program.start()
    assert program.post(f"/bots/{bot_id}/restart").json()["state"] == "running"
    wait_for(lambda: program.bot_log(bot_id).count("11 characters") == 2, what="the next process has it too")
    assert program.client.delete(f"/bots/{bot_id}").status_code == 204
    assert [path.name for path in (program.data_dir / "secrets").iterdir()] == ["key"]


def test_nothing_is_in_clear_of_a_kind_that_cannot_be_imported(make_program: Make, tmp_path: Path) -> None:
    """Nobody knows yet what is a secret there. When it can be imported, its bots have what they were given."""
    code = "import there_later\n\nasync def main(ctx, *, word: str):\n    print(word)\n    await ctx.stopping\n"
    path = write(tmp_path, "late", code)
    program = make_program(config=f'[kinds.late]\ntarget = "late:main"\n{path}\n').start()
    bot_id = program.post("/bots", {"kind": "late", "params": {"word": "of-great-value"}}).json()["bot_id"]
    assert program.wait_state(bot_id, "failed")["params"] == {"word": "**********"}
    assert "of-great-value" not in program.ledger("SELECT params FROM bot")[0]["params"]
    assert program.post("/bots", {"kind": "late", "params": {"word": f"secret:{'0' * 32}"}}).status_code == 422
    write(tmp_path, "there_later", "")
    program.post(f"/bots/{bot_id}/start")
    says(program, bot_id, "of-great-value")


def test_a_secret_that_a_model_refuses_is_not_printed(make_program: Make, tmp_path: Path) -> None:
    code = """
from pydantic import BaseModel, Field, SecretStr

class Config(BaseModel):
    token: SecretStr = Field(min_length=30)

def main(config: Config) -> None:
    pass
"""
    path = write(tmp_path, "guarded", code)
    program = make_program(config=f'[kinds.guarded]\ntarget = "guarded:main"\n{path}\n').start()
    bot_id = program.start_bot("guarded", params={"token": "too-short-a-secret"})
    assert program.wait_state(bot_id, "failed")["last_exit"]["exit_code"] == 126
    says(program, bot_id, "the parameters do not fit: token: Value should have at least 30 items")
    assert "too-short-a-secret" not in program.bot_log(bot_id)


# ---- ways to make a process


def test_a_command(make_program: Make, tmp_path: Path) -> None:
    script = tmp_path / "bot.sh"
    script.write_text('trap "echo bye; exit 0" TERM; echo "$GREETING $1 in $PWD"; while :; do sleep 0.1; done\n')
    kinds = f"""
[kinds.shell]
command = ["sh", "{script}", "{{name}}"]
env = {{GREETING = "{{greeting}}"}}
params = {{greeting = "hello"}}
cwd = "{tmp_path}"
[kinds.missing]
command = ["no-such-program"]
[kinds.wrong]
command = ["echo", "{{0}}"]
"""
    program = make_program(config=kinds).start()
    assert program.post("/start", {"kind": "shell"}).json()["errors"][0]["loc"] == ["body", "params", "name"]
    bot_id = program.start_bot("shell", params={"name": "alice"})
    says(program, bot_id, f"hello alice in {tmp_path}")
    assert program.get("/kinds/shell").json()["start_method"] == "exec"
    # Its children are its own: all is gone with the stop.
    program.post(f"/bots/{bot_id}/stop")
    says(program, bot_id, "bye")
    assert program.ended_runs(bot_id)[0]["exit_code"] == 0
    secret = program.start_bot("shell", params={"name": "env:PATH"})
    program.wait_state(secret, "failed")
    says(program, secret, "the parameter name is a secret, and an argument is seen by every user")
    missing = program.start_bot("missing")
    assert program.wait_state(missing, "failed")["last_exit"]["exit_code"] == 126
    says(program, missing, "cannot execute no-such-program: No such file or directory")
    # A parameter that the command did not have when the bot was made.
    program.config.write_text(kinds.replace('"{name}"]', '"{name}", "{more}"]'))
    program.post("/kinds/reload")
    program.post(f"/bots/{bot_id}/start")
    program.wait_state(bot_id, "failed")
    says(program, bot_id, "the parameter more was not given")
    wrong = program.post("/start", {"kind": "wrong"})
    assert "a parameter is a name in braces" in wrong.json()["detail"]


def test_a_command_that_says_by_itself_when_it_is_ready(make_program: Make, tmp_path: Path) -> None:
    code = "import os, socket, time; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM);"
    code += "s.sendto(b'READY=1\\nSTATUS=from a child', os.environ['NOTIFY_SOCKET'])"
    script = tmp_path / "bot.sh"
    # The one that says it is a child of the bot's process, as systemd-notify is in a shell script.
    script.write_text(f'{sys.executable} -c "{code}"\nexec sleep 1000\n')
    config = f'[kinds.shell]\ncommand = ["sh", "{script}"]\nready = "notify"\n'
    config += '[kinds.sleep]\ncommand = ["sleep", "1000"]\nready = 0.3\n'
    program = make_program(config=config).start()
    bot_id = program.start_bot("shell")
    assert program.wait_state(bot_id, "running")["reason"] == "its process is ready"
    wait_for(lambda: program.bot(bot_id)["status"] == "from a child", what="its status")
    bot = program.wait_state(program.start_bot("sleep"), "running")
    assert "has been alive for 0.3 s" in bot["reason"]
    started, ready = (datetime.fromisoformat(bot[name]) for name in ("started_at", "ready_at"))
    assert (ready - started).total_seconds() >= 0.3, "it was not running before"


def test_a_kind_whose_imports_start_threads_has_fresh_interpreters(make_program: Make) -> None:
    program = make_program(kinds={"threads": 'target = "threads_at_import:main"'}).start()
    bot_id = program.start_bot("threads")
    # Two: the one that its import has started is there, which a fork would not have.
    says(program, bot_id, "threads 2")
    kind = program.get("/kinds/threads").json()
    assert (kind["start_method"], kind["warm"]) == ("spawn", True)
    assert "its imports start threads, so each bot is a fresh interpreter" in kind["reason"]
    assert psutil.Process(program.bot(bot_id)["pid"]).cmdline()[0].startswith(f"bot-{bot_id} threads")
    assert psutil.Process(kind["zygote_pid"]).num_threads() == 1
    # It is found again, as any other, and tells how its bots end.
    program.kill()
    program.start()
    assert program.bot(bot_id)["state"] == "running"
    program.post(f"/bots/{bot_id}/stop")
    [run] = program.ended_runs(bot_id)
    assert (run["cause"], run["exit_code"]) == ("stopped", 0)


# ---- kinds over their lifetime


def test_reload_of_the_settings(make_program: Make, tmp_path: Path) -> None:
    path = write(tmp_path, "plain", PLAIN)
    one = f'[kinds.one]\ntarget = "plain:main"\n{path}\n'
    program = make_program(config=one + one.replace("one", "gone")).start()
    old, of_gone = program.start_bot("one"), program.start_bot("gone")
    before, pid_of_gone = program.bot(old)["pid"], program.bot(of_gone)["pid"]
    changed = one + 'env = {A = "b"}\ngrace_s = 3\n'
    program.config.write_text(changed + one.replace("one", "two"))
    answer = program.post("/kinds/reload")
    assert answer.json() == {"added": ["two"], "changed": ["one"], "removed": ["gone"], "surplus": []}
    says(program, program.start_bot("two"), "hello 1")
    new = program.start_bot("one")
    assert program.bot(new)["grace_s"] == 3
    assert program.post("/start", {"kind": "gone"}).status_code == 422
    for path in (f"/bots/{of_gone}/restart", "/bots/restart?kind=gone", "/bots/restart?all=true&max_parallel=1"):
        refused = program.post(path)
        assert (refused.status_code, refused.json()["type"]) == (409, "/problems/kind-gone")
        assert "put it back and reload the kinds" in refused.json()["detail"]
    assert program.bot(of_gone)["pid"] == pid_of_gone
    assert program.bot(old)["pid"] == before
    # The zygote of the bot that was there before leaves with it.
    zygote = psutil.Process(psutil.Process(before).ppid())
    assert zygote.pid != program.get("/kinds/one").json()["zygote_pid"]
    program.post(f"/bots/{old}/stop")
    wait_for(lambda: not zygote.is_running(), what="the earlier zygote leaves")
    for text, where in [
        (changed + "nope = 1\n", "kinds.one.nope"),
        ("[kinds.one]\ntarget = \n", "line 2"),
        ('[kinds.one]\ntarget = "nonsense"\n', "kinds.one.target"),
    ]:
        program.config.write_text(text)
        refused = program.post("/kinds/reload")
        assert refused.status_code == 422
        assert where in refused.json()["detail"]
    assert {kind["name"] for kind in program.get("/kinds").json()["kinds"]} == {"counter", "one", "two"}


def test_what_a_kind_says_reaches_bots_that_exist_and_what_they_say_stays(make_program: Make, tmp_path: Path) -> None:
    kind = f'[kinds.plain]\ntarget = "plain:main"\n{write(tmp_path, "plain", PLAIN)}\n'
    program = make_program(config=kind + 'grace_s = 5\nrestart = {policy = "always"}\n').start()
    own = {"restart": {"max_restarts": 2}, "grace_s": 3}
    plain, different = program.start_bot("plain"), program.start_bot("plain", **own)
    assert (program.bot(plain)["overrides"], program.bot(different)["overrides"]) == ({}, own)

    # A version that did not know of overrides leaves a ledger without them.
    program.terminate()
    program.write("UPDATE bot SET overrides = NULL")
    program.start()
    assert (program.bot(plain)["overrides"], program.bot(different)["overrides"]) == ({}, own)

    new = 'grace_s = 6\nrestart = {policy = "never", max_restarts = 9}\nlimits = {nice = 7}\n'
    program.config.write_text(kind + new + 'schedule = "0 0 1 1 *"\n')
    program.post("/kinds/reload")
    assert program.bot(plain)["grace_s"] == 5
    for bot_id, grace_s, max_restarts in [(plain, 6, 9), (different, 3, 2)]:
        assert program.post(f"/bots/{bot_id}/restart").status_code == 200
        bot = program.bot(bot_id)
        assert (bot["grace_s"], bot["restart"]["policy"], bot["restart"]["max_restarts"]) == (
            grace_s,
            "never",
            max_restarts,
        )
        assert (bot["limits"]["nice"], bot["schedule"]["cron"]) == (7, "0 0 1 1 *")
        assert psutil.Process(bot["pid"]).nice() == 7
    os.kill(program.bot(plain)["pid"], signal.SIGKILL)
    program.wait_state(plain, "scheduled")


def test_sighup_reloads_too(make_program: Make, tmp_path: Path) -> None:
    path = write(tmp_path, "plain", PLAIN)
    program = make_program().start()
    assert program.process is not None
    program.config.write_text(f'[kinds.new]\ntarget = "plain:main"\n{path}\n')
    program.process.send_signal(signal.SIGHUP)
    wait_for(lambda: program.get("/kinds/new").status_code == 200, what="the new kind")
    program.config.write_text("[kinds.new\n")
    program.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "the kinds are as they were" in program.log(), what="the complaint")
    assert program.get("/kinds/new").status_code == 200


def test_reload_of_the_code_and_a_rolling_restart(make_program: Make, tmp_path: Path) -> None:
    path = write(tmp_path, "plain", PLAIN)
    program = make_program(config=f'[kinds.plain]\ntarget = "plain:main"\n{path}\nrestart.policy = "never"\n').start()
    bots = [program.start_bot("plain") for _ in range(5)]
    write(tmp_path, "plain", "raise RuntimeError('half written')")
    refused = program.post("/kinds/plain/reload")
    assert (refused.status_code, "RuntimeError: half written" in refused.json()["detail"]) == (422, True)
    says(program, program.start_bot("plain", name="by the old code"), "hello 1")
    write(tmp_path, "plain", PLAIN.replace("VERSION = 1", "VERSION = 2"))
    assert program.post("/kinds/plain/reload").status_code == 200
    # A supervisor that comes back takes the zygote with the new code, though bots of the old one live.
    program.kill()
    program.start()
    rolled = program.post("/bots/restart?kind=plain&max_parallel=2")
    assert [result["ok"] for result in rolled.json()["results"]] == [True] * 6
    for bot_id in bots:
        says(program, bot_id, "hello 2")
        assert [run["cause"] for run in program.runs(bot_id)] == ["restarted", None]
    # The next version cannot start: the first batch says so, and the others are left alone.
    write(tmp_path, "plain", PLAIN.replace("print(", "raise SystemExit(3)\n    print("))
    program.post("/kinds/plain/reload")
    pids = {bot_id: program.bot(bot_id)["pid"] for bot_id in bots}
    program.config.write_text(program.config.read_text() + 'ready = "notify"\n')
    program.post("/kinds/reload")
    rolled = program.post("/bots/restart?kind=plain&max_parallel=2").json()["results"]
    assert [result["ok"] for result in rolled] == [False] * 6
    assert "exit code 3" in rolled[0]["detail"]
    assert all(f"not restarted: bot {bots[0]}" in result["detail"] for result in rolled[2:])
    assert [program.bot(bot_id)["pid"] for bot_id in bots[2:]] == [pids[bot_id] for bot_id in bots[2:]]
    assert program.post("/kinds/nope/reload").status_code == 404


def test_a_zygote_without_bots_rests_and_returns_on_demand(make_program: Make) -> None:
    program = make_program(flags=["--zygote-idle-s", "0.3"]).start()
    bot_id = program.start_bot()
    zygote = program.zygote()
    program.post(f"/bots/{bot_id}/stop")
    wait_for(lambda: not zygote.is_running(), what="the zygote rests")
    kind = program.get("/kinds/counter").json()
    assert (kind["warm"], kind["zygote_pid"]) == (False, None)
    assert "no bot for 0.3 s; it returns on demand" in kind["reason"]
    assert "start_number" in kind["params_schema"]["properties"]
    assert program.bot(program.start_bot())["pid"]


def test_instances(make_program: Make) -> None:
    program = make_program(kinds={"held": 'target = "botproc.counter:main"\ninstances = 3'}).start()

    def names() -> dict[str, str]:
        return {bot["name"]: bot["state"] for bot in program.get("/bots?state=all").json()}

    wait_for(lambda: names() == dict.fromkeys(["held-1", "held-2", "held-3"], "running"), what="three bots")
    program.post("/bots/stop?name=held-2")
    program.terminate()
    program.start()
    wait_for(lambda: names() == {"held-1": "running", "held-2": "stopped", "held-3": "running"}, what="as it was")
    program.config.write_text(program.config.read_text().replace("instances = 3", "instances = 4"))
    program.post("/kinds/reload")
    wait_for(lambda: names().get("held-4") == "running", what="the fourth")
    assert names()["held-2"] == "stopped"
    program.config.write_text(program.config.read_text().replace("instances = 4", "instances = 1"))
    assert program.post("/kinds/reload").json()["surplus"] == ["held-2", "held-3", "held-4"]
    wait_for(lambda: "of held only 1 are wanted; too many, until they are deleted: held-2" in program.log())
    assert len(names()) == 4


def test_an_installed_distribution_brings_a_kind(make_program: Make, tmp_path: Path) -> None:
    write(tmp_path, "installed_bots", PLAIN)
    info = tmp_path / "installed_bots-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: installed-bots\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[bot_supervisor.kinds]\ninstalled = installed_bots:main\nbad! = nonsense\n")
    program = make_program(
        config='[kinds.installed]\ndescription = "of the settings"\n', env={"PYTHONPATH": str(tmp_path)}
    ).start()
    says(program, program.start_bot("installed"), "hello 1")
    assert program.get("/kinds/installed").json()["description"] == "of the settings"
    assert "the entry point 'bad!' = 'nonsense' brings no kind" in program.log()


# ---- many bots


def test_commands_for_many(program: Program) -> None:
    ids = [program.start_bot(labels={"team": team}) for team in "aab"]
    assert program.post("/bots/stop").status_code == 422
    assert program.post("/bots/stop?pid=3").status_code == 422
    stopped = program.post("/bots/stop?label=team:a", {"grace_s": 2}).json()["results"]
    assert [(r["bot_id"], r["ok"], r["state"]) for r in stopped] == [
        (ids[0], True, "stopped"),
        (ids[1], True, "stopped"),
    ]
    # What is stopped is not restarted, and is started when it is asked for.
    assert [r["bot_id"] for r in program.post("/bots/restart?all=true").json()["results"]] == [ids[2]]
    started = program.post("/bots/start?all=true").json()["results"]
    assert [(r["bot_id"], r["ok"], r["state"]) for r in started] == [(id_, True, "running") for id_ in ids]
    assert program.post("/bots/stop?kind=nothing").json() == {"results": []}


# ---- starts


def test_starts_take_turns(make_program: Make) -> None:
    lines = 'target = "botproc.counter:main"\nready = "notify"\nstarts_at_once = 1\nstart_timeout_s = 30.0'
    program = make_program(kinds={"slow": lines}).start()
    first = program.start_bot("slow")
    with pytest.raises(AssertionError, match="not within"):
        wait_for(lambda: program.bot(first)["state"] != "starting", 0.3)
    made = program.post("/bots/start?kind=nothing")
    assert made.status_code == 200

    asking = threading.Thread(
        target=lambda: program.together(lambda client: client.post("/start", json={"kind": "slow"}))
    )
    asking.start()
    second = wait_for(lambda: [b for b in program.get("/bots").json() if b["bot_id"] != first], what="the second")[0]
    assert (second["state"], second["pid"]) == ("starting", None)
    wait_for(lambda: program.bot(second["bot_id"])["waiting_for"] == "turn", what="the reason")
    assert program.bot(second["bot_id"])["reason"] == "waits for its turn to start"
    # Another kind is not held up.
    assert program.bot(program.start_bot())["pid"]
    program.post(f"/bots/{first}/stop")
    asking.join()
    assert program.bot(second["bot_id"])["pid"]


def test_a_budget_outlives_the_supervisor(make_program: Make) -> None:
    lines = 'target = "botproc.counter:main"\nbudget = {key = "login:{start_number}", starts = 2, per_s = 3600}'
    program = make_program(kinds={"dear": lines}).start()
    ids = [program.start_bot("dear", start_number=1) for _ in range(2)]
    assert program.bot(program.start_bot("dear", start_number=2))["pid"]
    spent = program.post("/start", {"kind": "dear", "start_number": 1})
    assert spent.status_code == 409
    waiting = spent.json()["bot_id"]
    assert waiting not in ids
    program.terminate()
    program.start()
    for bot_id in (*ids, waiting):
        bot = program.wait_state(bot_id, "backoff")
        assert "the start budget of login:1 is used up: 2 starts in 3600 s" in bot["reason"]
        assert bot["next_start_at"] is not None


# ---- heartbeat


def test_a_supervisor_that_was_stopped_blames_no_bot(make_program: Make) -> None:
    program = make_program(kinds={"beats": 'target = "botproc.counter:main"\nheartbeat_s = 0.6'}).start()
    bot_id = program.start_bot("beats")
    wait_for(lambda: program.bot(bot_id)["heartbeat_age_s"] is not None, what="a heartbeat")
    me = psutil.Process(program.pid)
    me.suspend()
    begin = len(program.bot_log(bot_id).split())
    # Its lines are the clock.
    wait_for(lambda: len(program.bot_log(bot_id).split()) >= begin + 3, what="three seconds have passed")
    me.resume()
    lines = len(program.bot_log(bot_id).split())
    wait_for(lambda: len(program.bot_log(bot_id).split()) >= lines + 2, what="two more")
    bot = program.bot(bot_id)
    assert (bot["state"], bot["restarts"]) == ("running", 0)
    assert [run["cause"] for run in program.runs(bot_id)] == [None]
