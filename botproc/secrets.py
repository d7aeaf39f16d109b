"""Parameters that say where their value is found. It is read in the bot's process, and known nowhere else.

`env:NAME` is a variable of the bot's environment, `file:/run/secrets/token` the content of a file, and
`secret:` with 32 hex digits a file that the supervisor keeps.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from botproc import wire


def is_reference(value: object) -> bool:
    """Whether the value of a parameter says where another is found."""
    return isinstance(value, str) and wire.REFERENCE.fullmatch(value) is not None


class Unresolved(Exception):
    """A parameter refers to what cannot be read. Its text names both, and no value."""


def resolve(params: Mapping[str, Any], secrets_dir: str) -> dict[str, Any]:
    """The parameters, with what they refer to in the place of each string that is a reference.

    One newline at the end of a file is left out. Raises Unresolved.
    """
    return {
        name: _value(name, given, secrets_dir) if isinstance(given, str) else given for name, given in params.items()
    }


def _value(name: str, given: str, secrets_dir: str) -> str:
    reference = wire.REFERENCE.fullmatch(given)
    if reference is None:
        return given
    if variable := reference["variable"]:
        if variable not in os.environ:
            raise Unresolved(f"the parameter {name}: {given}: there is no such variable in the bot's environment")
        return os.environ[variable]
    path = Path(reference["path"] or Path(secrets_dir, reference["key"]))
    try:
        content = path.read_bytes().decode()
    except OSError as error:
        raise Unresolved(f"the parameter {name}: {given}: {error.strerror}") from None
    except ValueError:
        raise Unresolved(f"the parameter {name}: {given}: its content is not UTF-8 text") from None
    # A file that somebody wrote ends in a newline; what the supervisor keeps is as it was given.
    return content if reference["key"] else content.removesuffix("\n")
