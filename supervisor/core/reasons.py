"""Why a bot is in its state: every sentence that the machine gives for one, as a template.

A reason stands in a table beside the name of the bot and its state, so it has no subject and does not repeat the state.
"""

from __future__ import annotations

import signal

from supervisor.core.model import Cause, Exit, Policy, Raised, WaitingFor

START = "asked to start"
STARTING = "starting"
STARTING_AGAIN = "starting again"
READY = "its process is ready"
SHUTDOWN = "the supervisor shuts down"
FOUND_RUNNING = "its process was found running when the supervisor came back"
FOUND_STOPPING = "asked to stop before the supervisor ended"
FOUND_RESTARTING = "asked to restart before the supervisor ended"
FOUND_STOPPED = "stopped: the supervisor ended while it was stopping"
LOST_AND_STOPPED = "stopped: its process was gone when the supervisor came back"
LOST_AND_STARTED = "starting again: its process was gone when the supervisor came back"
GOAL_IS_UP = "starting: its goal is up"
MISSED_SCHEDULE = "starting: a time of its schedule passed while no supervisor ran"
SCHEDULE_OVER = "its schedule has no further time"
FIRST_SCHEDULED = "waits for the first time of its schedule"
NEXT_SCHEDULED = "waits for the next time of its schedule"
SCHEDULED_AGAIN = "its schedule begins the next run, and ends this one"
UNKILLABLE = "SIGKILL did not end the process: it hangs in the kernel, or is frozen"
FROZEN = "frozen by a signal (state T)"
FORGOTTEN = "its bot was forgotten"
NO_PROCESS_YET = "it was stopped before it had a process"


def asked(verb: str) -> str:
    """Somebody gave a command."""
    return f"asked to {verb}"


def asked_while_ending(verb: str) -> str:
    """Somebody gave a command that waits for the end of the process."""
    return f"asked to {verb}: waits until the earlier process is gone"


def turn(ahead: int) -> str:
    """A start waits for others."""
    behind = f", behind {ahead} other{'' if ahead == 1 else 's'}" if ahead else ""
    return f"waits for its turn to start{behind}"


def not_ready(limit_s: float) -> str:
    return f"was not ready within {limit_s:g} s"


def not_imported(kind: str, limit_s: float) -> str:
    return f"the kind {kind} was not imported within {limit_s:g} s"


def alive_for(seconds: float) -> str:
    return f"its process has been alive for {seconds} s"


def not_stopped(grace_s: float) -> str:
    return f"did not end within the grace of {grace_s:g} s: SIGKILL"


def silent(seconds: float) -> str:
    return f"missed its heartbeat: it was silent for {seconds:.1f} s"


def not_signalled(name: str, detail: str) -> str:
    """The kernel refused a signal."""
    return f"cannot send {name}: {detail}"


def waits_for(what: WaitingFor, detail: str) -> str:
    """Something that is not the bot's fault keeps it from starting."""
    return f"waits for the ledger: {detail}" if what is WaitingFor.LEDGER else f"waits: {detail}"


def and_then(what: str, then: str) -> str:
    """One reason after another."""
    return f"{what}; {then}"


def policy_is(what: str, policy: Policy) -> str:
    return f"{what}; the restart policy is {policy}"


def gave_up(what: str, restarts: int, within_s: float) -> str:
    return f"{what}; gave up after {restarts} restarts within {within_s:g} s"


def restart_due(what: str, number: int, of: int, within_s: float) -> str:
    return f"{what}; restart {number} of {of} within {within_s:g} s"


def ended(cause: Cause, exit_: Exit) -> str:
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
