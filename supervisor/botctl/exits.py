"""How botctl ends. Scripts may rely on these."""

from __future__ import annotations

import enum


class Exit(enum.IntEnum):
    """The exit codes."""

    WELL = 0
    NOT_ALL_WELL = 1
    USAGE = 2
    NO_SERVER = 3
    REFUSED = 4
    INTERRUPTED = 130


class Misused(ValueError):
    """The command does not make sense."""


MEANING = {
    Exit.WELL: "all of it was done",
    Exit.NOT_ALL_WELL: "some of it was not done, what was waited for did not come, or the output could not be written",
    Exit.USAGE: "the command was not understood",
    Exit.NO_SERVER: "no supervisor answers",
    Exit.REFUSED: "the supervisor refused",
    Exit.INTERRUPTED: "interrupted with Ctrl-C",
}
