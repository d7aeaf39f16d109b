"""How the end of a run is judged."""

from __future__ import annotations

import itertools
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core import reasons, restart
from supervisor.core.model import Cause, Exit, Goal, Policy, Raised, RestartPolicy, State


def end(
    exit_code: int | None = None, signum: int | None = None, *, oom: bool = False, raised: str | None = None
) -> Exit:
    return Exit(
        exit_code=exit_code,
        signal=signum,
        ended_at=0,
        cpu_seconds=None,
        max_rss_bytes=None,
        oom=oom,
        raised=Raised(type=raised, message="", fingerprint="") if raised else None,
    )


def judge(
    cause: Cause, exit_: Exit, policy: RestartPolicy, recent: int = 0, goal: Goal = Goal.UP, permanent: bool = False
) -> restart.Verdict:
    return restart.judge(
        cause=cause, exit_=exit_, goal=goal, policy=policy, recent=recent, permanent=permanent, noise=0
    )


@pytest.mark.parametrize(
    ("exit_", "asked", "killed", "cause"),
    [
        (end(0), None, False, Cause.EXITED),
        (end(1), None, False, Cause.CRASHED),
        (end(255), None, False, Cause.CRASHED),
        (end(signum=signal.SIGSEGV), None, False, Cause.KILLED),
        (end(), None, False, Cause.LOST),
        (end(0), Cause.STOPPED, False, Cause.STOPPED),
        (end(signum=signal.SIGKILL), Cause.STOPPED, False, Cause.STOPPED),
        (end(signum=signal.SIGKILL), Cause.STOPPED, True, Cause.STOP_TIMEOUT),
        (end(signum=signal.SIGKILL), Cause.RESTARTED, True, Cause.STOP_TIMEOUT),
        (end(signum=signal.SIGKILL), Cause.START_TIMEOUT, True, Cause.START_TIMEOUT),
        (end(1), Cause.HEARTBEAT, False, Cause.HEARTBEAT),
        (end(signum=signal.SIGKILL), None, False, Cause.KILLED),
        (end(signum=signal.SIGKILL, oom=True), None, False, Cause.OOM),
        (end(signum=signal.SIGKILL, oom=True), Cause.STOPPED, False, Cause.STOPPED),
        (end(signum=signal.SIGKILL, oom=True), Cause.HEARTBEAT, True, Cause.HEARTBEAT),
        (end(1, raised="MemoryError"), None, False, Cause.OOM),
        (end(1, raised="MemoryError"), Cause.STOPPED, False, Cause.STOPPED),
        (end(1, raised="ValueError"), None, False, Cause.CRASHED),
        (end(signum=signal.SIGXCPU), None, False, Cause.KILLED),
    ],
)
def test_the_cause(exit_: Exit, asked: Cause | None, killed: bool, cause: Cause) -> None:
    assert restart.cause_of(exit_, asked, killed) is cause


@pytest.mark.parametrize(
    ("exit_", "told"),
    [
        (end(signum=signal.SIGKILL), "was killed by SIGKILL from outside"),
        (end(signum=signal.SIGXCPU), "used up its CPU time limit (SIGXCPU)"),
        (end(signum=signal.SIGKILL, oom=True), "was killed by the kernel: out of memory"),
        (end(1, raised="MemoryError"), "had more memory than it may: MemoryError"),
    ],
)
def test_an_end_by_a_limit_is_told_as_such(exit_: Exit, told: str) -> None:
    assert reasons.ended(restart.cause_of(exit_, None, False), exit_) == told


ENDS = [(Cause.EXITED, end(0)), (Cause.CRASHED, end(1)), (Cause.KILLED, end(signum=9)), (Cause.HEARTBEAT, end(1))]


@pytest.mark.parametrize(("policy", "after_exit", "after_failure"), [
    (Policy.NEVER, State.EXITED, State.FAILED),
    (Policy.ON_FAILURE, State.EXITED, State.BACKOFF),
    (Policy.ALWAYS, State.BACKOFF, State.BACKOFF),
])  # fmt: skip
def test_the_policies(policy: Policy, after_exit: State, after_failure: State) -> None:
    for cause, exit_ in ENDS:
        verdict = judge(cause, exit_, RestartPolicy(policy=policy))
        assert verdict.state is (after_exit if cause is Cause.EXITED else after_failure)
        assert (verdict.delay_s is not None) == (verdict.state is State.BACKOFF)


@pytest.mark.parametrize(("policy", "cause"), list(itertools.product(Policy, Cause)))
def test_what_is_wanted_down_is_stopped_however_it_ended(policy: Policy, cause: Cause) -> None:
    assert judge(cause, end(1), RestartPolicy(policy=policy), goal=Goal.DOWN).state is State.STOPPED


@pytest.mark.parametrize(("policy", "cause"), list(itertools.product(Policy, [Cause.RESTARTED, Cause.STOPPED])))
def test_a_restart_that_was_asked_for_is_never_a_crash(policy: Policy, cause: Cause) -> None:
    verdict = judge(cause, end(1), RestartPolicy(policy=policy, max_restarts=0), recent=100)
    assert verdict.state is State.STARTING


def test_it_gives_up_after_the_most_restarts_and_tries_again_slowly() -> None:
    policy = RestartPolicy(max_restarts=3, retry_after_s=600)
    assert judge(Cause.CRASHED, end(1), policy, recent=2).state is State.BACKOFF
    verdict = judge(Cause.CRASHED, end(1), policy, recent=3)
    assert (verdict.state, verdict.delay_s) == (State.FAILED, 600)
    assert "gave up after 3 restarts within 60 s" in verdict.reason


def test_what_cannot_get_better_is_not_tried_again() -> None:
    verdict = judge(Cause.SPAWN_FAILED, end(126), RestartPolicy(policy=Policy.ALWAYS), permanent=True)
    assert (verdict.state, verdict.delay_s) == (State.FAILED, None)


def test_the_delays_grow_to_a_cap() -> None:
    policy = RestartPolicy(delay_s=0.5, factor=2, max_delay_s=5)
    assert [restart.backoff_s(policy, n, 0) for n in range(6)] == [0.5, 1, 2, 4, 5, 5]


@given(
    delay_s=st.floats(0, 86_400), factor=st.floats(1, 1000), max_delay_s=st.floats(0, 86_400),
    jitter=st.floats(0, 1), n=st.integers(0, 10**6), noise=st.floats(-1, 1),
)  # fmt: skip
def test_a_delay_is_within_its_bounds(
    delay_s: float, factor: float, max_delay_s: float, jitter: float, n: int, noise: float
) -> None:
    policy = RestartPolicy(delay_s=delay_s, factor=factor, max_delay_s=max_delay_s, jitter=jitter)
    delay = restart.backoff_s(policy, n, noise)
    plain = restart.backoff_s(policy, n, 0)
    assert 0 <= delay <= max_delay_s
    assert abs(delay - plain) <= plain * jitter + 1e-6


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (11, "SIGSEGV"), (signal.SIGRTMIN + 3, "SIGRTMIN+3")])
def test_signals_have_names(number: int, name: str) -> None:
    assert reasons.signal_name(number) == name
