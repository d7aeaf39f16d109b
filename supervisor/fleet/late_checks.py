"""The parameters of bots that were made while their kinds could not be imported: checked once they can be.

Until then nobody knows which of them are secrets, so that all are kept as such. A start checks those of its bot
(`fleet.launch`); here all of them are, when kinds have been read or imported again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from supervisor.background import Background
from supervisor.core import errors, events
from supervisor.core.model import Bot
from supervisor.fleet.catalogue import Catalogue
from supervisor.fleet.roster import Roster
from supervisor.store import Ledger
from supervisor.store.secrets import Secrets

log = logging.getLogger(__name__)


class LateChecks:
    """Checks what could not be checked before."""

    def __init__(self, catalogue: Catalogue, ledger: Ledger, roster: Roster, secrets: Secrets) -> None:
        self._catalogue = catalogue
        self._ledger = ledger
        self._roster = roster
        self._secrets = secrets
        self._background = Background()

    def begin(self) -> None:
        """Check the bots of all kinds, in the background: some may have to be imported first."""
        self._background.start(self.run(), name="late checks")

    def close(self) -> None:
        """Check no more."""
        self._background.cancel()

    async def run(self, kind: str | None = None) -> None:
        """Check the bots of one kind, or of all that there are."""
        try:
            unchecked = await self._ledger.unchecked_bots()
        except errors.LedgerUnavailable as unavailable:
            log.warning("cannot check parameters before the next start or reload: %s", unavailable.detail)
            return
        kinds = {bot.kind for bot in unchecked if kind in (None, bot.kind)}
        checked = [await self._check([bot for bot in unchecked if bot.kind == one]) for one in sorted(kinds)]
        if any(checked):
            await self._secrets.sweep(self._ledger.params_with_secrets)

    async def _check(self, bots: Sequence[Bot]) -> int:
        """Check bots of one kind; of how many the parameters are good."""
        good = 0
        for bot in bots:
            try:
                params = await self._catalogue.check(bot)
            except (errors.SpawnFailed, errors.UnknownKind, errors.Unavailable):
                # It still cannot be imported, as its next start will say.
                break
            except errors.BadParams as refused:
                log.warning("bot-%d cannot start: %s", bot.bot_id, refused.detail)
                continue
            self._ledger.set_params(bot.bot_id, params)
            if (actor := self._roster.find(bot.bot_id)) is not None:
                actor.post(events.Checked(params))
            good += 1
        return good
