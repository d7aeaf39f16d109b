"""The calls on kinds."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path
from starlette.responses import Response

from supervisor.api import answers, problems, requests
from supervisor.core import errors
from supervisor.fleet.fleet import Fleet


class Kinds:
    """What can be started."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    async def list_kinds(self) -> Response:
        """The kinds that can be started."""
        return answers.reply(answers.KINDS, answers.Kinds(kinds=self.fleet.catalogue.kinds()))

    async def get_kind(self, name: Annotated[requests.Name, Path()]) -> Response:
        """One kind: the schema of its parameters, its defaults, and how its zygote is."""
        try:
            kind = self.fleet.catalogue.kind(name)
        except errors.UnknownKind as unknown:
            return problems.of(unknown, status=404)
        return answers.reply(answers.KIND, kind)

    async def reload_kinds(self, _: requests.Nothing | None = None) -> Response:
        """Read the kinds again, from the settings file and from what is installed. Bots that run are not touched."""
        return answers.reply(answers.RELOADED, await self.fleet.reload_kinds())

    async def reload_kind(self, name: Annotated[requests.Name, Path()], _: requests.Nothing | None = None) -> Response:
        """Import the code of a kind again, for later starts; answered once that is done."""
        try:
            return answers.reply(answers.KIND, await self.fleet.reload_kind(name))
        except errors.UnknownKind as unknown:
            return problems.of(unknown, status=404)
