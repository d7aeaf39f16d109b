"""What is kept no longer: old runs, and what forgotten bots have left on the disk. Looked for now and then."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from supervisor.core import errors
from supervisor.core.model import now_us
from supervisor.engine.protocol import Logs
from supervisor.store import Ledger

log = logging.getLogger(__name__)

FIRST_S = 5.0
"""After boot: the bots come first."""
EVERY_S = 3600.0
BATCH = 200
"""Runs that are deleted in one transaction, with some four events each: that holds up other writes for 15 ms."""
PAUSE_S = 0.1
"""Between batches, for the writes and reads of others."""

_DAY_US = 86_400 * 10**6


class Retention:
    """Deletes what need not be kept, a little at a time; see `run`."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        logs: Logs,
        bots_dir: Path,
        keep_runs_days: float | None,
        keep_runs: int | None,
    ) -> None:
        """`keep_runs_days`: after its end; `keep_runs`: the newest of each bot. None: for ever."""
        self._ledger = ledger
        self._logs = logs
        self._bots_dir = bots_dir
        self._keep_runs_days = keep_runs_days
        self._keep_runs = keep_runs

    async def run(self) -> None:
        """Goes on until it is cancelled.

        What cannot be done, in an outage of the ledger or without descriptors, is done the next time.
        """
        await asyncio.sleep(FIRST_S)
        while True:
            try:
                await self.prune()
            except errors.LedgerUnavailable as outage:
                log.warning("old runs are not deleted now: %s", outage.detail, extra={"action": "retention-put-off"})
            except OSError as error:
                log.warning(
                    "cannot look for what forgotten bots left: %s", error, extra={"action": "retention-put-off"}
                )
            await asyncio.sleep(EVERY_S)

    async def prune(self) -> int:
        """Deletes all that is not to be kept now; how many runs. Raises LedgerUnavailable."""
        deleted = 0
        async for run_ids in self._unwanted():
            deleted += await self._ledger.delete_runs(run_ids)
            await asyncio.sleep(PAUSE_S)
        if deleted:
            log.info("deleted %d runs that are not to be kept", deleted, extra={"action": "retention"})
        await self._sweep()
        return deleted

    async def _unwanted(self) -> AsyncIterator[list[int]]:
        """Runs that are too old, or too many of their bot. To be deleted before more are asked for."""
        if self._keep_runs_days is not None:
            ended_before = now_us() - int(self._keep_runs_days * _DAY_US)
            after: int | None = 0
            while after is not None:
                old, after = await self._ledger.old_runs(ended_before, after=after, limit=BATCH)
                if old:
                    yield old
        if self._keep_runs is not None:
            for bot_id in await self._ledger.crowded_bots(self._keep_runs):
                while surplus := await self._ledger.surplus_runs(bot_id, self._keep_runs, limit=BATCH):
                    yield surplus

    async def _sweep(self) -> None:
        """Logs and data of bots that a supervisor forgot, and died before it had deleted them.

        What is of a bot that the ledger does not know stays: the ledger may be one from a backup.
        """
        left = await asyncio.to_thread(lambda: self._logs.bots() | _bots_in(self._bots_dir))
        for bot_id in await self._ledger.forgotten_bots(sorted(left)):
            self._logs.delete(bot_id)
            await asyncio.to_thread(shutil.rmtree, self._bots_dir / str(bot_id), ignore_errors=True)


def _bots_in(bots_dir: Path) -> set[int]:
    """The bots that have data of their own."""
    return {int(path.name) for path in bots_dir.glob("*") if path.name.isascii() and path.name.isdecimal()}
