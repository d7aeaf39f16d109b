"""Bots in a ledger, for tests that need some."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from supervisor.core import model
from supervisor.store import Ledger

EACH_LEDGER = pytest.mark.parametrize("ledger", ["file", "memory"], indirect=True)
"""For tests of what the real ledger and that of the simulation have in common."""


async def create_bot(
    ledger: Ledger, new: model.NewBot, *, idempotency: model.Idempotency | None = None
) -> tuple[model.Bot, bool]:
    """A bot without a run, and whether it was made now."""
    [(bot, _)], created = await ledger.create_bots(new, started_at=None, idempotency=idempotency)
    return bot, created


async def create_bots(ledger: Ledger, news: Iterable[model.NewBot]) -> list[model.Bot]:
    """Different bots, each without a run."""
    return [(await create_bot(ledger, new))[0] for new in news]


async def create_bot_and_run(
    ledger: Ledger, new: model.NewBot, *, started_at: int, **how: Any
) -> tuple[model.Bot, int | None, bool]:
    """A bot, the id of its run, and whether it was made now."""
    [(bot, run_id)], created = await ledger.create_bots(new, started_at=started_at, **how)
    return bot, run_id, created


def make_earlier(path: Path) -> Path:
    """A ledger of version 0.1.0, as it was left by a supervisor that was killed."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript((Path(__file__).parent / "fixtures" / "ledger-0.1.0.sql").read_text())
    return path
