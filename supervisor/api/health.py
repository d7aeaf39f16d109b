"""Whether the supervisor lives, and whether it can do its work."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query
from pydantic import BeforeValidator
from starlette.responses import Response

from supervisor.api import answers, problems
from supervisor.fleet.fleet import Fleet

Flag = Annotated[bool, BeforeValidator(lambda value: value == "" or value), Query()]
"""True also when it has no value: ?verbose."""


class Health:
    """For container engines and load balancers."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    async def livez(self, verbose: Flag = False) -> Response:
        """The supervisor answers."""
        return answers.reply(answers.HEALTH, answers.Health(status="ok", checks={} if verbose else None))

    async def readyz(self, verbose: Flag = False) -> Response:
        """The supervisor can start bots; if not, 503 says why."""
        checks = self.fleet.health()
        wrong = [f"{name}: {what}" for name, what in checks.items() if what is not None]
        shown: dict[str, Any] = {"checks": checks} if verbose else {}
        if wrong:
            return problems.response(
                503, "; ".join(wrong), kind="not-ready", title="The supervisor is not ready", **shown
            )
        return answers.reply(answers.HEALTH, answers.Health(status="ok", checks=checks if verbose else None))
