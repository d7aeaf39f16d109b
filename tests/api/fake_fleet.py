"""A fleet in memory: it answers as the real one does, with no process, no ledger and no waiting."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any

from supervisor import logs, settings
from supervisor.core import errors, model, params, views
from supervisor.fleet.fleet import Wait
from supervisor.metrics import Levels, Metrics

BEGAN = 1_712_438_975_499_784
"""2024-04-06T21:29:35.499784Z, in microseconds."""

PARAMETERS: dict[str, list[dict[str, Any]]] = {
    "counter": [{"name": "start_number", "type": "int", "required": False, "default": 0}],
    "stubborn": [],
    "broken": [],
}


class FakeFleet:
    """Of kind `stubborn` nothing can be stopped, of kind `broken` nothing can be started."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.catalogue = self.listing = self.feeds = self.ledger = self
        self.kinds_ = {name: settings.Kind(target=f"bots:{name}") for name in PARAMETERS}
        self.reset()

    def reset(self) -> None:
        """Forget everything, and be well."""
        self.views: dict[int, views.BotView] = {}
        self.runs_: list[model.Run] = []
        self.crashes_: list[model.CrashGroup] = []
        self.keys: dict[str, tuple[int, str | None]] = {}
        self.signals: list[tuple[int, int]] = []
        self.waited: list[Wait | bool] = []
        self.graces: list[float | None] = []
        self.made: list[model.NewBot] = []
        self.checks: dict[str, str | None] = {"ledger": None}
        self.log = b"12\n13\n"
        self.bug: Exception | None = None
        self.shutting_down = False
        self.refused = ""
        self.may_finish = asyncio.Event()
        self.may_finish.set()

    # ---- commands

    def idempotency(self, key: str | None, request: str) -> model.Idempotency | None:
        return None if key is None else model.Idempotency(key=key, digest=request)

    async def create_many(
        self, new: model.NewBot, count: int, *, idempotency: model.Idempotency | None = None, wait: Wait
    ) -> Sequence[model.Bot]:
        return [await self.create(new, wait=wait) for _ in range(count)]

    async def create(self, new: model.NewBot, *, idempotency: model.Idempotency | None = None, wait: Wait) -> model.Bot:
        self.waited.append(wait)
        if self.shutting_down:
            raise errors.ShuttingDown
        if idempotency is not None and idempotency.key in self.keys:
            bot_id, digest = self.keys[idempotency.key]
            if digest != idempotency.digest:
                raise errors.KeyReused("the key came with another request before")
            return self.views[bot_id].bot
        if new.name is not None and any(view.bot.name == new.name for view in self.views.values()):
            raise errors.NameTaken(f"there is a bot {new.name!r} already")
        if new.kind == "broken":
            raise errors.SpawnFailed("cannot fork: no memory")
        self.made.append(new)
        bot_id = len(self.views) + 1
        if idempotency is not None:
            self.keys[idempotency.key] = bot_id, idempotency.digest
        bot = model.Bot(
            **{field.name: getattr(new, field.name) for field in dataclasses.fields(new)},
            bot_id=bot_id,
            goal=model.Goal.UP,
            state=model.State.STOPPED,
            reason="",
            restarts=0,
            created_at=BEGAN,
        )
        self.views[bot_id] = self._up(bot)
        return self.views[bot_id].bot

    async def start(self, bot_id: int, *, wait: bool = True) -> model.Bot:
        self.waited.append(wait)
        view = await self.view(bot_id)
        if view.live is None:
            self.views[bot_id] = self._up(view.bot)
        return self.views[bot_id].bot

    async def stop(self, bot_id: int, *, grace_s: float | None = None, wait: bool = True) -> model.Bot:
        self.waited.append(wait)
        self.graces.append(grace_s)
        view = await self.view(bot_id)
        if view.bot.kind == "stubborn":
            raise errors.StillAlive(f"bot {bot_id} is still killing: it sleeps in the kernel", bot_id=bot_id)
        self.views[bot_id] = self._down(view)
        return self.views[bot_id].bot

    async def restart(self, bot_id: int, *, grace_s: float | None = None, wait: bool = True) -> model.Bot:
        await self.stop(bot_id, grace_s=grace_s, wait=wait)
        return await self.start(bot_id, wait=wait)

    async def delete(self, bot_id: int) -> None:
        await self.stop(bot_id)
        del self.views[bot_id]

    async def signal(self, bot_id: int, signum: int) -> None:
        if (await self.view(bot_id)).live is None:
            raise errors.NoProcess(bot_id=bot_id)
        self.signals.append((bot_id, signum))

    async def shutdown(self, grace_s: float) -> None:
        self.shutting_down = True
        await self.may_finish.wait()
        for bot_id, view in self.views.items():
            self.views[bot_id] = self._down(view)

    # ---- looking

    async def view(self, bot_id: int) -> views.BotView:
        if self.bug is not None:
            raise self.bug
        if bot_id not in self.views:
            raise errors.UnknownBot(f"there is no bot {bot_id}", bot_id=bot_id)
        return self.views[bot_id]

    async def bot(self, bot_id: int) -> model.Bot:
        return (await self.view(bot_id)).bot

    def look(self, bot: model.Bot) -> views.BotView:
        return self.views[bot.bot_id]

    async def list(self, query: model.BotQuery) -> model.Page[views.BotView]:
        found = [
            view
            for bot, view in ((view.bot, view) for view in self.views.values())
            if bot.bot_id > query.after
            and bot.state in query.states
            and query.kind in (None, bot.kind)
            and query.name in (None, bot.name)
            and query.labels.items() <= bot.labels.items()
        ]
        page = found[: query.limit]
        return model.Page(page, page[-1].bot.bot_id if len(found) > len(page) else None)

    async def bots(self, query: model.BotQuery) -> Sequence[model.Bot]:
        return [view.bot for view in (await self.list(dataclasses.replace(query, limit=1000))).items]

    async def run(self, run_id: int) -> model.Run:
        if not 1 <= run_id <= len(self.runs_):
            raise errors.UnknownRun(f"there is no run {run_id}")
        return self.runs_[run_id - 1]

    async def runs(self, query: model.RunQuery) -> model.Page[model.Run]:
        found = [
            run
            for run in self.runs_
            if run.run_id > query.after
            and query.bot_id in (None, run.bot_id)
            and query.kind in (None, run.kind)
            and (not query.causes or run.cause in query.causes)
            and query.fingerprint in (None, run.fingerprint)
            and (query.since is None or run.started_at >= query.since)
            and (query.until is None or run.started_at < query.until)
        ]
        page = found[: query.limit]
        return model.Page(page, page[-1].run_id if len(found) > len(page) else None)

    async def crashes(self, query: model.CrashQuery) -> model.Page[model.CrashGroup]:
        found = [
            group
            for group in self.crashes_
            if (query.before is None or group.run_id < query.before)
            and query.kind in (None, group.kind)
            and (query.since is None or group.last_at >= query.since)
        ]
        page = found[: query.limit]
        return model.Page(page, page[-1].run_id if len(found) > len(page) else None)

    async def entries(self, *, since: int | None, bot_id: int | None) -> AsyncGenerator[model.Entry | None, None]:
        """All of it there is, and then an end."""
        for view in self.views.values():
            bot = view.bot
            if bot_id in (None, bot.bot_id) and bot.bot_id > (since or 0):
                event = model.Event(
                    event_id=bot.bot_id,
                    at=BEGAN,
                    bot_id=bot.bot_id,
                    run_id=view.live.run_id if view.live else None,
                    state=bot.state,
                    goal=bot.goal,
                    reason=bot.reason,
                )
                yield model.Entry(event=event, kind=bot.kind, name=bot.name, deleted=False)
        yield None

    async def log_lines(
        self, bot_id: int, *, tail: int, offset: int | None, run_id: int | None
    ) -> AsyncGenerator[logs.Line | logs.Skipped | None, None]:
        log = await self.log_tail(bot_id, tail=tail, run_id=run_id)

        async def lines() -> AsyncGenerator[logs.Line | logs.Skipped | None, None]:
            end = 0
            for line in log.splitlines(keepends=True):
                end += len(line)
                if end > (offset or 0):
                    yield logs.Line(next_offset=end, data=line.removesuffix(b"\n"))

        return lines()

    async def log_tail(self, bot_id: int, *, tail: int, run_id: int | None = None) -> bytes:
        await self.view(bot_id)
        return b"".join(self.log.splitlines(keepends=True)[-tail:])

    async def levels(self, *, per_bot: bool) -> Levels:
        return Levels(
            bots={(kind, state): 0 for kind in self.kinds_ for state in model.State},
            warm=dict.fromkeys(self.kinds_, True),
            zygotes={},
            usages=(),
            ledger_queued=0,
            ledger_outage=False,
        )

    def health(self) -> Mapping[str, str | None]:
        return self.checks

    # ---- kinds

    def defaults(self, kind: str) -> settings.Kind:
        if kind not in self.kinds_:
            raise errors.UnknownKind(f"there is no kind {kind!r}")
        return self.kinds_[kind]

    def refuse_gone(self, verb: str, bots: Sequence[model.Bot]) -> None:
        for bot in bots:
            if bot.kind not in self.kinds_:
                raise errors.KindGone(f"cannot {verb} bot {bot.bot_id}: the settings no longer have its kind")

    @contextlib.asynccontextmanager
    async def checked(self, new: model.NewBot) -> AsyncIterator[model.NewBot]:
        self.defaults(new.kind)
        yield dataclasses.replace(new, params=params.check(new.kind, PARAMETERS[new.kind], new.params))

    async def reload_kinds(self) -> views.Reloaded:
        if self.refused:
            raise errors.NotReloaded(self.refused)
        return views.Reloaded(added=["new"], changed=[], removed=["old"], surplus=["old-2"])

    async def reload_kind(self, name: str) -> views.KindView:
        self.defaults(name)
        if name == "broken":
            raise errors.NotReloaded("cannot import the kind broken: RuntimeError: no configuration")
        return self.kind(name)

    def params_schemas(self) -> Mapping[str, Mapping[str, Any] | None]:
        return {kind.name: kind.params_schema for kind in self.kinds()}

    def kind(self, name: str) -> views.KindView:
        spec = self.defaults(name)
        return views.KindView(
            name=name,
            target=spec.target,
            command=spec.command,
            description=spec.description,
            params_schema=params.schema(name, PARAMETERS[name]),
            restart=spec.restart_policy,
            grace_s=spec.grace_s,
            start_timeout_s=spec.start_timeout_s,
            heartbeat_s=spec.heartbeat_s,
            limits=spec.default_limits,
            limits_note="",
            schedule=None,
            budget=None,
            exclusive=spec.exclusive,
            instances=spec.instances,
            start_method="fork",
            warm=True,
            reason="warm",
            zygote_pid=7,
            import_s=0.1,
            rss_bytes=10_000_000,
        )

    def kinds(self) -> Sequence[views.KindView]:
        return [self.kind(name) for name in sorted(self.kinds_)]

    # ---- what becomes of a bot

    def _up(self, bot: model.Bot) -> views.BotView:
        run_id = len(self.runs_) + 1
        pid = 1000 + run_id
        at = BEGAN + 1_000_000 * (run_id - 1)
        self.runs_.append(
            model.Run(
                run_id=run_id,
                bot_id=bot.bot_id,
                kind=bot.kind,
                params=bot.params,
                identity=model.Identity(pid=pid, start_ticks=1, inode=1, boot_id="b"),
                started_at=at,
                ready_at=at + 1,
                ended_at=None,
                exit_code=None,
                signal=None,
                cause=None,
                detail="",
                cpu_seconds=None,
                max_rss_bytes=None,
                descendants_killed=0,
                log_start=100,
                log_end=None,
            )
        )
        bot = dataclasses.replace(bot, goal=model.Goal.UP, state=model.State.RUNNING, reason="it said that it is ready")
        live = views.LiveView(
            pid=pid,
            run_id=run_id,
            started_at=at,
            ready_at=at + 1,
            uptime_s=1.5,
            cpu_percent=0.5,
            rss_bytes=2_000_000,
            threads=1,
            descendants=0,
            heartbeat_age_s=None,
            status=None,
            frozen=False,
        )
        return views.BotView(bot=bot, reason=bot.reason, live=live)

    def _down(self, view: views.BotView) -> views.BotView:
        if view.live is None:
            return view
        run = self.runs_[view.live.run_id - 1]
        ended_at = run.started_at + 500_000
        self.runs_[run.run_id - 1] = dataclasses.replace(
            run,
            ended_at=ended_at,
            exit_code=0,
            cause=model.Cause.STOPPED,
            detail="was stopped (exit code 0)",
            cpu_seconds=0.25,
            max_rss_bytes=3_000_000,
            log_end=160,
            last_lines=("12", "13"),
        )
        bot = dataclasses.replace(
            view.bot,
            goal=model.Goal.DOWN,
            state=model.State.STOPPED,
            reason="was stopped (exit code 0)",
            last_exit=model.LastExit(exit_code=0, signal=None, cause=model.Cause.STOPPED, at=ended_at),
        )
        return views.BotView(bot=bot, reason=bot.reason)
