"""How an ended run is judged: a pure function of cause, exit, policy and recent restarts."""

from __future__ import annotations

import random
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from supervisor.core.machine import Event
from supervisor.core.model import Cause, Exit, Goal, Policy, Raised, RestartPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What follows the end of a run. `delay_s`: until the next start; None where none will come by itself."""

    event: Event
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


def describe(cause: Cause, exit_: Exit) -> str:
    """The end of a run as the beginning of a sentence, e.g. "crashed with exit code 1: ValueError: no such town"."""
    how = ""
    if exit_.signal is not None:
        how = signal_name(exit_.signal)
    elif exit_.exit_code is not None:
        how = f"exit code {exit_.exit_code}"
        if exit_.raised is not None:
            how += f": {_last_line(exit_.raised)}"
    match cause:
        case Cause.EXITED:
            return "ended well, with exit code 0"
        case Cause.CRASHED:
            return f"crashed with {how}: {exit_.detail}" if exit_.detail else f"crashed with {how}"
        case Cause.KILLED if exit_.signal == signal.SIGXCPU:
            return f"used up its CPU time limit ({how})"
        case Cause.KILLED:
            return f"was killed by {how} from outside"
        case Cause.STOPPED:
            return f"was stopped ({how or 'before it had a process'})"
        case Cause.RESTARTED:
            return f"was restarted ({how or 'before it had a process'})"
        case Cause.STOP_TIMEOUT:
            return f"ignored SIGTERM for the whole grace ({how})"
        case Cause.START_TIMEOUT:
            return exit_.detail or "was not ready within the start timeout"
        case Cause.HEARTBEAT:
            return "missed its heartbeat"
        case Cause.OOM if exit_.raised is not None:
            return f"had more memory than it may: {exit_.raised.type}"
        case Cause.OOM:
            return "was killed by the kernel: out of memory"
        case Cause.SPAWN_FAILED:
            return f"could not be started: {exit_.detail}"
        case Cause.LOST:
            return "ended while nobody could see how"


def _last_line(raised: Raised) -> str:
    """As a traceback ends, with no more than the first line of the message."""
    first = raised.message.partition("\n")[0]
    return f"{raised.type}: {first}" if first else raised.type


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
    return f"{cause}:{exit_.exit_code if exit_.signal is None else signal_name(exit_.signal)}"


def signal_name(number: int) -> str:
    """ "SIGKILL" for 9; "SIGRTMIN+3" and the like where there is no name of its own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return (
            f"SIGRTMIN+{number - signal.SIGRTMIN}"
            if signal.SIGRTMIN <= number <= signal.SIGRTMAX
            else f"signal {number}"
        )


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
    recent: Sequence[float],
    permanent: bool = False,
    noise: float | None = None,
) -> Verdict:
    """What follows a run that ended.

    Args:
        recent: the automatic restarts within the window, oldest first; only their number counts.
        permanent: the failure will repeat until somebody changes something; it is not tried again.
        noise: the jitter's random part, in [-1, 1]; drawn here when None.
    """
    what = describe(cause, exit_)
    if goal is Goal.DOWN:
        return Verdict(event=Event.GONE_STOPPED, reason=what)
    if cause in (Cause.STOPPED, Cause.RESTARTED, Cause.STOP_TIMEOUT):
        return Verdict(event=Event.GONE_AGAIN, reason=f"{what}; starting again")
    ended_well = cause is Cause.EXITED
    if policy.policy is not Policy.ALWAYS and ended_well:
        return Verdict(event=Event.GONE_DONE, reason=f"{what}; the restart policy is {policy.policy}")
    if permanent:
        return Verdict(event=Event.GONE_FAILED, reason=what)
    if policy.policy is Policy.NEVER:
        return Verdict(event=Event.GONE_FAILED, reason=f"{what}; the restart policy is never")
    if len(recent) >= policy.max_restarts:
        reason = f"{what}; gave up after {len(recent)} restarts within {policy.within_s:g} s"
        return Verdict(event=Event.GONE_FAILED, reason=reason, delay_s=policy.retry_after_s)
    delay = backoff_s(policy, len(recent), random.uniform(-1, 1) if noise is None else noise)
    reason = f"{what}; restart {len(recent) + 1} of {policy.max_restarts} within {policy.within_s:g} s"
    return Verdict(event=Event.GONE_RETRY, reason=reason, delay_s=delay)
