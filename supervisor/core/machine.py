"""The machine of one bot: its whole life as a value, with one door.

Theory of operation
-------------------
A bot outlives its processes. What is *wanted* of it is its goal, up or down; what *is* is its state. The machine is
told everything that happens to the bot as an event, `feed(event, now)`, and answers with effects: what is to be done
about it, in this order. It does nothing itself. It has no clock, no I/O, no task and no random number: `Now` brings
the time, what the settings say, and the noise. So the same events give the same life, a test can live through a year
in a second, and a seed is a bug report.

*States and steps.* `TABLE` says which state follows which, on which step. An event is first judged: an exit becomes
"gone: retry" or "gone: give up" by cause, policy and recent restarts (`restart.judge`), a timer becomes "deadline" if
it is due. Only then the table is asked, once for each event. A pair that it does not have is a bug and raises, before
anything has changed.

*Births.* A machine begins with the bot as the ledger has it. Who begins it says how it was found: just made, due
later, running, lost, left half done. That is an event too, and its steps are the table's first row, `BIRTHS`.

*Attempts.* Each run, from the decision to start to the judgement of its end, is an `Attempt`, and a new start is a new
object: nothing of an earlier run has to be cleared, and nothing can be forgotten. Its phase says how far it has come:

    queued -> opening -> importing -> forking -> alive (-> dumping -> alive) -> sweeping

The launch (`fleet.launch`) reports each step up to the process, and ends with exactly one of `Spawned` and
`NotSpawned`. A stop before that cancels the launch, or ends the process as soon as it is there. While `alive`, SIGTERM
and SIGKILL can be sent; `dumping` gives a bot that missed its heartbeat a moment to write its stacks; `sweeping` is the
time between the end of the process and that of everything it had started. `Ending` is there from SIGTERM on: it keeps
why the run ends and until when it may take.

*Waiting.* Without an attempt, a bot may wait for its next start: `Waiting` says for what, and until when. A delay is
counted on the monotonic clock. A time of day is not: somebody may set the clock, so it is looked at now and then.

*One deadline.* Every state that passes has one, and it is computed from the attempt or the wait, never assigned. The
driver arms one timer for it and feeds a `Tick`; a tick that comes early or late changes nothing.

*Late facts.* What a process or its watcher reports carries the run's id, and is dropped when that run is over.

*Failing effects.* An effect that cannot be carried out comes back as `EffectFailed`. A fact that was fed is kept all
the same: an end is recorded whatever becomes of the process's log, locks or descriptors.

Everything that decides which state follows must stand here. The diagram in the documents is made from the table
(`python -m supervisor.core.table`), and a test compares the two.
"""

from __future__ import annotations

import dataclasses

from botproc import wire
from supervisor.core import effects, events, reasons, restart, schedules
from supervisor.core.attempt import Appointment, Attempt, Ending, Phase, RestartWindow, Waiting
from supervisor.core.events import Event, Now
from supervisor.core.model import SETTLED, Bot, Cause, Exit, Goal, LastExit, Missed, Overlap, Run, State, WaitingFor
from supervisor.core.table import GONE, Step, step

LEDGER_RETRY_S = 1.0
"""Interval between starts that the ledger cannot take."""

DUMP_S = 0.5
"""Time for a bot that missed its heartbeat to write its stacks, before it is stopped."""


