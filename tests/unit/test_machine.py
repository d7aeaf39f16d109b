"""The machine of a bot, as a table."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core import machine
from supervisor.core.machine import Event, MissingTransition, step
from supervisor.core.model import ACTIVE, SETTLED, State

COMMANDS = (Event.START, Event.STOP, Event.RESTART)
WITH_A_PROCESS = ACTIVE - {State.BACKOFF}
GONE = [event for event in Event if event.startswith("gone")]


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_can_come_in_every_state(state: State, command: Event) -> None:
    after = step(state, command)
    assert after in State
    if command is Event.STOP:
        assert after in (State.STOPPING, State.KILLING, State.STOPPED)
    elif state in SETTLED or state is State.BACKOFF:
        assert after is State.STARTING


@pytest.mark.parametrize("state", sorted(WITH_A_PROCESS))
def test_a_process_can_end_and_be_late_in_every_state_that_has_one(state: State) -> None:
    assert [step(state, event) for event in GONE] == [
        State.STOPPED,
        State.STARTING,
        State.BACKOFF,
        State.EXITED,
        State.FAILED,
    ]
    assert step(state, Event.DEADLINE) in (State.STOPPING, State.KILLING)
    assert step(state, Event.READY) in (State.RUNNING, State.STOPPING, State.KILLING)


@pytest.mark.parametrize("state", sorted({*SETTLED, State.BACKOFF}))
def test_without_a_process_nothing_of_a_process_can_come(state: State) -> None:
    for event in (*GONE, Event.READY):
        with pytest.raises(MissingTransition, match=f"from {state} on"):
            step(state, event)


@given(st.lists(st.sampled_from(Event)))
def test_a_state_that_is_settled_is_left_by_starts_alone(events: list[Event]) -> None:
    state = State.STARTING
    for event in events:
        if event in machine.TABLE[state]:
            before, state = state, step(state, event)
            if before in SETTLED and state not in SETTLED:
                assert event in (Event.START, Event.RESTART, Event.DEADLINE)
                assert state is State.STARTING
            if before is State.KILLING and state is not State.KILLING:
                assert event in GONE, "only its end takes a process out of killing"


def test_the_diagram_in_the_docs_is_the_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "lifecycle.md").read_text()
    assert f"```mermaid\n{machine.diagram()}\n```" in text
    for state in State:
        assert f"| {state} |" in text
