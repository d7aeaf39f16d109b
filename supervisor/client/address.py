"""Where the supervisor is, and what it is told so that it listens: a URL, a token."""

from __future__ import annotations

import codecs
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

import httpx

DEFAULT_URL = "http://127.0.0.1:8000"
URL, TOKEN, TOKEN_FILE = "BOT_SUPERVISOR_URL", "BOT_SUPERVISOR_TOKEN", "BOT_SUPERVISOR_TOKEN_FILE"


def url(given: str | None) -> str:
    """The URL that is called: what is given, else that of the environment, else loopback."""
    return given or os.environ.get(URL) or DEFAULT_URL


def options(where: str) -> tuple[dict[str, Any], str | None]:
    """The options of an httpx client for this URL, and the path of the unix socket to connect to, if it is one.

    Raises ValueError for what is no URL.
    """
    path = where.removeprefix("unix:") if where.startswith("unix:") else None
    try:
        base = httpx.URL("http://localhost" if path else where)
    except httpx.InvalidURL as invalid:
        raise ValueError(f"{where!r} is no URL: {invalid}") from None
    if base.scheme not in ("http", "https") or not base.host:
        raise ValueError(f"{where!r} is no URL: it begins with http://, https:// or unix:/")
    return {
        "base_url": base,
        # One connection for each log that is followed.
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=20),
        # A proxy that leads to the internet does not lead to this machine.
        "trust_env": path is None and base.host not in ("127.0.0.1", "localhost", "::1"),
    }, path


def headers(token: str | None) -> dict[str, str]:
    """The header with the token, if there is one: what is given, else that of the environment, else of the file that
    BOT_SUPERVISOR_TOKEN_FILE names. Raises ValueError where the file cannot be used."""
    file = os.environ.get(TOKEN_FILE)
    token = token or os.environ.get(TOKEN) or (_of_file(Path(file)) if file else None)
    if token is None:
        return {}
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise ValueError("a token is made of visible ASCII characters")
    return {"Authorization": f"Bearer {token}"}


def _of_file(path: Path) -> str:
    """The token in a file that nobody else can read: a line, or the admin token (else the read token) of a file that
    `bot-supervisor token` has made."""
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ValueError(f"{path}: others can read this token; mend it with: chmod 600 {path}")
        # Editors of some systems write a byte order mark first.
        text = path.read_bytes().removeprefix(codecs.BOM_UTF8).decode("ascii").strip()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: a token is made of visible ASCII characters") from None
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return text
    token = table.get("admin") or table.get("read")
    if not isinstance(token, str):
        raise ValueError(f"{path}: there is no token in it")
    return token