class Machine:
    """The life of one bot.

    Attributes:
        bot: with the state, the reason and the goal of now.
        attempt: the run that is being made, lives, or is not swept yet.
        waiting: for what its next start waits, if one comes by itself.
        starts: how many attempts there were.
    """

    def __init__(self, bot: Bot) -> None:
        self.bot = bot
        self.attempt: Attempt | None = None
        self.waiting: Waiting | None = None
        self.starts = 0
        self._window = RestartWindow()
        self._shutting_down = False
        self._effects: list[effects.Effect] = []

    # ---- what can be asked of it

    @property
    def deadline(self) -> float | None:
        """When to feed a `Tick`, on the monotonic clock; None while nothing is due."""
        if self.attempt is not None:
            return self.attempt.deadline
        return self.waiting.look_at if self.waiting else None

    @property
    def listens(self) -> bool:
        """Whether a heartbeat is awaited."""
        attempt = self.attempt
        return self.bot.state is State.RUNNING and attempt is not None and attempt.terms.heartbeat_s is not None

    @property
    def grace_s(self) -> float:
        """The time that a stop gives, or gave, before SIGKILL."""
        ending = self.attempt.ending if self.attempt else None
        return self.bot.grace_s if ending is None else ending.grace_s

    @property
    def waiting_for(self) -> WaitingFor | None:
        """What the next start waits for."""
        if self.attempt is not None:
            return WaitingFor.TURN if self.attempt.phase is Phase.QUEUED else None
        return self.waiting.why if self.waiting else None

    # ---- the one door

    def feed(self, event: Event, now: Now) -> list[effects.Effect]:
        """Take one event, and return what is to be done about it, in this order.

        Raises MissingTransition for what cannot happen.
        """
        self._effects = []
        attempt = self.attempt
        match event:
            case events.Tick():
                self._on_tick(now)
            case events.Ready(run_id=run_id) if (
                attempt
                and attempt.run_id == run_id
                and attempt.phase is not Phase.SWEEPING
                and self.bot.state is State.STARTING
            ):
                self._become_ready(attempt, reasons.READY, now)
            case events.Ended(run_id=run_id, exit_=exit_) if attempt and attempt.run_id == run_id:
                self._on_ended(attempt, exit_)
            case events.Swept(run_id=run_id, exit_=exit_) if attempt and attempt.run_id == run_id:
                self._on_swept(attempt, exit_, now)
            case events.Command():
                self._on_command(event, now)
            case events.ShutDown():
                self._on_shut_down(event, now)
            case events.Queued() if attempt:
                attempt.phase, attempt.start_by = Phase.QUEUED, None
            case events.Granted() if attempt:
                attempt.phase, attempt.start_by = Phase.OPENING, now.time + attempt.terms.start_timeout_s
            case events.Opened(run_id=run_id) if attempt:
                attempt.phase, attempt.run_id = Phase.IMPORTING, run_id
            case events.Checked(params=params):
                self.bot = dataclasses.replace(self.bot, params=params, unchecked=False)
            case events.Imported() if attempt:
                attempt.phase = Phase.FORKING
            case events.Spawned() if attempt:
                self._on_spawned(attempt, now)
            case events.NotSpawned() if attempt:
                self._on_not_spawned(attempt, event, now)
            case events.TermsChanged() if self.waiting and self.waiting.why is WaitingFor.SCHEDULE:
                self.waiting = self.waiting.under(now.terms.applied(self.bot).schedule, now)
            case events.EffectFailed(effect=effect, detail=detail):
                self._on_effect_failed(effect, detail, now)
            case events.Made(run=run):
                self._begin(Step.MADE, reasons.START, now, run=run)
            case events.MadeForLater(due=due):
                self._wait(Step.MADE_FOR_LATER, reasons.FIRST_SCHEDULED, WaitingFor.SCHEDULE, now, until=due)
            case events.FoundAlive():
                self._on_found_alive(event.run, event.age_s, now)
            case events.FoundLost():
                self._on_found_lost(event.run, event.exit_, now)
            case events.FoundIdle(since=since) if self.bot.goal is Goal.UP:
                self._resume(since, reasons.GOAL_IS_UP, now)
            case events.FoundIdle():
                self._enter(Step.FOUND_DOWN, reasons.FOUND_STOPPED)
        return self._effects

    # ---- births

    def _on_found_alive(self, run: Run, age_s: float, now: Now) -> None:
        self.attempt = attempt = Attempt(now.terms, run.started_at, None, Phase.ALIVE, run.run_id)
        attempt.spawned = attempt.heard = now.time
        attempt.spawned -= age_s
        attempt.ready_at = run.ready_at
        if run.ready_at is None:
            attempt.ready_at = now.wall
            self._effects.append(effects.MarkReady(run.run_id, now.wall, None))
        if self.bot.goal is Goal.DOWN:
            self._end(Step.FOUND_STOPPING, reasons.FOUND_STOPPING, Cause.STOPPED, now)
        elif self.bot.state in (State.STOPPING, State.KILLING):
            self._end(Step.FOUND_STOPPING, reasons.FOUND_RESTARTING, Cause.RESTARTED, now)
        else:
            attempt.again = self._next_overlapping(now)
            self._enter(Step.FOUND_RUNNING, reasons.FOUND_RUNNING)

    def _on_found_lost(self, run: Run, exit_: Exit, now: Now) -> None:
        self._close_run(run.run_id, exit_, Cause.LOST)
        if self.bot.goal is Goal.UP:
            self._resume(run.started_at, reasons.LOST_AND_STARTED, now)
        else:
            self._enter(Step.FOUND_DOWN, reasons.LOST_AND_STOPPED)

    def _resume(self, since: int, reason: str, now: Now) -> None:
        """The first start under this supervisor: now, or when the schedule says so."""
        schedule = now.terms.applied(self.bot).schedule
        if schedule is None:
            self._begin(Step.MADE, reason, now)
        elif schedule.missed is Missed.RUN and schedules.missed(schedule, since, now.wall):
            self._begin(Step.MADE, reasons.MISSED_SCHEDULE, now)
        elif (due := schedules.next_after(schedule, now.wall)) is None:
            self._enter(Step.FOUND_OVER, reasons.SCHEDULE_OVER)
        else:
            self._wait(Step.MADE_FOR_LATER, reasons.NEXT_SCHEDULED, WaitingFor.SCHEDULE, now, until=due)

    # ---- commands

    def _on_command(self, command: events.Command, now: Now) -> None:
        verb, before, attempt = command.verb, self.bot.state, self.attempt
        if verb is Step.START and before in (State.STARTING, State.RUNNING):
            return
        if verb is Step.STOP and before is State.STOPPED and self.bot.goal is Goal.DOWN:
            return
        goal = Goal.DOWN if verb is Step.STOP else Goal.UP
        if verb is not Step.STOP:
            self._window.clear()
        if attempt is None:
            if verb is Step.STOP:
                self._enter(verb, reasons.asked(verb), goal=goal)
            elif self._shutting_down:
                # The next supervisor starts it.
                self._enter(Step.STOP, reasons.SHUTDOWN, goal=goal)
            else:
                self._begin(verb, reasons.asked(verb), now, goal=goal)
            return
        asked = Cause.STOPPED if verb is Step.STOP else Cause.RESTARTED
        if attempt.ending is None:
            self._end(verb, reasons.asked(verb), asked, now, grace_s=command.grace_s, goal=goal)
            return
        if attempt.ending.asked in (Cause.STOPPED, Cause.RESTARTED) and verb is not Step.START:
            attempt.ending.asked = asked
        attempt.ending.again = verb is not Step.STOP
        attempt.ending.hurry(command.grace_s, now.time)
        told = reasons.asked if verb is Step.STOP else reasons.asked_while_ending
        self._enter(verb, told(verb), goal=goal)

    def _on_shut_down(self, event: events.ShutDown, now: Now) -> None:
        self._shutting_down = True
        attempt = self.attempt
        if self.bot.state in SETTLED:
            self.waiting = None
        elif attempt is None:
            self._enter(Step.STOP, reasons.SHUTDOWN)
        elif attempt.ending is None:
            grace_s = min(self.bot.grace_s, event.grace_s)
            self._end(Step.STOP, reasons.SHUTDOWN, Cause.STOPPED, now, grace_s=grace_s)
        else:
            attempt.ending.hurry(event.grace_s, now.time)
            self._enter(Step.STOP, reasons.SHUTDOWN)

    # ---- time

    def _on_tick(self, now: Now) -> None:
        deadline = self.deadline
        if deadline is None or now.time < deadline:
            return
        attempt = self.attempt
        if attempt is None:
            self._on_wait_over(now)
        elif attempt.ending is not None:
            self._on_ending_late(attempt, attempt.ending, now)
        elif self.bot.state is State.STARTING:
            if (alive_at := attempt.alive_at) is not None and now.time >= alive_at:
                assert isinstance(attempt.terms.ready, float)
                self._become_ready(attempt, reasons.alive_for(attempt.terms.ready), now)
            else:
                self._end(Step.DEADLINE, reasons.not_ready(attempt.terms.start_timeout_s), Cause.START_TIMEOUT, now)
        else:
            self._on_running_deadline(attempt, now)

    def _on_wait_over(self, now: Now) -> None:
        waiting = self.waiting
        assert waiting is not None
        if waiting.by_clock and now.wall < waiting.due:
            self.waiting = waiting.looked_at(now)
            return
        counts = waiting.why is WaitingFor.RESTART
        if counts:
            self._window.add(now.time)
        self._begin(Step.DEADLINE, reasons.STARTING_AGAIN if counts else reasons.STARTING, now, again=counts)

    def _on_ending_late(self, attempt: Attempt, ending: Ending, now: Now) -> None:
        if ending.dump_until is not None and now.time < ending.kill_at:
            ending.dump_until, attempt.phase = None, Phase.ALIVE
            self._effects.append(effects.Terminate())
            return
        again = ending.killed_at is not None
        ending.killed_at, ending.dump_until = now.time, None
        if attempt.spawned is not None:
            self._effects.append(effects.Kill())
        self._enter(Step.DEADLINE, reasons.UNKILLABLE if again else reasons.not_stopped(ending.grace_s))

    def _on_running_deadline(self, attempt: Attempt, now: Now) -> None:
        heard, heartbeat_s = max(attempt.heard, now.heard or attempt.heard), attempt.terms.heartbeat_s
        attempt.heard = max(heard, now.awake_since)
        if heartbeat_s is not None and now.time >= attempt.heard + heartbeat_s:
            self._end(Step.DEADLINE, reasons.silent(now.time - heard), Cause.HEARTBEAT, now)
        elif attempt.again is not None and now.time >= attempt.again.look_at:
            if now.wall >= attempt.again.due:
                self._end(Step.RESTART, reasons.SCHEDULED_AGAIN, Cause.RESTARTED, now)
            else:
                attempt.again = Appointment.at(attempt.again.due, now)

    # ---- an attempt, from its beginning to its end

    def _begin(
        self,
        taken: Step,
        reason: str,
        now: Now,
        *,
        goal: Goal | None = None,
        run: tuple[int, int] | None = None,
        again: bool = False,
    ) -> None:
        """Start. `again` counts it as a restart. With a `run` this is in the ledger already."""
        run_id, began = run or (None, now.wall)
        self._enter(taken, reason, goal=goal, record=run is None)
        if again:
            self.bot = dataclasses.replace(self.bot, restarts=self.bot.restarts + 1)
        if (with_terms := now.terms.applied(self.bot)) is not self.bot:
            self.bot = with_terms
            self._effects.append(effects.SetTerms(with_terms))
        self.starts += 1
        self.attempt = Attempt(now.terms, began, now.time + now.terms.start_timeout_s, run_id=run_id)
        self._effects.append(effects.Launch(began, run_id, again))

    def _on_spawned(self, attempt: Attempt, now: Now) -> None:
        attempt.phase, attempt.spawned = Phase.ALIVE, now.time
        ending = attempt.ending
        if ending is not None:
            self._effects.append(effects.Terminate() if ending.killed_at is None else effects.Kill())

    def _on_not_spawned(self, attempt: Attempt, failed: events.NotSpawned, now: Now) -> None:
        asked = attempt.ending.asked if attempt.ending else None
        if failed.wait_for is not None and asked is None:
            # Not the bot's failure: no further try is counted.
            self.attempt = None
            told = reasons.waits_for(failed.wait_for, failed.detail)
            self._wait(Step.GONE_RETRY, told, failed.wait_for, now, delay_s=LEDGER_RETRY_S, until=failed.until)
            return
        # A run that never had a process still ends with one of the codes that both sides share.
        exit_ = Exit(
            exit_code=0 if asked in (Cause.STOPPED, Cause.RESTARTED) else wire.EXIT_UNUSABLE,
            signal=None,
            ended_at=now.wall,
            cpu_seconds=None,
            max_rss_bytes=None,
            detail=failed.detail,
            log_end=0,
        )
        cause = asked or Cause.SPAWN_FAILED
        if attempt.run_id is not None:
            self._close_run(attempt.run_id, exit_, cause)
        self._judge(attempt, cause, exit_, now, permanent=failed.permanent)

    def _become_ready(self, attempt: Attempt, reason: str, now: Now) -> None:
        assert attempt.run_id is not None
        attempt.ready_at, attempt.heard = now.wall, now.time
        attempt.again = self._next_overlapping(now)
        latency_s = max(0, now.wall - attempt.began) / 1e6
        self._effects.append(effects.MarkReady(attempt.run_id, now.wall, latency_s))
        self._enter(Step.READY, reason)

    def _next_overlapping(self, now: Now) -> Appointment | None:
        """When the schedule ends this run by beginning the next."""
        schedule = self.bot.schedule
        if schedule is None or schedule.overlap is not Overlap.RESTART:
            return None
        due = schedules.next_after(schedule, now.wall)
        return None if due is None else Appointment.at(due, now)

    def _end(
        self,
        taken: Step,
        reason: str,
        asked: Cause,
        now: Now,
        *,
        grace_s: float | None = None,
        goal: Goal | None = None,
    ) -> None:
        """Begin to end the run of now. The signal goes first: writing takes time."""
        attempt = self.attempt
        assert attempt is not None
        self._enter(taken, reason, goal=goal)
        grace_s = self.bot.grace_s if grace_s is None else grace_s
        attempt.ending = Ending(asked, now.time, grace_s, now.time + grace_s, again=asked is Cause.RESTARTED)
        if attempt.spawned is None:
            late = reasons.not_imported(self.bot.kind, attempt.terms.start_timeout_s)
            detail = late if asked is Cause.START_TIMEOUT else reasons.NO_PROCESS_YET
            self._effects.insert(0, effects.CancelLaunch(detail))
        elif asked is Cause.HEARTBEAT and attempt.phase is Phase.ALIVE:
            attempt.phase, attempt.ending.dump_until = Phase.DUMPING, now.time + DUMP_S
            self._effects.insert(0, effects.Dump())
        else:
            self._effects.insert(0, effects.Terminate())

    def _on_ended(self, attempt: Attempt, exit_: Exit) -> None:
        assert attempt.run_id is not None
        attempt.phase = Phase.SWEEPING
        ending = attempt.ending
        killed = ending is not None and ending.killed_at is not None
        if ending is not None:
            ending.dump_until = None
        self._close_run(attempt.run_id, exit_, restart.cause_of(exit_, ending.asked if ending else None, killed))

    def _close_run(self, run_id: int, exit_: Exit, cause: Cause) -> None:
        signal = None if exit_.signal is None else reasons.signal_name(exit_.signal)
        last = LastExit(exit_code=exit_.exit_code, signal=signal, cause=cause, at=exit_.ended_at)
        self.bot = dataclasses.replace(self.bot, last_exit=last)
        detail = "\n".join((exit_.detail or reasons.ended(cause, exit_), *exit_.stacks))
        self._effects.append(effects.CloseRun(run_id, exit_, cause, detail))

    def _on_swept(self, attempt: Attempt, exit_: Exit, now: Now) -> None:
        assert attempt.run_id is not None
        assert self.bot.last_exit is not None
        if exit_.descendants_killed:
            self._effects.append(effects.SweepRun(attempt.run_id, exit_.descendants_killed))
        permanent = exit_.exit_code in wire.PERMANENT_EXITS
        if permanent:
            assert exit_.exit_code is not None
            exit_ = dataclasses.replace(exit_, detail=exit_.detail or wire.PERMANENT_EXITS[exit_.exit_code])
        cause = self.bot.last_exit.cause
        if cause is Cause.LOST and attempt.ending is not None:
            # However it ended, it was to end.
            cause = attempt.ending.asked
        self._judge(attempt, cause, exit_, now, permanent=permanent)

    def _judge(self, attempt: Attempt, cause: Cause, exit_: Exit, now: Now, *, permanent: bool) -> None:
        """The attempt is over: what follows it."""
        ending, policy = attempt.ending, self.bot.restart
        verdict = restart.judge(
            cause=cause,
            exit_=exit_,
            goal=Goal.DOWN if self._shutting_down else self.bot.goal,
            policy=policy,
            recent=self._window.count(now.time, policy.within_s),
            noise=now.noise,
            permanent=permanent,
            again=ending is not None and ending.again,
        )
        self.attempt = None
        self._effects.append(effects.Acknowledge(None if ending is None else now.time - ending.since))
        by_others = exit_.asked is not None and verdict.state is State.STARTING
        over = (verdict.state in (State.EXITED, State.FAILED) or by_others) and not permanent
        schedule, ended_at = now.terms.applied(self.bot).schedule, max(attempt.began, exit_.ended_at)
        if over and schedule and (due := schedules.after_run(schedule, attempt.began, ended_at)) is not None:
            # However this run ended, it was one of many.
            self._window.clear()
            reason = reasons.and_then(verdict.reason, reasons.NEXT_SCHEDULED)
            self._wait(Step.GONE_SCHEDULED, reason, WaitingFor.SCHEDULE, now, until=due)
        elif verdict.state is State.STARTING:
            self._begin(Step.GONE_AGAIN, verdict.reason, now, again=True)
        elif verdict.delay_s is not None:
            self._wait(GONE[verdict.state], verdict.reason, WaitingFor.RESTART, now, delay_s=verdict.delay_s)
        else:
            self._enter(GONE[verdict.state], verdict.reason)

    # ---- states

    def _wait(
        self,
        taken: Step,
        reason: str,
        why: WaitingFor,
        now: Now,
        *,
        delay_s: float = 0.0,
        until: int | None = None,
    ) -> None:
        """Wait for a time of day, or else for a delay."""
        self._enter(taken, reason)
        if until is None:
            due, look_at = now.wall + int(delay_s * 1e6), now.time + delay_s
        else:
            due, look_at = until, Appointment.at(until, now).look_at
        self.waiting = Waiting(why=why, due=due, look_at=look_at, by_clock=until is not None)

    def _enter(self, taken: Step, reason: str, *, goal: Goal | None = None, record: bool = True) -> None:
        """Take a step of the table. All that waits ends with it."""
        state = step(self.bot.state, taken)
        self.waiting = None
        self.bot = dataclasses.replace(self.bot, state=state, reason=reason, goal=goal or self.bot.goal)
        if record:
            self._effects.append(effects.Record(self.bot, self.attempt.run_id if self.attempt else None))
        if state in SETTLED:
            self._effects.append(effects.Release())

    def _on_effect_failed(self, effect: effects.Effect, detail: str, now: Now) -> None:
        """What was fed is kept. A signal that was not sent is sent again: by the deadline, as SIGKILL."""
        if self.attempt is None:
            return
        match effect:
            case effects.Launch():
                self._on_not_spawned(self.attempt, events.NotSpawned(detail=detail), now)
            case effects.Terminate() | effects.Kill():
                name = "SIGTERM" if isinstance(effect, effects.Terminate) else "SIGKILL"
                self.bot = dataclasses.replace(self.bot, reason=reasons.not_signalled(name, detail))
                self._effects.append(effects.Record(self.bot, self.attempt.run_id))
