"""Who may call what. Each check looks at a call before its body is read, and refuses it or has nothing to say."""

from __future__ import annotations

import enum
import hmac
import re
from collections.abc import Callable, Iterable, Sequence

from pydantic import SecretStr
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from supervisor import settings
from supervisor.api import problems

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class Access(enum.Enum):
    """What a route asks of its caller. What is ADMIN changes state, also if it is a GET."""

    OPEN = "open"
    READ = "read"
    ADMIN = "admin"


LevelOf = Callable[[Scope], Access]
"""The access level that a call asks for."""

Check = Callable[[Scope], Response | None]


class Gate:
    """Lets a call through that no check refuses."""

    def __init__(self, app: ASGIApp, checks: Sequence[Check]) -> None:
        self.app = app
        self.checks = checks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for check in self.checks:
            if (refusal := check(scope)) is not None:
                await refusal(scope, receive, send)
                return
        await self.app(scope, receive, send)


class Hosts:
    """The Host must be one of ours: a page whose name was rebound to our address has its own there."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = _hostnames(names)

    def __call__(self, scope: Scope) -> Response | None:
        given = _values(scope, b"host")
        if len(given) == 1 and _hostname(given[0]) in self.names:
            return None
        return problems.response(
            400,
            "the Host header names none of this server's names; see --allowed-hosts",
            kind="foreign-host",
            title="This is not the server that was called",
        )


class Origins:
    """No page of another origin may change state, by form, script or image: browsers say where a call comes from."""

    def __init__(self, level_of: LevelOf, names: Iterable[str]) -> None:
        self.level_of = level_of
        self.names = _hostnames(names)

    def __call__(self, scope: Scope) -> Response | None:
        if scope["method"] in SAFE and self.level_of(scope) is not Access.ADMIN:
            return None
        host = "".join(_values(scope, b"host"))
        origins, sites = _values(scope, b"origin"), _values(scope, b"sec-fetch-site")
        if all(self._ours(origin, host) for origin in origins) and set(sites) <= {"same-origin", "none"}:
            return None
        return problems.response(
            403,
            "a page of another origin may not change anything here",
            kind="foreign-origin",
            title="The call comes from a foreign page",
        )

    def _ours(self, origin: str, host: str) -> bool:
        authority = re.fullmatch(r"https?://(.+)", origin.lower())
        return authority is not None and (authority[1] == host.lower() or _hostname(authority[1]) in self.names)


class Tokens:
    """Bearer tokens with two roles. With none set, everything is allowed: the server then listens on loopback.

    Who calls is put into the scope as `caller`: the role of a token, or "local", or "anyone" in a trusted network.
    """

    def __init__(self, level_of: LevelOf, admin: SecretStr | None, read: SecretStr | None) -> None:
        self.level_of = level_of
        self.roles = [
            (token.get_secret_value().encode(), role)
            for token, role in ((admin, Access.ADMIN), (read, Access.READ))
            if token is not None
        ]

    def __call__(self, scope: Scope) -> Response | None:
        level = self.level_of(scope)
        if not self.roles:
            client = scope["client"]
            scope["caller"] = "local" if client is None or settings.is_loopback(client[0]) else "anyone"
            return None
        if level is Access.OPEN:
            return None
        role = self._role(scope)
        if role is None:
            return problems.response(
                401,
                "this needs the header Authorization: Bearer <token>",
                kind="unauthorized",
                title="There is no valid token",
                headers={"WWW-Authenticate": "Bearer"},
            )
        scope["caller"] = role.value
        if level is Access.ADMIN and role is not Access.ADMIN:
            return problems.response(
                403, "this token may only read", kind="forbidden", title="The token allows too little"
            )
        return None

    def _role(self, scope: Scope) -> Access | None:
        given = _values(scope, b"authorization")
        scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        # Every token is compared, whatever the outcome, so that the time says nothing.
        matches = [role for known, role in self.roles if hmac.compare_digest(token.encode("latin-1"), known)]
        return matches[0] if matches and scheme.lower() == "bearer" else None


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def _hostnames(names: Iterable[str]) -> frozenset[str]:
    return frozenset(map(_hostname, names)) - {""}


def _hostname(authority: str) -> str:
    """The lower-case name of `name`, `name:port`, `[::1]` or `[::1]:port`; empty for anything else."""
    matched = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^\[\]:/@\s]+)(:\d{1,5})?", authority.lower())
    return matched[1] if matched else ""
