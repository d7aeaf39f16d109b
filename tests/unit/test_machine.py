"""The machine of a bot, fed by hand."""

from __future__ import annotations

import dataclasses

import pytest

from supervisor.core import effects, events
from supervisor.core.attempt import Phase
from supervisor.core.events import Event, Now
from supervisor.core.machine import DUMP_S, Machine
from supervisor.core.model import Bot, Cause, Exit, Goal, Limits, RestartPolicy, State
from supervisor.core.table import Step
from supervisor.core.terms import Terms

TERMS = Terms(
    restart=RestartPolicy(jitter=0.0),
    grace_s=8.0,
    limits=Limits(),
    schedule=None,
    start_timeout_s=30.0,
    ready="start",
    heartbeat_s=None,
)
WALL = 1_780_000_000_000_000


class World:
    """A machine and its clock. `last` is what the latest event made it want."""

    def __init__(self, **terms: object) -> None:
        self.terms = dataclasses.replace(TERMS, **terms)  # type: ignore[arg-type]
        self.time = 1000.0
        self.last: list[effects.Effect] = []
        bot = Bot(
            bot_id=1,
            kind="any",
            params={},
            name=None,
            labels={},
            restart=self.terms.restart,
            grace_s=self.terms.grace_s,
            goal=Goal.UP,
            state=State.STARTING,
            reason="",
            restarts=0,
            created_at=WALL,
        )
        self.machine = Machine(bot)

    def feed(self, *given: Event) -> None:
        for event in given:
            wall = WALL + round((self.time - 1000.0) * 1e6)
            self.last = self.machine.feed(event, Now(time=self.time, wall=wall, terms=self.terms))

    def start(self) -> None:
        """The bot has a process, of run 7."""
        self.feed(events.Made(), events.Opened(7), events.Imported(), events.Spawned())

    def wait(self, seconds: float) -> None:
        self.time += seconds
        self.feed(events.Tick())

    def has(self, effect: type[effects.Effect]) -> bool:
        return any(isinstance(e, effect) for e in self.last)

    def state(self) -> State:
        return self.machine.bot.state

    def phase(self) -> Phase | None:
        return self.machine.attempt.phase if self.machine.attempt else None


def ended(*, swept: bool = True, exit_code: int = 1) -> Exit:
    return Exit(exit_code=exit_code, signal=None, ended_at=WALL, cpu_seconds=None, max_rss_bytes=None, swept=swept)


def test_a_run_that_died_while_starting_does_not_keep_its_turn_for_its_descendants() -> None:
    world = World()
    world.start()
    world.feed(events.Ended(7, ended(swept=False)))
    assert (world.state(), world.phase()) == (State.STARTING, Phase.SWEEPING)
    world.wait(TERMS.start_timeout_s)
    assert world.state() is State.STOPPING
    world.feed(events.Swept(7, ended()))
    assert world.state() is State.BACKOFF
    assert world.machine.bot.last_exit is not None
    assert world.machine.bot.last_exit.cause is Cause.CRASHED


@pytest.mark.parametrize("ready", ["notify", 2.0])
def test_a_run_that_has_ended_does_not_become_ready(ready: object) -> None:
    world = World(ready=ready)
    world.start()
    world.feed(events.Ended(7, ended(swept=False)), events.Ready(7))
    assert not world.last
    world.wait(2.0)
    assert world.state() is State.STARTING


def test_a_silent_process_that_has_ended_is_not_alive_again_when_its_time_to_dump_is_over() -> None:
    world = World(heartbeat_s=3.0)
    world.start()
    world.feed(events.Ready(7))
    world.wait(3.0)
    assert world.phase() is Phase.DUMPING
    world.feed(events.Ended(7, ended(swept=False)))
    world.wait(DUMP_S)
    assert world.phase() is Phase.SWEEPING
    assert not world.last


@pytest.mark.parametrize("verb", [Step.START, Step.RESTART])
def test_a_start_while_the_supervisor_ends_is_for_the_next_one(verb: Step) -> None:
    world = World()
    world.start()
    world.feed(events.Command(Step.STOP), events.Ended(7, ended()), events.Swept(7, ended()), events.ShutDown(3.0))
    assert (world.state(), world.machine.bot.goal) == (State.STOPPED, Goal.DOWN)
    world.feed(events.Command(verb))
    assert (world.state(), world.machine.bot.goal) == (State.STOPPED, Goal.UP)
    assert not world.has(effects.Launch)


def test_a_heartbeat_that_the_settings_ask_for_later_is_not_missed_by_a_bot_that_runs() -> None:
    world = World()
    world.start()
    world.feed(events.Ready(7))
    world.time += 100.0
    world.terms = dataclasses.replace(TERMS, heartbeat_s=3.0)
    world.feed(events.Tick())
    assert (world.state(), world.machine.deadline) == (State.RUNNING, None)
    world.feed(events.Command(Step.RESTART), events.Ended(7, ended()), events.Swept(7, ended()))
    world.feed(events.Opened(8), events.Imported(), events.Spawned(), events.Ready(8))
    assert world.machine.deadline == world.time + 3.0
