"""What a bot left in its lock file about the exception that ended it.

The first line is that of the lock, "run_id pid start_ticks"; the second is an object of JSON with `type`, `message`
and `fingerprint`. It is the bot's own file: anything can stand there, and what is not such a line tells nothing.
"""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path

from supervisor import logs
from supervisor.core.model import Raised

_FILE_BYTES = 16384
"""More than both lines can have, with each character of the message as an escape of its own."""

_FINGERPRINT = re.compile("[0-9a-f]{1,64}")
_TYPE_LENGTH = 200
_MESSAGE_LENGTH = 500


def read(path: Path, run_id: int) -> Raised | None:
    """The exception that ended this run, None if the file tells of none."""
    lock, _, rest = _head(path).partition(b"\n")
    line, complete, _ = rest.partition(b"\n")
    if not complete or lock.split(b" ")[0] != b"%d" % run_id:
        return None
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    match values:
        case {"type": str(type_), "message": str(message), "fingerprint": str(fingerprint)}:
            if type_ and type_.isprintable() and _FINGERPRINT.fullmatch(fingerprint):
                return Raised(type=type_[:_TYPE_LENGTH], message=_shown(message), fingerprint=fingerprint)
    return None


def _head(path: Path) -> bytes:
    """What the file begins with; nothing where it is none."""
    try:
        # A pipe that the bot has put in its place must not hold us up.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.pread(fd, _FILE_BYTES, 0) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    except OSError:
        return b""
    finally:
        os.close(fd)


def _shown(message: str) -> str:
    """The message, its lines kept, with nothing in it that acts on a terminal or that UTF-8 does not have."""
    text = message[:_MESSAGE_LENGTH].encode(errors="backslashreplace")
    return logs.safe(text).decode()[:_MESSAGE_LENGTH]
