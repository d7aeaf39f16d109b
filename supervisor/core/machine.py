"""The machine of one bot: a table, and nothing else.

Everything that decides which state follows which must live here. There is no clock, no I/O and no process in
this file. A pair that is missing is a bug of the caller: `step` raises and names it. The diagram in
`docs/lifecycle.md` is made from the table (`python -m supervisor.core.machine`), and a test compares the two.
"""

from __future__ import annotations

import enum

from supervisor.core.model import State


class Event(enum.StrEnum):
    """What can happen to a bot. The ends of a process come here judged (see `restart.judge`)."""

    START = "start"
    STOP = "stop"
    RESTART = "restart"
    READY = "ready"
    DEADLINE = "deadline"
    GONE_STOPPED = "gone: stop"
    GONE_AGAIN = "gone: again"
    GONE_RETRY = "gone: retry"
    GONE_DONE = "gone: done"
    GONE_FAILED = "gone: give up"


class MissingTransition(RuntimeError):
    """An event came in a state in which it cannot: a bug, never the user's fault."""


_S, _E = State, Event
_GONE = {
    _E.GONE_STOPPED: _S.STOPPED,
    _E.GONE_AGAIN: _S.STARTING,
    _E.GONE_RETRY: _S.BACKOFF,
    _E.GONE_DONE: _S.EXITED,
    _E.GONE_FAILED: _S.FAILED,
}
_SETTLED = {_E.START: _S.STARTING, _E.RESTART: _S.STARTING, _E.STOP: _S.STOPPED}

TABLE: dict[State, dict[Event, State]] = {
    _S.STARTING: {
        _E.START: _S.STARTING,
        _E.STOP: _S.STOPPING,
        _E.RESTART: _S.STOPPING,
        _E.READY: _S.RUNNING,
        _E.DEADLINE: _S.STOPPING,
        **_GONE,
    },
    _S.RUNNING: {
        _E.START: _S.RUNNING,
        _E.STOP: _S.STOPPING,
        _E.RESTART: _S.STOPPING,
        _E.READY: _S.RUNNING,
        _E.DEADLINE: _S.STOPPING,
        **_GONE,
    },
    # A start or a restart of a bot that is being stopped changes its goal: it is started when it is gone.
    _S.STOPPING: {
        _E.START: _S.STOPPING,
        _E.STOP: _S.STOPPING,
        _E.RESTART: _S.STOPPING,
        _E.READY: _S.STOPPING,
        _E.DEADLINE: _S.KILLING,
        **_GONE,
    },
    _S.KILLING: {
        _E.START: _S.KILLING,
        _E.STOP: _S.KILLING,
        _E.RESTART: _S.KILLING,
        _E.READY: _S.KILLING,
        _E.DEADLINE: _S.KILLING,
        **_GONE,
    },
    _S.BACKOFF: {**_SETTLED, _E.DEADLINE: _S.STARTING},
    _S.STOPPED: _SETTLED,
    _S.EXITED: _SETTLED,
    _S.FAILED: {**_SETTLED, _E.DEADLINE: _S.STARTING},
}


def step(state: State, event: Event) -> State:
    """The state that follows. Raises `MissingTransition` for a pair that the table does not have."""
    try:
        return TABLE[state][event]
    except KeyError:
        raise MissingTransition(f"no transition from {state} on {event!r}") from None


def diagram() -> str:
    """The table as a Mermaid state diagram; events between the same two states share an arrow."""
    arrows: dict[tuple[State, State], list[Event]] = {}
    for state, row in TABLE.items():
        for event, target in row.items():
            if target is not state:
                arrows.setdefault((state, target), []).append(event)
    lines = ["stateDiagram-v2", "    [*] --> starting"]
    lines += [
        f"    {a} --> {b}: {', '.join(e.replace(': ', ' ') for e in events)}" for (a, b), events in arrows.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(diagram())
