"""Amounts for people."""

from __future__ import annotations

from datetime import datetime


def size(amount: int | None) -> str:
    """Bytes, as `17.1M`."""
    if amount is None:
        return "-"
    value, units = float(amount), iter("KMGT")
    unit = "B"
    while value >= 1000 and (larger := next(units, None)):
        value, unit = value / 1024, larger
    return f"{value:.0f}{unit}" if unit == "B" or value >= 100 else f"{value:.1f}{unit}"


def duration(seconds: float | None) -> str:
    """Seconds, as `3d04h`: the two largest units."""
    if seconds is None:
        return "-"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def percent(share: float | None) -> str:
    """A share of one processor."""
    return "-" if share is None else f"{share:.1f}%"


def time(at: datetime | None) -> str:
    """A time in the zone of this machine."""
    return "-" if at is None else at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def end(exit_code: int | None, signal: str | None) -> str:
    """How a process ended: a code or a signal."""
    return signal or ("-" if exit_code is None else str(exit_code))
