"""What the supervisor is told: by flags, environment and a TOML file."""

from supervisor.core.defaults import PREFIX
from supervisor.settings.kinds import (
    COUNTER,
    ENTRY_POINTS,
    GONE,
    TERMS_OF_GONE,
    Budget,
    Kind,
    Limits,
    Restart,
    Schedule,
    Seconds,
)
from supervisor.settings.program import Flags, Settings, is_loopback, read

__all__ = [
    "COUNTER",
    "ENTRY_POINTS",
    "GONE",
    "PREFIX",
    "TERMS_OF_GONE",
    "Budget",
    "Flags",
    "Kind",
    "Limits",
    "Restart",
    "Schedule",
    "Seconds",
    "Settings",
    "is_loopback",
    "read",
]
