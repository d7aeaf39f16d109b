"""The few defaults that must be known before the settings are read."""

from __future__ import annotations

from pathlib import Path

PREFIX = "BOT_SUPERVISOR_"
"""How the names of all settings begin in the environment."""

DATA_DIR = Path("data")
"""The data directory, in the working directory, unless another is set."""
