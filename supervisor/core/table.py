"""Which state of a bot follows which, and on what. The theory stands in `core.machine`.

A pair that the table does not have is a bug. The diagram in the documents is made from the table
(`python -m supervisor.core.table`), and a test compares the two.
"""

from __future__ import annotations

import enum

from supervisor.core.model import State


class Step(enum.StrEnum):
    """What an event comes to, once it is judged."""

    MADE = "made"
    MADE_FOR_LATER = "made for later"
    FOUND_RUNNING = "found running"
    FOUND_STOPPING = "found stopping"
    FOUND_DOWN = "found down"
    FOUND_OVER = "found over"

    START = "start"
    STOP = "stop"
    RESTART = "restart"
    READY = "ready"
    DEADLINE = "deadline"
    GONE_STOPPED = "gone: stop"
    GONE_AGAIN = "gone: again"
    GONE_RETRY = "gone: retry"
    GONE_SCHEDULED = "gone: scheduled"
    GONE_DONE = "gone: done"
    GONE_FAILED = "gone: give up"


class MissingTransition(RuntimeError):
    """A step in a state that does not have it: a bug, never the user's fault."""


_S = State

BIRTHS: dict[Step, State] = {
    Step.MADE: _S.STARTING,
    Step.MADE_FOR_LATER: _S.SCHEDULED,
    Step.FOUND_RUNNING: _S.RUNNING,
    Step.FOUND_STOPPING: _S.STOPPING,
    Step.FOUND_DOWN: _S.STOPPED,
    Step.FOUND_OVER: _S.EXITED,
}
"""How a machine begins, whatever an earlier supervisor wrote of the bot."""

_GONE: dict[Step, State] = {
    Step.GONE_STOPPED: _S.STOPPED,
    Step.GONE_AGAIN: _S.STARTING,
    Step.GONE_RETRY: _S.BACKOFF,
    Step.GONE_SCHEDULED: _S.SCHEDULED,
    Step.GONE_DONE: _S.EXITED,
    Step.GONE_FAILED: _S.FAILED,
}
GONE = {state: taken for taken, state in _GONE.items()}
"""The step to each state that can follow the end of a run."""

_STARTABLE = {Step.START: _S.STARTING, Step.RESTART: _S.STARTING, Step.STOP: _S.STOPPED}

TABLE: dict[State, dict[Step, State]] = {
    _S.STARTING: {
        Step.START: _S.STARTING,
        Step.STOP: _S.STOPPING,
        Step.RESTART: _S.STOPPING,
        Step.READY: _S.RUNNING,
        Step.DEADLINE: _S.STOPPING,
        **_GONE,
    },
    _S.RUNNING: {
        Step.START: _S.RUNNING,
        Step.STOP: _S.STOPPING,
        Step.RESTART: _S.STOPPING,
        Step.READY: _S.RUNNING,
        Step.DEADLINE: _S.STOPPING,
        **_GONE,
    },
    # A start or a restart of a bot that is being stopped changes its goal: it is started when it is gone.
    _S.STOPPING: {
        Step.START: _S.STOPPING,
        Step.STOP: _S.STOPPING,
        Step.RESTART: _S.STOPPING,
        Step.READY: _S.STOPPING,
        Step.DEADLINE: _S.KILLING,
        **_GONE,
    },
    _S.KILLING: {
        Step.START: _S.KILLING,
        Step.STOP: _S.KILLING,
        Step.RESTART: _S.KILLING,
        Step.READY: _S.KILLING,
        Step.DEADLINE: _S.KILLING,
        **_GONE,
    },
    _S.BACKOFF: {**_STARTABLE, Step.DEADLINE: _S.STARTING},
    _S.SCHEDULED: {**_STARTABLE, Step.DEADLINE: _S.STARTING},
    _S.STOPPED: _STARTABLE,
    _S.EXITED: _STARTABLE,
    _S.FAILED: {**_STARTABLE, Step.DEADLINE: _S.STARTING},
}


def step(state: State, taken: Step) -> State:
    """The state that follows. Raises `MissingTransition` for a pair that the table does not have."""
    if taken in BIRTHS:
        return BIRTHS[taken]
    try:
        return TABLE[state][taken]
    except KeyError:
        raise MissingTransition(f"no transition from {state} on {taken!r}") from None


def diagram() -> str:
    """The table as a Mermaid state diagram; steps between the same two states share an arrow."""
    arrows: dict[tuple[str, State], list[Step]] = {}
    for taken, target in BIRTHS.items():
        arrows.setdefault(("[*]", target), []).append(taken)
    for state, row in TABLE.items():
        for taken, target in row.items():
            if target is not state:
                arrows.setdefault((state, target), []).append(taken)
    lines = ["stateDiagram-v2"]
    lines += [f"    {a} --> {b}: {', '.join(s.replace(': ', ' ') for s in steps)}" for (a, b), steps in arrows.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(diagram())
