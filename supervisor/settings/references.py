"""Files and references that the settings name: TOML, tokens, and secrets that are found elsewhere."""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic import SecretStr

from botproc import wire
from supervisor.core import errors


def absolute(path: Path) -> Path:
    return path.expanduser().absolute()


AbsolutePath = Annotated[Path, pydantic.AfterValidator(absolute)]


def _found(given: Any) -> Any:
    """What `env:NAME` or `file:/path` refers to; anything else as it is. The errors name no value."""
    reference = wire.REFERENCE.fullmatch(given) if isinstance(given, str) else None
    if reference is None:
        return given
    if variable := reference["variable"]:
        if variable not in os.environ:
            raise ValueError(f"there is no variable {variable} in the environment")
        return os.environ[variable]
    if path := reference["path"]:
        try:
            return Path(path).read_text(encoding="utf-8").removesuffix("\n")
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from None
        except ValueError:
            raise ValueError(f"{path} is not UTF-8 text") from None
    raise ValueError("it names what is kept for bots; give a value, env:NAME or file:/path")


Found = Annotated[SecretStr, pydantic.BeforeValidator(_found)]
"""A secret, or where it is found: looked up when the settings are read."""


def _sendable(token: SecretStr) -> SecretStr:
    text = token.get_secret_value()
    if not (text.isascii() and text.isprintable()):
        raise ValueError("a token is made of visible ASCII characters")
    if not text or " " in text:
        raise ValueError("a token is neither empty nor has it spaces")
    return token


Token = Annotated[SecretStr, pydantic.AfterValidator(_sendable)]
"""A bearer token, as a header can carry it."""


def table(path: Path) -> dict[str, Any]:
    """What a TOML file says. Raises SettingsRefused."""
    text = ""
    try:
        # Editors of some systems write a byte order mark first.
        text = path.read_text(encoding="utf-8-sig")
        return tomllib.loads(text)
    except OSError as error:
        raise errors.SettingsRefused(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        what = str(error).replace("at end of document", f"at its end, line {len(text.splitlines())}")
        raise errors.SettingsRefused(f"{path}: is not TOML: {what}") from None


def tokens(path: Path) -> dict[str, str]:
    """The tokens of a file that nobody else can read."""
    found = table(path)
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise errors.SettingsRefused(f"{path}: others can read these tokens; mend it with: chmod 600 {path}")
    if not found or not found.keys() <= {"admin", "read"} or not all(isinstance(t, str) for t in found.values()):
        raise errors.SettingsRefused(f'{path}: must have the lines admin = "…" and, if wanted, read = "…", no others')
    return {f"{role}_token": token for role, token in found.items()}
