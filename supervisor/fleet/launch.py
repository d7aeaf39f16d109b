"""One start of a bot, from the decision to the process: claim, turn, row, import, fork, in this order.

The row of the run is in the ledger before the process is forked, so that no process is ever unknown. Until the fork is
ordered a launch can be cancelled; from then on its process is waited for, and ended by whoever wanted no more of it.
Each step is reported to the bot's inbox as an event of its machine, and the last one is `Spawned` or `NotSpawned`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable

from supervisor.core import effects, errors, events
from supervisor.core.model import Bot, Params, WaitingFor
from supervisor.engine.protocol import Order, Process
from supervisor.fleet.shared import Shared
from supervisor.fleet.starts import Turn

log = logging.getLogger(__name__)


class Launch:
    """One start that is under way.

    Attributes:
        error: why there is no process, once there is none.
        turn: its place among the starts, until that is over.
    """

    def __init__(
        self,
        bot: Bot,
        launch: effects.Launch,
        shared: Shared,
        *,
        claim: Callable[[Params], None],
        post: Callable[[events.Event], None],
        on_process: Callable[[int, Process], None],
    ) -> None:
        """`claim` takes what the bot needs for itself alone, and raises CredentialHeld or SpawnFailed."""
        self.error: errors.Problem | None = None
        self._bot = bot
        self._launch = launch
        self._shared = shared
        self._claim = claim
        self._post = post
        self._on_process = on_process
        self.turn: Turn | None = None
        self._given_up: str | None = None
        self._interruptible = False
        self._task = asyncio.create_task(self._run(), name=f"launch bot-{bot.bot_id}")

    @property
    def place(self) -> int:
        """How many starts go before this one."""
        return self.turn.place if self.turn else 0

    def cancel(self, detail: str) -> None:
        """Make no process, if there is still time."""
        self._given_up = detail
        if self._interruptible:
            self._task.cancel()

    def end_turn(self) -> None:
        """The bot has started, or starts no more: it is another's turn. May be called again."""
        if self.turn is not None:
            self.turn.release()
            self.turn = None

    def close(self) -> None:
        """End the task, whatever it does. A process that was ordered may still come to be."""
        self._task.cancel()
        self.end_turn()

    async def _run(self) -> None:
        try:
            process = await self._process()
        except asyncio.CancelledError:
            self._fail(errors.SpawnFailed(self._given_up or "the supervisor ends"))
        except errors.Problem as problem:
            self._fail(problem)
        except Exception as error:
            # Whatever it is, the bot is to be told of it.
            log.exception("bot-%d: the start failed", self._bot.bot_id)
            self._fail(errors.SpawnFailed(f"{type(error).__name__}: {error}"))
        else:
            self._on_process(*process)

    def _fail(self, problem: errors.Problem) -> None:
        self.error = problem
        wait_for, until = None, None
        if isinstance(problem, errors.LedgerUnavailable):
            wait_for = WaitingFor.LEDGER
        elif isinstance(problem, errors.BudgetSpent):
            wait_for, until = WaitingFor.BUDGET, problem.until
        held = isinstance(problem, errors.CredentialHeld)
        permanent = held or (isinstance(problem, errors.SpawnFailed) and problem.permanent)
        self._post(events.NotSpawned(detail=problem.detail, permanent=permanent, wait_for=wait_for, until=until))

    async def _process(self) -> tuple[int, Process]:
        bot, shared = self._bot, self._shared
        self._refuse_when_given_up()
        self._claim(bot.params)
        self.turn = turn = shared.starts.ask(bot.kind)
        if not turn.granted:
            self._post(events.Queued())
            self._interruptible = True
            await turn
            self._interruptible = False
            self._post(events.Granted())
        run_id = self._launch.run_id
        if run_id is None:
            run_id = await shared.ledger.open_run(
                bot.bot_id,
                kind=bot.kind,
                params=bot.params,
                started_at=self._launch.began,
                restarts=bot.restarts,
                budget=shared.budget(bot.kind, bot.params),
            )
        self._post(events.Opened(run_id))
        self._refuse_when_given_up()
        self._interruptible = True
        await shared.engine.warm(bot.kind)
        if bot.unchecked:
            bot = await self._check(bot)
        self._interruptible = False
        self._refuse_when_given_up()
        self._post(events.Imported())
        order = Order(
            run_id=run_id,
            bot_id=bot.bot_id,
            kind=bot.kind,
            name=bot.name,
            labels=bot.labels,
            params=bot.params,
            grace_s=bot.grace_s,
            limits=bot.limits,
        )
        return run_id, await shared.engine.spawn(order)

    async def _check(self, bot: Bot) -> Bot:
        """The bot with its parameters as they should have been when it was made, had its kind been imported."""
        try:
            params = await self._shared.check(bot)
        except errors.BadParams as refused:
            raise errors.SpawnFailed(refused.detail, permanent=True) from None
        self._shared.ledger.set_params(bot.bot_id, params)
        self._post(events.Checked(params))
        # It may be named by other words now.
        self._claim(params)
        return dataclasses.replace(bot, params=params, unchecked=False)

    def _refuse_when_given_up(self) -> None:
        if self._given_up is not None:
            raise errors.SpawnFailed(self._given_up)
