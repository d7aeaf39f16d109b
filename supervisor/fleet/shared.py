"""What all bots share: the engine, the ledger, and what only so many of them may have at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from supervisor import settings
from supervisor.core.model import Bot, Budget, Params
from supervisor.core.terms import Terms
from supervisor.engine.protocol import Engine
from supervisor.fleet import credentials
from supervisor.fleet.pulse import Pulse
from supervisor.fleet.starts import Starts
from supervisor.metrics import Metrics
from supervisor.store import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """The rooms and the counters of one supervisor, for its bots.

    `kind` says what the settings say of a kind now, also of one that they no longer have; `check` gives the parameters
    of an unchecked bot, and raises BadParams, SpawnFailed, Unavailable, UnknownKind.
    """

    engine: Engine
    ledger: Ledger
    kind: Callable[[str], settings.Kind]
    terms: Callable[[str], Terms]
    check: Callable[[Bot], Awaitable[Params]]
    starts: Starts
    pulse: Pulse
    claims: credentials.Claims
    metrics: Metrics

    def exclusive(self, kind: str, params: Params) -> str | None:
        """The credential with which no other bot may run. Raises SpawnFailed."""
        template = self.kind(kind).exclusive
        return None if template is None else credentials.name(template, params)

    def budget(self, kind: str, params: Params) -> Budget | None:
        """The budget that each start counts for. Raises SpawnFailed."""
        budget = self.kind(kind).budget
        if budget is None:
            return None
        return dataclasses.replace(budget.value, key=credentials.name(budget.key, params))
