"""The machine of a bot, as a table."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core import table
from supervisor.core.model import ACTIVE, SETTLED, State
from supervisor.core.table import BIRTHS, MissingTransition, Step, step

COMMANDS = (Step.START, Step.STOP, Step.RESTART)
WAITING = {State.BACKOFF, State.SCHEDULED}
WITH_A_PROCESS = ACTIVE - WAITING
GONE = [event for event in Step if event.startswith("gone")]


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_can_come_in_every_state(state: State, command: Step) -> None:
    after = step(state, command)
    assert after in State
    if command is Step.STOP:
        assert after in (State.STOPPING, State.KILLING, State.STOPPED)
    elif state in SETTLED or state in WAITING:
        assert after is State.STARTING


@pytest.mark.parametrize("state", sorted(WITH_A_PROCESS))
def test_a_process_can_end_and_be_late_in_every_state_that_has_one(state: State) -> None:
    assert [step(state, event) for event in GONE] == [
        State.STOPPED,
        State.STARTING,
        State.BACKOFF,
        State.SCHEDULED,
        State.EXITED,
        State.FAILED,
    ]
    assert step(state, Step.DEADLINE) in (State.STOPPING, State.KILLING)
    assert step(state, Step.READY) in (State.RUNNING, State.STOPPING, State.KILLING)


@pytest.mark.parametrize("state", sorted({*SETTLED, *WAITING}))
def test_without_a_process_nothing_of_a_process_can_come(state: State) -> None:
    for event in (*GONE, Step.READY):
        with pytest.raises(MissingTransition, match=f"from {state} on"):
            step(state, event)


@given(st.lists(st.sampled_from(Step)))
def test_a_state_that_is_settled_is_left_by_starts_alone(events: list[Step]) -> None:
    state = State.STARTING
    for event in events:
        if event in table.TABLE[state]:
            before, state = state, step(state, event)
            if before in SETTLED and state not in SETTLED:
                assert event in (Step.START, Step.RESTART, Step.DEADLINE)
                assert state is State.STARTING
            if before is State.KILLING and state is not State.KILLING:
                assert event in GONE, "only its end takes a process out of killing"


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("birth", BIRTHS)
def test_a_birth_does_not_ask_what_was(state: State, birth: Step) -> None:
    assert step(state, birth) is BIRTHS[birth]


def test_the_diagram_in_the_docs_is_the_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "lifecycle.md").read_text()
    assert f"```mermaid\n{table.diagram()}\n```" in text
    for state in State:
        assert f"| {state} |" in text
