"""How an ended run is judged: a pure function of cause, exit, policy and recent restarts."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from supervisor.core import reasons
from supervisor.core.model import Cause, Exit, Goal, Policy, RestartPolicy, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What follows the end of a run: the state, and why.

    `delay_s`: until the next start by itself; None where there is none. `STARTING` is a start at once, which somebody
    asked for.
    """

    state: State
    reason: str
    delay_s: float | None = None


def cause_of(exit_: Exit, asked: Cause | None, killed: bool) -> Cause:
    """Why the run ended.

    `asked` is why we ended it ourselves, or None; `killed` says that it took our SIGKILL after the grace.
    """
    if exit_.exit_code is None and exit_.signal is None:
        return Cause.LOST
    if exit_.asked is not None:
        return exit_.asked
    if asked in (Cause.STOPPED, Cause.RESTARTED) and killed and exit_.signal == signal.SIGKILL:
        return Cause.STOP_TIMEOUT
    if asked is not None:
        return asked
    if exit_.oom or (exit_.raised is not None and exit_.raised.type == "MemoryError"):
        return Cause.OOM
    if exit_.signal is not None:
        return Cause.KILLED
    return Cause.EXITED if exit_.exit_code == 0 else Cause.CRASHED


_FAILURES = frozenset(
    {Cause.CRASHED, Cause.KILLED, Cause.OOM, Cause.HEARTBEAT, Cause.START_TIMEOUT, Cause.SPAWN_FAILED}
)


def fingerprint(cause: Cause, exit_: Exit) -> str | None:
    """The same for runs that failed in the same way; None for one that did not fail.

    That of the exception if there was one, also while the bot was stopped; else the cause with its code or signal,
    e.g. "killed:SIGSEGV".
    """
    if exit_.raised is not None:
        return exit_.raised.fingerprint
    if cause not in _FAILURES:
        return None
    return f"{cause}:{exit_.exit_code if exit_.signal is None else reasons.signal_name(exit_.signal)}"


def backoff_s(policy: RestartPolicy, n: int, noise: float) -> float:
    """The delay before restart number `n` (from 0) in the window; `noise` is in [-1, 1]."""
    # The exponent is bounded so that a large factor cannot overflow a float on its way to the cap.
    delay = min(policy.max_delay_s, policy.delay_s * policy.factor ** min(n, 64))
    return max(0.0, min(policy.max_delay_s, delay * (1 + policy.jitter * noise)))


def judge(
    *,
    cause: Cause,
    exit_: Exit,
    goal: Goal,
    policy: RestartPolicy,
    recent: int,
    noise: float,
    permanent: bool = False,
    again: bool = False,
) -> Verdict:
    """What follows a run that ended.

    Args:
        recent: how many automatic restarts there were within the window.
        noise: the jitter's random part, in [-1, 1].
        permanent: the failure will repeat until somebody changes something; it is not tried again.
        again: somebody asked for another run.
    """
    what = reasons.ended(cause, exit_)
    if goal is Goal.DOWN:
        return Verdict(state=State.STOPPED, reason=what)
    if again or cause in (Cause.STOPPED, Cause.RESTARTED, Cause.STOP_TIMEOUT):
        return Verdict(state=State.STARTING, reason=reasons.and_then(what, reasons.STARTING_AGAIN))
    if policy.policy is not Policy.ALWAYS and cause is Cause.EXITED:
        return Verdict(state=State.EXITED, reason=reasons.policy_is(what, policy.policy))
    if permanent:
        return Verdict(state=State.FAILED, reason=what)
    if policy.policy is Policy.NEVER:
        return Verdict(state=State.FAILED, reason=reasons.policy_is(what, policy.policy))
    if recent >= policy.max_restarts:
        reason = reasons.gave_up(what, recent, policy.within_s)
        return Verdict(state=State.FAILED, reason=reason, delay_s=policy.retry_after_s)
    reason = reasons.restart_due(what, recent + 1, policy.max_restarts, policy.within_s)
    return Verdict(state=State.BACKOFF, reason=reason, delay_s=backoff_s(policy, recent, noise))
