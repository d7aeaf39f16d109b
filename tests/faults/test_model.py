"""Random commands over HTTP and random deaths, against a model of a bot that fits on a page."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import hypothesis
import psutil
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test

from tests.faults.observe import end
from tests.program import Program
from tests.waiting import wait_for

KINDS = {"exits": 'target = "misbehaving:exits"'}


@dataclass(kw_only=True, eq=False)
class Bot:
    """What must have become of a bot, once it has settled. `code`: it ends at once with this exit code."""

    bot_id: int
    policy: str
    max_restarts: int
    code: int | None
    goal: str = "up"
    state: str = "running"
    restarts_left: int = 0
    causes: list[str | None] = field(default_factory=list)

    def start(self) -> None:
        """By hand: the count of its restarts begins anew."""
        self.goal, self.restarts_left = "up", self.max_restarts
        self._run()

    def stop(self) -> None:
        if self.state == "running":
            self.causes[-1] = "stopped"
        self.goal, self.state = "down", "stopped"

    def restart(self) -> None:
        if self.state == "running":
            self.causes[-1] = "restarted"
        self.start()

    def end(self, cause: str) -> None:
        """By itself, or by somebody else's hand."""
        self.causes[-1] = cause
        if cause == "exited" and self.policy != "always":
            self.state = "exited"
        elif self.policy == "never" or self.restarts_left == 0:
            self.state = "failed"
        else:
            self.restarts_left -= 1
            self._run()

    def _run(self) -> None:
        self.state = "running"
        self.causes.append(None)
        if self.code is not None:
            self.end("crashed" if self.code else "exited")


class Commands(RuleBasedStateMachine):
    """One command after the other. What it leads to is waited for before the next."""

    bots = Bundle("bots")

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program
        self.alive: dict[int, Bot] = {}

    @rule(
        target=bots,
        policy=st.sampled_from(["never", "on-failure", "always"]),
        max_restarts=st.integers(0, 2),
        code=st.sampled_from([None, None, 0, 44]),
    )
    def create(self, policy: str, max_restarts: int, code: int | None) -> Bot:
        restart = {"policy": policy, "max_restarts": max_restarts, "delay_s": 0.01, "within_s": 3600}
        what: dict[str, Any] = {"kind": "counter"} if code is None else {"kind": "exits", "params": {"code": code}}
        bot_id = self.program.start_bot(**what, restart=restart)
        assert bot_id not in self.alive, "an id is given once"
        bot = self.alive[bot_id] = Bot(bot_id=bot_id, policy=policy, max_restarts=max_restarts, code=code)
        bot.start()
        return bot

    @rule(bot=bots)
    def start(self, bot: Bot) -> None:
        self._ask(bot, "start")
        if bot.state != "running":
            bot.start()

    @rule(bot=bots)
    def stop(self, bot: Bot) -> None:
        assert self._ask(bot, "stop")["state"] == "stopped"
        bot.stop()

    @rule(bot=bots)
    def restart(self, bot: Bot) -> None:
        self._ask(bot, "restart")
        bot.restart()

    @rule(bot=consumes(bots))
    def delete(self, bot: Bot) -> None:
        self._forget(bot)

    @rule(bot=bots)
    def crash(self, bot: Bot) -> None:
        pid = self.program.bot(bot.bot_id)["pid"]
        assert (pid is not None) == (bot.state == "running")
        if pid is not None:
            psutil.Process(pid).kill()
            bot.end("killed")

    @rule()
    def list(self) -> None:
        """The processes that the API lists are those that the kernel has, and no more."""
        listed = {bot["bot_id"]: bot["pid"] for bot in self.program.get("/bots").json()}
        assert listed.keys() == {bot.bot_id for bot in self.alive.values() if bot.state == "running"}
        assert sorted(process.pid for process in self.program.processes()) == sorted(listed.values())

    @invariant()
    def all_is_as_in_the_model(self) -> None:
        expected = {bot.bot_id: (bot.goal, bot.state, bot.causes) for bot in self.alive.values()}
        seen: dict[int, Any] = {}

        def agree() -> bool:
            # States last: one read before its runs may be that of the run before, and what comes next is not there yet.
            causes = {bot_id: [run["cause"] for run in self.program.runs(bot_id)] for bot_id in self.alive}
            listed = self.program.get("/bots", params={"state": "all"}).json()
            seen.clear()
            seen.update({bot["bot_id"]: (bot["goal"], bot["state"], causes.get(bot["bot_id"])) for bot in listed})
            return seen == expected

        try:
            wait_for(agree, 10)
        except AssertionError:
            raise AssertionError(f"it is {seen}, and should be {expected}") from None

    def teardown(self) -> None:
        for bot in [*self.alive.values()]:
            self._forget(bot)
        assert self.program.processes() == []

    def _ask(self, bot: Bot, verb: str) -> dict[str, Any]:
        answer = self.program.post(f"/bots/{bot.bot_id}/{verb}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def _forget(self, bot: Bot) -> None:
        """Its runs stay, and all of them have ended."""
        del self.alive[bot.bot_id]
        assert self.program.client.delete(f"/bots/{bot.bot_id}").status_code == 204
        assert self.program.get(f"/bots/{bot.bot_id}").status_code == 404
        bot.stop()
        runs = self.program.get("/runs", params={"bot_id": bot.bot_id}).json()["runs"]
        assert [run["cause"] for run in runs] == bot.causes


class CommandsAndDeaths(Commands):
    """The same, and supervisors and zygotes die."""

    @rule(kind=st.sampled_from(["counter", "exits"]))
    def kill_zygote(self, kind: str) -> None:
        pid = self.program.get(f"/kinds/{kind}").json()["zygote_pid"]
        if pid is None:
            # One that died young is made again when it is needed.
            return
        end(psutil.Process(pid), signal.SIGKILL)
        wait_for(lambda: self.program.get(f"/kinds/{kind}").json()["zygote_pid"] != pid, 5, "that is known")

    @rule()
    def kill_supervisor(self) -> None:
        self.program.kill()
        self.program.start()
        for bot in self.alive.values():
            # It counts from the beginning, and honours goals: only one that ended well is left alone.
            if bot.state == "failed":
                bot.start()
            bot.restarts_left = bot.max_restarts


@pytest.mark.parametrize(
    ("machine", "examples", "steps"),
    [
        (Commands, 15, 20),
        pytest.param(CommandsAndDeaths, 40, 30, marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
    ids=["commands", "commands and deaths"],
)
def test_bots_do_as_the_model_does(
    shared: Program, machine: Callable[[Program], Commands], examples: int, steps: int
) -> None:
    settings = hypothesis.settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        # What fails has been waited for, so to look for a shorter way to it would take for ever.
        phases=set(hypothesis.Phase) - {hypothesis.Phase.shrink, hypothesis.Phase.explain},
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    run_state_machine_as_test(lambda: machine(shared), settings=settings)  # type: ignore[arg-type]
