"""The ledger: every bot, every run and every event, in one SQLite file."""

from supervisor.store.ledger import Ledger

__all__ = ["Ledger"]
