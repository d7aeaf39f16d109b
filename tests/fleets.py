"""Fleets with processes in memory, and settings that are read again when a test says so."""

from __future__ import annotations

from pathlib import Path

from supervisor import settings
from supervisor.core import errors
from supervisor.core.model import BotQuery, NewBot, Policy, RestartPolicy, State
from supervisor.fleet.catalogue import Catalogue
from supervisor.fleet.fleet import Fleet, Wait
from supervisor.fleet.starts import Rate
from supervisor.metrics import Metrics
from supervisor.store import Ledger
from supervisor.store.secrets import Secrets
from tests.fakes import Behaviour, FakeEngine, NoLogs
from tests.waiting import eventually

ONCE = RestartPolicy(policy=Policy.NEVER)
ALL = frozenset(State)


class World:
    """A fleet, and what the settings would say if they were read now: kinds, or an error."""

    def __init__(self, directory: Path, ledger: Ledger) -> None:
        self.now = {"any": settings.Kind(target="a:b")}
        self.refused: errors.SettingsRefused | None = None
        self.behaviours = {"any": Behaviour()}
        self.engine = FakeEngine(self.behaviours, lambda *told: self.fleet.notified(*told))
        secrets = Secrets(directory / "secrets")
        catalogue = Catalogue(dict(self.now), engine=self.engine, secrets=secrets, rate=Rate(), read=self.read)
        self.fleet = Fleet(
            engine=self.engine,
            ledger=ledger,
            logs=NoLogs(),
            bots_dir=directory / "bots",
            catalogue=catalogue,
            secrets=secrets,
            metrics=Metrics(),
        )

    def read(self) -> dict[str, settings.Kind]:
        if self.refused is not None:
            raise self.refused
        return dict(self.now)

    @property
    def actors(self) -> list[int]:
        """The bots that take memory."""
        return sorted(self.fleet._roster.bot_ids)

    async def make(self, count: int, **fields: str) -> list[int]:
        """Bots that are running."""
        own = {"restart": {"policy": "never"}}
        new = NewBot(kind="any", params={}, restart=ONCE, overrides=own, labels=fields)
        return [(await self.fleet.create(new, wait=Wait.READY)).bot_id for _ in range(count)]

    async def names(self, count: int) -> dict[str | None, State]:
        """Names and states of all bots, once there are so many and none is just being started."""

        async def read() -> dict[str | None, State]:
            return {bot.name: bot.state for bot in await self.fleet.listing.bots(BotQuery(states=ALL))}

        return await eventually(read, lambda bots: len(bots) >= count and State.STARTING not in bots.values())
