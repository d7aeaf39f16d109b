"""The command that makes a file of tokens: `bot-supervisor token`."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from supervisor.core import errors


def token(file: Path, *, show: bool) -> int:
    """Make a file with new tokens and say how to use it. Returns the exit code; raises SettingsRefused."""
    lines = make(file)
    print(f"made {file}, which only you can read; use it with: bot-supervisor --token-file {file}")
    print("clients send one of its tokens with each call, as the header Authorization: Bearer <token>")
    if show:
        print(lines, end="")
    return 0


def make(file: Path) -> str:
    """Write an admin token and a read token into a new file of mode 0600, and return its lines.

    Raises SettingsRefused where there is such a file already, or where it cannot be written.
    """
    lines = "".join(f'{role} = "{secrets.token_urlsafe(32)}"\n' for role in ("admin", "read"))
    try:
        # A link that waits there is not followed either.
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise errors.SettingsRefused(f"{file} is there already, and is left as it is; name another file") from None
    except OSError as error:
        raise errors.SettingsRefused(f"cannot make {file}: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "w") as new:
            os.fchmod(descriptor, 0o600)  # The umask may have taken more away.
            new.write(lines)
    except OSError as error:
        file.unlink()
        raise errors.SettingsRefused(f"cannot write {file}: {error.strerror}") from None
    return lines
