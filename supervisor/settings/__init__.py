"""What the supervisor is told: by TOML, environment and flags."""

from supervisor.settings.program import *  # noqa: F403
