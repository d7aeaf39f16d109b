"""The schema of the ledger as numbered steps, each of them applied once and in a transaction.

A step imports nothing of the application: it must still do the same when the application has moved on.
"""

from pathlib import Path

DIRECTORY = Path(__file__).parent
