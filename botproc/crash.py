"""What is kept of the exception that ended a bot: its type, its message, and a fingerprint of the way to it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import traceback
from collections.abc import Iterator

_MESSAGE_LENGTH = 500
_NOT_THE_BOTS = frozenset({"botproc.bootstrap", "asyncio.runners", "asyncio.base_events"})
"""Modules whose frames stand in the traceback of every bot, and differ between versions."""


def record(error: BaseException, lock: int) -> None:
    """Appends the exception to the bot's lock file, as one line of JSON: `type`, `message` and `fingerprint`.

    It is the second line; the first says whose file it is: "run pid ticks". Never raises: nothing is worth more to
    whoever has to mend the bot than its own exception.
    """
    with contextlib.suppress(Exception):
        first = os.pread(lock, 100, 0).partition(b"\n")[0].split()
        # Bots close descriptors that they know nothing of, and what they fork can raise as well.
        if first[1] != b"%d" % os.getpid():
            return
        values = {"type": _name(error), "message": _message(error), "fingerprint": fingerprint(error)}
        os.pwrite(lock, json.dumps(values).encode() + b"\n", os.fstat(lock).st_size)


def fingerprint(error: BaseException) -> str:
    """16 hex digits, the same for the same way to the same types of exceptions.

    Made of types, modules and functions; of no message, line number or path. Each counts once, so that neither the
    depth of a recursion nor the number of attempts makes a difference.
    """
    return hashlib.sha256("\n".join(dict.fromkeys(_way(error))).encode(errors="backslashreplace")).hexdigest()[:16]


def _way(error: BaseException) -> Iterator[str]:
    """The exception, what it came from, and the first of each group; with the functions that each went through."""
    found: list[BaseException | None] = [error]
    seen: set[int] = set()
    while found:
        one = found.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield _name(one)
        for frame, _ in traceback.walk_tb(one.__traceback__):
            module = frame.f_globals.get("__name__")
            if module not in _NOT_THE_BOTS:
                yield f"{module}:{frame.f_code.co_qualname}"
        found.append(one.__cause__ if one.__suppress_context__ else one.__cause__ or one.__context__)
        if isinstance(one, BaseExceptionGroup):
            found.append(one.exceptions[0])


def _name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as failed:
        text = f"<its text cannot be made: {type(failed).__name__}>"
    return text.encode(errors="backslashreplace").decode()[:_MESSAGE_LENGTH]
