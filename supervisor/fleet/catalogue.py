"""The kinds: what the settings say of each, what its code takes, and how both are read again."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from supervisor import settings
from supervisor.core import errors, params
from supervisor.core.model import Bot, NewBot, Params
from supervisor.core.table import Step
from supervisor.core.terms import Terms
from supervisor.core.views import KindView, Reloaded
from supervisor.engine.protocol import Engine
from supervisor.fleet.starts import Rate
from supervisor.store.secrets import Secrets

log = logging.getLogger(__name__)


class Catalogue:
    """The kinds of one supervisor."""

    def __init__(
        self,
        kinds: Mapping[str, settings.Kind],
        *,
        engine: Engine,
        secrets: Secrets,
        rate: Rate,
        read: Callable[[], Mapping[str, settings.Kind]],
    ) -> None:
        """`rate` limits the starts of all kinds together; `read` reads the settings again. Raises SettingsRefused."""
        self._kinds = kinds
        self._engine = engine
        self._secrets = secrets
        self._rate = rate
        self._read = read
        self._reloading = asyncio.Lock()

    # ---- what the settings say

    @property
    def names(self) -> Sequence[str]:
        """All kinds, sorted."""
        return sorted(self._kinds)

    def spec(self, kind: str) -> settings.Kind:
        """What the settings say of a kind, also of one that they no longer have."""
        return self._kinds.get(kind, settings.GONE)

    def terms(self, kind: str) -> Terms:
        """The terms of a kind, also of one that the settings no longer have."""
        return self._kinds[kind].terms if kind in self._kinds else settings.TERMS_OF_GONE

    def rate_of(self, kind: str | None) -> Rate:
        """How fast bots of a kind may start; None: all bots together."""
        if kind is None:
            return self._rate
        spec = self.spec(kind)
        return Rate(at_once=spec.starts_at_once, per_s=spec.starts_per_s)

    def defaults(self, kind: str) -> settings.Kind:
        """What the settings say of a kind. Raises UnknownKind."""
        try:
            return self._kinds[kind]
        except KeyError:
            known = ", ".join(self.names)
            raise errors.UnknownKind(f"there is no kind {kind!r}; there are: {known}") from None

    def refuse_gone(self, verb: Step, bots: Sequence[Bot]) -> None:
        """Raise KindGone if the settings no longer have the kinds of all these bots, which are to be started."""
        gone = [bot for bot in bots if bot.kind not in self._kinds]
        if gone:
            which = f"bot {gone[0].bot_id}" if len(gone) == 1 else f"{len(gone)} bots"
            kinds = ", ".join(sorted({bot.kind for bot in gone}))
            raise errors.KindGone(
                f"cannot {verb} {which}: the settings no longer have the kind {kinds}; "
                "put it back and reload the kinds, or delete what nobody needs",
                bot_id=gone[0].bot_id if len(gone) == 1 else None,
            )

    @property
    def instances(self) -> Mapping[str, int]:
        """How many bots the settings want of each kind."""
        return {name: spec.instances for name, spec in self._kinds.items()}

    # ---- what the code takes

    @contextlib.asynccontextmanager
    async def checked(self, new: NewBot) -> AsyncIterator[NewBot]:
        """The bot with the defaults of its parameters filled in and their secrets put away, to be made in the block.

        Waits until the kind is imported. Of one that cannot be, nothing is known: its parameters pass unchecked, each
        word of them as a secret, and its start will say what is wrong. Raises UnknownKind, BadParams, Unavailable.
        """
        try:
            async with asyncio.timeout(self.defaults(new.kind).start_timeout_s):
                takes = await self._engine.warm(new.kind)
        except (TimeoutError, errors.SpawnFailed):
            with self._secrets.kept(new.params, new.params.keys()) as kept:
                yield dataclasses.replace(new, params=kept, unchecked=True)
            return
        with self._secrets.kept(new.params, params.secret_names(takes.params, takes.schema)) as kept:
            yield dataclasses.replace(new, params=await self._check(new.kind, kept))

    async def check(self, bot: Bot) -> Params:
        """The parameters of an unchecked bot, checked: those that are no secrets come out of hiding.

        Raises UnknownKind, BadParams, Unavailable, and SpawnFailed while the kind cannot be imported.
        """
        self.defaults(bot.kind)
        takes = await self._engine.warm(bot.kind)
        given = self._secrets.plain(bot.params, params.secret_names(takes.params, takes.schema))
        return await self._check(bot.kind, given)

    async def _check(self, kind: str, given: Params) -> Params:
        try:
            async with asyncio.timeout(self.defaults(kind).start_timeout_s):
                return await self._engine.check(kind, given)
        except (TimeoutError, errors.SpawnFailed) as error:
            raise errors.Unavailable(f"the parameters could not be checked: {error or 'it took too long'}") from None

    def kind(self, name: str) -> KindView:
        """One kind. Raises UnknownKind."""
        spec, warmth = self.defaults(name), self._engine.kind_status(name)
        return KindView(
            name=name,
            target=spec.target,
            command=spec.command,
            description=spec.description or warmth.description,
            params_schema=warmth.schema or (None if warmth.params is None else params.schema(name, warmth.params)),
            restart=spec.restart_policy,
            grace_s=spec.grace_s,
            start_timeout_s=spec.start_timeout_s,
            heartbeat_s=spec.heartbeat_s,
            limits=spec.default_limits,
            limits_note=warmth.limits_note,
            schedule=spec.schedule.value if spec.schedule else None,
            budget=spec.budget.value if spec.budget else None,
            exclusive=spec.exclusive,
            instances=spec.instances,
            start_method=warmth.start_method,
            warm=warmth.warm,
            reason=warmth.reason,
            zygote_pid=warmth.pid,
            import_s=warmth.import_s,
            rss_bytes=warmth.rss_bytes,
        )

    def kinds(self) -> Sequence[KindView]:
        """All kinds, by name."""
        return [self.kind(name) for name in self.names]

    def params_schemas(self) -> Mapping[str, Mapping[str, Any] | None]:
        """The JSON Schemas of the kinds' parameters, by name; None where a kind has not been imported yet."""
        return {name: self.kind(name).params_schema for name in self.names}

    # ---- reading again

    async def reload(self) -> Reloaded:
        """Read the settings of the kinds again, for later starts; bots that run are not touched.

        Raises NotReloaded, and then nothing has changed.
        """
        async with self._reloading:
            try:
                kinds = await asyncio.to_thread(self._read)
            except errors.SettingsRefused as refused:
                raise errors.NotReloaded(refused.detail) from None
            before, self._kinds = self._kinds, kinds
            self._engine.set_kinds(kinds)
        reloaded = Reloaded(
            added=sorted(kinds.keys() - before.keys()),
            changed=sorted(name for name in kinds.keys() & before.keys() if kinds[name] != before[name]),
            removed=sorted(before.keys() - kinds.keys()),
        )
        changes = {"added": reloaded.added, "changed": reloaded.changed, "removed": reloaded.removed}
        told = [f"{what} {', '.join(names)}" for what, names in changes.items() if names]
        log.info("kinds read again: %s", "; ".join(told) or "nothing has changed")
        return reloaded

    async def reload_kind(self, name: str) -> KindView:
        """Import the code of a kind again, for later starts. Raises UnknownKind; NotReloaded, and then the code from
        before goes on."""
        start_timeout_s = self.defaults(name).start_timeout_s
        try:
            async with asyncio.timeout(start_timeout_s):
                await self._engine.reload(name)
        except errors.SpawnFailed as error:
            raise errors.NotReloaded(error.detail) from None
        except TimeoutError:
            raise errors.NotReloaded(f"the kind {name} was not imported within {start_timeout_s:g} s") from None
        return self.kind(name)
