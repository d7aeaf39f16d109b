"""What callers see of a bot and of a run: every field of the model, in the place that has its name."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from supervisor.api import answers
from supervisor.core import model, views

AT, SHOWN_AT = 1_712_438_975_499_784, "2024-04-06T21:29:35.499784Z"

BOT = model.Bot(
    bot_id=7,
    name="adder",
    kind="counter",
    params={"start_number": 12, "api_key": f"secret:{'0' * 32}"},
    labels={"team": "a"},
    goal=model.Goal.UP,
    state=model.State.RUNNING,
    reason="ready",
    restarts=3,
    created_at=AT,
    last_exit=model.LastExit(exit_code=None, signal="SIGKILL", cause=model.Cause.KILLED, at=AT),
    restart=model.RestartPolicy(policy=model.Policy.ALWAYS),
    grace_s=4.0,
    limits=model.Limits(nice=5),
    schedule=model.Schedule(cron="@daily"),
    overrides={"grace_s": 4.0},
)
LIVE = views.LiveView(
    pid=1000,
    run_id=9,
    started_at=AT,
    ready_at=None,
    uptime_s=1.5,
    cpu_percent=0.5,
    rss_bytes=2_000_000,
    threads=2,
    descendants=1,
    heartbeat_age_s=0.25,
    status="busy",
    frozen=True,
    node="n1",
)
VIEW = views.BotView(
    bot=BOT, reason="frozen", waiting_for=model.WaitingFor.SCHEDULE, next_start_at=AT, live=LIVE
)  # All at once, as no bot is.


def shown(view: views.BotView) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answers.BOT.dump_json(answers.bot(view)))
    return found


def test_a_bot() -> None:
    values = {**as_json(BOT), **as_json(VIEW), **as_json(LIVE)}
    del values["bot"], values["live"], values["unchecked"]
    values["params"]["api_key"] = "**********"
    values["last_exit"]["at"] = values["created_at"] = values["next_start_at"] = values["started_at"] = SHOWN_AT
    assert shown(VIEW) == values
    assert values["reason"] == "frozen"


def test_a_bot_without_a_process() -> None:
    live = {field.name: None for field in dataclasses.fields(views.LiveView)}
    assert shown(dataclasses.replace(VIEW, live=None)) == {**shown(VIEW), **live}


def test_a_run() -> None:
    run = model.Run(
        run_id=9,
        bot_id=7,
        kind="counter",
        params=BOT.params,
        identity=model.Identity(pid=1000, start_ticks=1, inode=2, boot_id="b"),
        started_at=AT,
        ready_at=AT,
        ended_at=AT,
        exit_code=1,
        signal=None,
        cause=model.Cause.CRASHED,
        detail="a bug",
        cpu_seconds=0.5,
        max_rss_bytes=3,
        descendants_killed=4,
        log_start=100,
        log_end=160,
        last_lines=("12", "13"),
        raised=model.Raised(type="KeyError", message="k", fingerprint="f"),
        fingerprint="f",
        node="n1",
    )
    values = as_json(run)
    del values["identity"], values["log_start"], values["log_end"]
    values["params"]["api_key"] = "**********"
    values["started_at"] = values["ready_at"] = values["ended_at"] = SHOWN_AT
    assert json.loads(answers.RUN.dump_json(answers.run(run))) == {**values, "pid": 1000, "log_bytes": 60}


def as_json(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(value)))
    return found
