"""Moments: microseconds since the epoch, UTC, as the ledger keeps them. In other forms, and back."""

from __future__ import annotations

import functools
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def utc(moment: int) -> datetime:
    return _EPOCH + timedelta(microseconds=moment)


def of(time: datetime) -> int:
    """The moment of a time that has a zone."""
    return (time - _EPOCH) // timedelta(microseconds=1)


@functools.lru_cache(maxsize=8192)  # The list of all bots shows the same ones again and again: a tenth of its time.
def rfc3339(moment: int) -> str:
    """Always with six digits and Z."""
    return utc(moment).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
