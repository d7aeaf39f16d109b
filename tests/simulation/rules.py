"""What must hold of the machine of one bot, whatever happens: kept apart from it, from what went in and came out."""

from __future__ import annotations

from collections import deque

from supervisor.core import effects, events, restart
from supervisor.core.attempt import KILL_AGAIN_S, LONGEST_WAIT_S, Attempt, Phase, Waiting
from supervisor.core.events import Event, Now
from supervisor.core.machine import DUMP_S, Machine
from supervisor.core.model import SETTLED, Bot, Cause, Goal, State, WaitingFor
from supervisor.core.table import Step
from tests.simulation.stories import Broken
from tests.simulation.world import Launch, Process

_A_MOMENT_S = 1e-6

_WITH_ATTEMPT = frozenset({State.STARTING, State.RUNNING, State.STOPPING, State.KILLING})
_ENDING = frozenset({State.STOPPING, State.KILLING})
_WAITING = frozenset({State.BACKOFF, State.SCHEDULED})


def require(holds: object, rule: str, *told: object) -> None:
    """Raise Broken with the rule, unless it holds."""
    if not holds:
        raise Broken(" ".join([rule, *map(str, told)]))


class Rules:
    """Follows one machine from its birth on, and says what it does wrong.

    Attributes:
        wanted: the goal of the latest command.
        shutting_down: whether it was told so.
        restarts: how often it was started again by itself.
        recent: when that was, as far as it still counts.
        kill_by: when the process that is being ended gets SIGKILL at the latest.
        ready_by: when the run that starts must be ready.
        closed: the runs whose end was told.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.wanted = machine.bot.goal
        self.shutting_down = False
        self.restarts = machine.bot.restarts
        self.recent: deque[float] = deque()
        self.kill_by: float | None = None
        self.ready_by: float | None = None
        self.opened: set[int] = set()
        self.closed: set[int] = set()
        self.marked: set[int] = set()

    # ---- one event

    def check_event(
        self,
        event: Event,
        was: Bot,
        before: Attempt | None,
        ending_before: object,
        due_before: float | None,
        waited: Waiting | None,
        todo: list[effects.Effect],
        now: Now,
    ) -> None:
        """Check what the machine made of one event. `before` is its attempt as it was, now perhaps changed."""
        bot, attempt = self.machine.bot, self.machine.attempt
        match event:
            case events.Command(verb=verb):
                self._on_command(verb, was.state, now)
            case events.ShutDown():
                self.shutting_down = True
            case events.Tick():
                self._on_tick(was, due_before, todo, now)
                early = waited is not None and waited.by_clock and now.wall < waited.due
                require(not (early and attempt), "a time of day is waited for by the clock")
            case events.Granted() if before is not None:
                self.ready_by = now.time + before.terms.start_timeout_s
            case events.Opened(run_id=run_id):
                self.opened.add(run_id)
            case events.Made(run=(run_id, _)):
                self.opened.add(run_id)
            case events.FoundAlive(run=run) | events.FoundLost(run=run):
                self.opened.add(run.run_id)
            case events.Ended(run_id=run_id, exit_=exit_) if before is not None and before.run_id == run_id:
                ends = [e for e in todo if isinstance(e, effects.CloseRun)]
                require([(e.run_id, e.exit_) for e in ends] == [(run_id, exit_)], "an end is recorded at once:", todo)
                require(bot.last_exit is not None and bot.last_exit.at == exit_.ended_at, "the last exit is the last")
            case events.Ready() | events.Ended() | events.Swept() if not _is_of(before, event):
                require(not todo and bot == was, "a late fact changes nothing:", event, todo)
            case events.Swept() | events.NotSpawned():
                require(attempt is not before, "a run is over when nothing of it is left")
            case _:
                pass
        if before is not None and attempt is not before:
            self._on_over(before, todo, waits=isinstance(event, events.NotSpawned) and event.wait_for is not None)
        if attempt is not None and attempt.ending is not None and ending_before is None:
            self._on_ending(event, attempt, was, todo, now)
        elif attempt is not None and attempt.ending is not None and attempt is before:
            self._on_still_ending(event, now)
        self._check_effects(was, before, todo, now)

    def _on_command(self, verb: Step, state: State, now: Now) -> None:
        self.wanted = Goal.DOWN if verb is Step.STOP else Goal.UP
        bot = self.machine.bot
        require(bot.goal is self.wanted, f"after a {verb} the goal is", self.wanted)
        if verb is Step.STOP:
            require(bot.state in (State.STOPPED, *_ENDING), "a stop stops, but the bot is", bot.state)
        elif self.shutting_down:
            require(
                bot.state in (State.STOPPED, *_ENDING),
                f"a {verb} is for the next supervisor, but the bot is",
                bot.state,
            )
        else:
            require(bot.state in _WITH_ATTEMPT, f"a {verb} starts, but the bot is", bot.state)
            if not (verb is Step.START and state in (State.STARTING, State.RUNNING)):
                self.recent.clear()

    def _on_tick(self, was: Bot, due: float | None, todo: list[effects.Effect], now: Now) -> None:
        bot = self.machine.bot
        if due is None or now.time < due:
            require(not todo and bot is was, "a tick before the deadline changes nothing:", todo)
            return
        after = self.machine.deadline
        moved = after is None or after > now.time or bot.state is not was.state
        require(moved, "after a tick the deadline is later, or the state another:", bot.state, due, after)

    def _on_over(self, before: Attempt, todo: list[effects.Effect], *, waits: bool) -> None:
        """The attempt of before is judged, or gave its turn up for want of something."""
        self.kill_by = self.ready_by = None
        kinds = [type(effect) for effect in todo]
        if before.run_id is not None:
            require(before.run_id in self.closed or effects.CloseRun in kinds, "a run that is over is closed")
        if not waits:
            require(kinds.count(effects.Acknowledge) == 1, "a run that is over is acknowledged once:", todo)
            rest = kinds[kinds.index(effects.Acknowledge) :]
            require(effects.Record in rest, "what comes after a run is recorded after its acknowledgement")
            require(effects.CloseRun not in rest, "the end of a run is written before its acknowledgement")

    def _on_ending(self, event: Event, attempt: Attempt, was: Bot, todo: list[effects.Effect], now: Now) -> None:
        """The run begins to end now: somebody gets a signal before anything is written."""
        grace_s = self.machine.bot.grace_s
        if isinstance(event, events.Command) and event.grace_s is not None:
            grace_s = event.grace_s
        elif isinstance(event, events.ShutDown):
            grace_s = min(grace_s, event.grace_s)
        self.kill_by = now.time + grace_s
        first = type(todo[0]) if todo else None
        if attempt.spawned is None:
            require(first is effects.CancelLaunch, "a start that is not wanted any more is cancelled first:", todo)
        elif attempt.ending is not None and attempt.ending.asked is Cause.HEARTBEAT and attempt.phase is Phase.DUMPING:
            require(first is effects.Dump, "a silent process is asked for its stacks first:", todo)
        else:
            require(first is effects.Terminate, "a process that is not wanted any more gets SIGTERM first:", todo)
        require(self.machine.bot.state is State.STOPPING, "what is being ended is stopping")

    def _on_still_ending(self, event: Event, now: Now) -> None:
        grace_s = event.grace_s if isinstance(event, events.Command | events.ShutDown) else None
        if grace_s is not None and self.kill_by is not None:
            self.kill_by = min(self.kill_by, now.time + grace_s)

    def _check_effects(self, was: Bot, before: Attempt | None, todo: list[effects.Effect], now: Now) -> None:
        bot = self.machine.bot
        recorded: Bot | None = None
        for effect in todo:
            match effect:
                case effects.Record(bot=recorded):
                    pass
                case effects.Launch(again=again):
                    self._on_launch(was, again, todo, now)
                case effects.Kill():
                    require(self.kill_by is not None, "SIGKILL ends what is being ended")
                    assert self.kill_by is not None
                    require(now.time >= self.kill_by - _A_MOMENT_S, "SIGKILL comes after the grace")
                case effects.CloseRun(run_id=run_id):
                    require(run_id in self.opened, "a run that ends was opened:", run_id)
                    require(run_id not in self.closed, "a run ends once:", run_id)
                    self.closed.add(run_id)
                case effects.MarkReady(run_id=run_id):
                    require(run_id not in self.marked, "a run becomes ready once:", run_id)
                    require(run_id not in self.closed, "a run that has ended does not become ready:", run_id)
                    self.marked.add(run_id)
                case _:
                    pass
        if (bot.state, bot.goal) != (was.state, was.goal):
            require(recorded is not None, "a change of the state is recorded:", was.state, bot.state)
        if recorded is not None:
            told = (recorded.state, recorded.goal, recorded.reason)
            require(told == (bot.state, bot.goal, bot.reason), "what is recorded is what is:", told)
        if bot.state in SETTLED and was.state not in SETTLED:
            require(any(isinstance(e, effects.Release) for e in todo), "a bot that settles holds nothing any more")
        if bot.state is State.STARTING and before is not self.machine.attempt:
            self.ready_by = now.time + now.terms.start_timeout_s
        waiting = self.machine.waiting
        if waiting is not None and waiting.why is WaitingFor.RESTART and recorded is not None:
            self._on_backoff(waiting.look_at, now)
        if bot.state is State.SCHEDULED and was.state in _WITH_ATTEMPT:
            self.recent.clear()

    def _on_launch(self, was: Bot, again: bool, todo: list[effects.Effect], now: Now) -> None:
        require(not self.shutting_down, "nothing is started while the supervisor ends")
        require(self.wanted is Goal.UP, "nothing is started that is not wanted")
        require(sum(isinstance(e, effects.Launch) for e in todo) == 1, "one start is one launch")
        if again:
            self.restarts += 1
            if was.state in (State.BACKOFF, State.FAILED):
                self.recent.append(now.time)
        bot = self.machine.bot
        require(bot.restarts == self.restarts, "restarts are counted once:", bot.restarts, self.restarts)
        require(now.terms.applied(bot) is bot, "a start is on the terms of now")

    def _on_backoff(self, look_at: float, now: Now) -> None:
        """A restart by itself is due: with a delay that grows with how many there were."""
        bot = self.machine.bot
        policy = bot.restart
        while self.recent and self.recent[0] < now.time - policy.within_s:
            self.recent.popleft()
        recent = len(self.recent)
        if bot.state is State.FAILED:
            require(recent >= policy.max_restarts, "a bot gives up after so many restarts, not after", recent)
            delay_s = policy.retry_after_s or 0.0
        else:
            require(recent < policy.max_restarts, "a bot gives up after so many restarts, and not never:", recent)
            delay_s = restart.backoff_s(policy, recent, now.noise)
        require(abs(look_at - now.time - delay_s) < _A_MOMENT_S, "restart", recent, "waits", delay_s)

    # ---- what always holds

    def check_state(self, now: Now) -> None:
        """Check the machine by itself."""
        machine = self.machine
        bot, attempt, waiting = machine.bot, machine.attempt, machine.waiting
        state = bot.state
        require((attempt is not None) == (state in _WITH_ATTEMPT), f"{state} and an attempt:", attempt)
        require(bot.goal is self.wanted, "the goal is that of the latest command:", self.wanted)
        if bot.goal is Goal.DOWN:
            require(state in (State.STOPPED, *_ENDING), "a bot that is to be down is not", state)
        elif state is State.STOPPED:
            require(self.shutting_down, "a bot that is to be up is not stopped")
        if state in _WAITING:
            require(waiting is not None and machine.deadline is not None, f"{state} waits for something")
        elif state is not State.FAILED:
            require(waiting is None, f"{state} waits for nothing:", waiting)
        if waiting is not None:
            require(not self.shutting_down, "nothing is waited for while the supervisor ends")
            if waiting.by_clock:
                require(waiting.look_at <= now.time + LONGEST_WAIT_S, "the clock is looked at now and then")
        if attempt is not None:
            self._check_deadline(attempt, machine.deadline, now)

    def _check_deadline(self, attempt: Attempt, due: float | None, now: Now) -> None:
        state, heartbeat_s = self.machine.bot.state, attempt.terms.heartbeat_s
        if attempt.ending is not None:
            require(state in _ENDING, "what is being ended is not", state)
            require(due is not None and self.kill_by is not None, f"{state} has a deadline")
            assert due is not None
            assert self.kill_by is not None
            last = self.kill_by if state is State.STOPPING else now.time + KILL_AGAIN_S
            require(due <= last + _A_MOMENT_S, f"{state} is given so long, not until", due)
            return
        require(state not in _ENDING, f"{state} knows why")
        if state is State.STARTING and attempt.phase is not Phase.QUEUED:
            require(due is not None, "starting has a deadline, also while it is", attempt.phase)
            assert due is not None
            assert self.ready_by is not None
            require(due <= self.ready_by + _A_MOMENT_S, "a start is given so long, not until", due, self.ready_by)
        elif state is State.RUNNING and attempt.phase is not Phase.SWEEPING and heartbeat_s is not None:
            require(due is not None and due <= now.time + heartbeat_s + _A_MOMENT_S, "a heartbeat is due")

    def check_world(self, process: Process | None, launch: Launch | None, now: Now) -> None:
        """Check the machine against what is around it, once it knows all of that."""
        bot, attempt = self.machine.bot, self.machine.attempt
        state = bot.state
        alive = process is not None and process.alive
        unswept = process is not None and not process.swept
        if state not in _WITH_ATTEMPT:
            require(launch is None, f"a bot that is {state} is not being started")
            require(not unswept, f"a bot that is {state} has no process")
            return
        assert attempt is not None
        require(launch is not None or unswept, f"a bot that is {state} has a process, or gets one")
        require(launch is None or not unswept, "a bot has one process")
        sweeping = attempt.phase is Phase.SWEEPING
        require(sweeping == (not alive and launch is None), "sweeping is after the end, not", attempt.phase)
        if process is None or not alive or launch is not None:
            return
        require(attempt.run_id == process.run_id, "the process is that of the run")
        require(attempt.phase in (Phase.ALIVE, Phase.DUMPING), "a process is alive:", attempt.phase)
        if state is State.RUNNING:
            require(process.said_ready or isinstance(attempt.terms.ready, float), "running is what is ready")
        ending = attempt.ending
        if ending is None or process.unsent:
            return
        dumping = process.dumps and now.time <= ending.since + DUMP_S
        require(process.sigterms or process.sigkills or dumping, "what is being ended has got a signal")
        if state is State.KILLING:
            require(process.sigkills, "what is being killed has got SIGKILL")


def _is_of(attempt: Attempt | None, event: events.Ready | events.Ended | events.Swept) -> bool:
    return attempt is not None and attempt.run_id == event.run_id
